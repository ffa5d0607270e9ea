"""Time policies: in range, float32, evenly spread, and the same however the global batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import star_discrepancy

from lgdlm.diffusion.times import CLOCKS, TIME_POLICIES, Clean, Full, Uniform
from lgdlm.rng import Rng


def rng(rows: int = 256, step: int = 0, first: int = 0) -> Rng:
    return Rng(11, step, torch.arange(first, first + rows))


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("policy", [Clean(), Full(), Uniform()])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
def test_a_clock_is_float32_whatever_the_default(policy, clock, default):
    """Trap: half-precision times merge neighbours (bfloat16 knows 256 times between 0.5 and 1)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        t = policy(rng(), clock)
    finally:
        torch.set_default_dtype(before)
    assert t.dtype == torch.float32
    assert t.shape == (256,)


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_ends(clock):
    assert (Clean()(rng(), clock) == 0).all()
    assert (Full()(rng(), clock) == 1).all()


def test_the_names_users_write():
    assert set(TIME_POLICIES) == {"random", "full"}
    assert TIME_POLICIES["random"] == Uniform()
    assert TIME_POLICIES["full"] == Full()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("u", [2.0**-53, 1e-9, 0.5, 1 - 2.0**-53])
def test_uniform_stays_in_its_half_open_interval(monkeypatch, clock, u):
    monkeypatch.setattr(Rng, "stratified", lambda self, purpose, axis=0: torch.full((1,), u, dtype=torch.float64))
    t = float(Uniform()(rng(1), clock))
    assert 0 < t <= 1
    assert t >= {"text": 0.0, "latent": 0.99e-4}[clock]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("size", [16, 64, 512])
def test_one_batch_covers_the_clock_evenly(clock, size):
    """A loss averaged over a batch then hardly depends on the draw of the times."""
    for step in range(5):
        t = Uniform()(rng(size, step), clock).numpy()
        assert star_discrepancy(t) < 6.0 / size
        strata = np.bincount((t * (size // 4)).astype(int).clip(max=size // 4 - 1), minlength=size // 4)
        assert strata.min() >= 1
        assert strata.max() <= 8


@pytest.mark.parametrize("clock", CLOCKS)
def test_means_over_batches_scatter_far_less_than_those_of_independent_times(clock):
    means = np.array([float(Uniform()(rng(64, step), clock).double().mean()) for step in range(300)])
    independent = (1 / 12 / 64) ** 0.5
    assert means.std() < 0.3 * independent
    assert abs(means.mean() - 0.5) < 4 * independent / 300**0.5


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_single_row_is_uniform_over_the_steps(clock):
    """Low discrepancy within a batch must not bias any one row: its expectation is what the bound is about."""
    t = np.array([float(Uniform()(rng(1, step, first=5), clock)) for step in range(2000)])
    assert star_discrepancy(t) < 2.0 / 2000**0.5


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("clock", CLOCKS)
def test_splitting_the_batch_changes_nothing(clock, parts):
    """Ranks and accumulation cut the global batch; the times belong to its rows."""
    whole = Uniform()(rng(64), clock)
    pieces = [Uniform()(rng(64 // parts, first=k * 64 // parts), clock) for k in range(parts)]
    assert torch.equal(torch.cat(pieces), whole)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Uniform()(Rng(11, 0, order), clock), whole[order])


@pytest.mark.parametrize("size", [64, 256])
def test_both_clocks_together_cover_the_square(size):
    for step in range(3):
        pair = np.stack([Uniform()(rng(size, step), clock).numpy().astype(float) for clock in CLOCKS], axis=1)
        independent = [star_discrepancy(np.random.default_rng(seed).random((size, 2))) for seed in range(20)]
        assert star_discrepancy(pair) < 0.7 * np.mean(independent)
        assert star_discrepancy(pair) < min(independent) * 1.1
        # one clock used for both (the wrong way) is a diagonal: a quarter of the square would stay empty
        assert star_discrepancy(pair[:, [0, 0]]) > 0.2
        assert abs(np.corrcoef(pair.T)[0, 1]) < 2 / size**0.5


def test_the_clocks_move_independently_from_step_to_step():
    draws = np.array([[float(Uniform()(rng(1, step), clock)) for clock in CLOCKS] for step in range(2000)])
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / 2000**0.5
    assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 5 / 2000**0.5


def test_random_times_visit_what_a_sampler_visits():
    """Trap: text trained at t = 1 only. The default policy reaches every tenth of the clock within a batch."""
    t = TIME_POLICIES["random"](rng(64), "text")
    assert set((t * 10).long().clamp_max(9).tolist()) == set(range(10))
    assert set(TIME_POLICIES["full"](rng(64), "text").tolist()) == {1.0}
