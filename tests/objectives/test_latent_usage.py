"""Active units and mutual information against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lgdlm.models.posterior import Posterior
from lgdlm.objectives.latent_usage import active_units, moments, mutual_information
from lgdlm.rng import Rng


def posterior(spread: list[float], sigma: list[float], rows: int = 400) -> Posterior:
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(rows, 1, len(spread), generator=g) * torch.tensor(spread)
    return Posterior(mean, (2 * torch.tensor(sigma).log()).expand_as(mean).clone())


def test_a_dimension_counts_where_texts_differ_in_it() -> None:
    q = posterior([1.0, 0.0, 0.05, 0.5], [0.3, 1.0, 1.0, 1.0])
    assert active_units(moments(q).sum(axis=0)) == 2


def test_the_count_does_not_depend_on_scale_or_place() -> None:
    q = posterior([1.0, 0.0, 0.2], [0.3, 1.0, 1.0])
    there = Posterior(q.mean * 100 + 7, q.log_variance + 2 * math.log(100))
    assert active_units(moments(there).sum(axis=0)) == active_units(moments(q).sum(axis=0)) == 2


def test_moments_add_up_over_parts_and_resamples() -> None:
    q = posterior([1.0, 0.0], [0.3, 1.0])
    rows = moments(q)
    assert rows.shape == (400, 7)
    several = np.stack([rows.sum(axis=0), rows[:200].sum(axis=0)])
    assert active_units(several).tolist() == [1, 1]


def information(q: Posterior) -> float:
    return float(mutual_information(q, q.draw(Rng(0, 0, torch.arange(len(q.mean))))).mean())


def test_a_collapsed_posterior_says_nothing() -> None:
    assert information(posterior([0.0, 0.0], [1.0, 1.0])) == pytest.approx(0.0, abs=1e-9)


def test_texts_far_apart_are_told_apart_and_no_more() -> None:
    """At most log n: the estimate never claims what it could not have seen."""
    q = posterior([100.0] * 8, [0.01] * 8)
    assert information(q) == pytest.approx(math.log(400), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_gaussians_have_their_known_information(sigma: float) -> None:
    """mu ~ N(0, 1), z = mu + sigma e: I = log(1 + 1 / sigma^2) / 2."""
    q = posterior([1.0], [sigma], rows=3000)
    assert information(q) == pytest.approx(0.5 * math.log(1 + sigma**-2), abs=0.06)
