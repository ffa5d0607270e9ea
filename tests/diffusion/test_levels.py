"""Noise levels: the range of random times between two levels, and what stays as it was."""

from __future__ import annotations

import pytest
import torch

from lgdlm.diffusion.times import Level, Uniform, Widening
from lgdlm.rng import Rng

LEVELS = (Level(100, 0.3, 0.5), Level(200, 0.2, 0.9), Level(400, 0.0, 1.0))


def rng(step: int, rows: int = 500) -> Rng:
    return Rng(3, step, torch.arange(rows))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(1, (0.3, 0.5)), (100, (0.3, 0.5)), (150, (0.25, 0.7)), (200, (0.2, 0.9)), (300, (0.1, 0.95)), (400, (0, 1)), (9999, (0, 1))],
)
def test_the_range_moves_on_lines_between_levels(step: int, expected: tuple[float, float]):
    assert Widening(LEVELS).range_at(step) == pytest.approx(expected)


@pytest.mark.parametrize("clock", ["text", "latent"])
@pytest.mark.parametrize("step", [1, 150, 300])
def test_times_fill_the_range_evenly(step: int, clock: str):
    low, high = Widening(LEVELS).range_at(step)
    t = Widening(LEVELS)(rng(step), clock)
    assert t.dtype == torch.float32
    assert low < float(t.min()) < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < float(t.max()) <= high
    assert float(t.double().mean()) == pytest.approx((low + high) / 2, abs=4e-3)


@pytest.mark.parametrize("clock", ["text", "latent"])
def test_behind_the_last_level_of_all_times_nothing_is_changed(clock: str):
    assert torch.equal(Widening(LEVELS)(rng(500), clock), Uniform()(rng(500), clock))


def test_a_constant_level_is_a_range():
    t = Widening((Level(0, 0.6, 0.7),))(rng(5), "text")
    assert 0.6 < float(t.min()) < float(t.max()) <= 0.7


@pytest.mark.parametrize(
    "levels",
    [(), (Level(0, 0.5, 0.5),), (Level(0, 0.5, 0.4),), (Level(0, -0.1, 0.4),), (Level(0, 0, 1.1),), (Level(5, 0, 1), Level(5, 0, 0.5))],
)
def test_what_is_no_curriculum_is_refused(levels: tuple[Level, ...]):
    with pytest.raises(ValueError, match="noise_levels"):
        Widening(levels)
