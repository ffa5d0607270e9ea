"""Intervals: cover what they should, shrink with the data, pair what belongs together."""

import numpy as np
import pytest

from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.metric import mean_of, ratio


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    low, high = Bootstrap(2000, rounds=2000, seed=1).interval(mean_of(values), ratio)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_about_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        low, high = Bootstrap(80, rounds=300, seed=trial).interval(mean_of(rng.exponential(1.0, size=80)), ratio)
        hits += low <= 1 <= high
    assert 176 <= hits <= 199


def test_the_seed_decides_and_shared_resamples_pair_differences():
    x = np.random.default_rng(3).normal(size=200)
    statistics = np.stack([x, x + 1e-3, np.ones(200)], axis=1)
    bootstrap = Bootstrap(200, rounds=200, seed=4)
    assert bootstrap.interval(mean_of(x), ratio) == Bootstrap(200, rounds=200, seed=4).interval(mean_of(x), ratio)
    assert bootstrap.interval(mean_of(x), ratio) != Bootstrap(200, rounds=200, seed=5).interval(mean_of(x), ratio)
    low, high = bootstrap.interval(statistics, lambda s: (s[..., 1] - s[..., 0]) / s[..., 2])
    assert low == pytest.approx(1e-3)
    assert high == pytest.approx(1e-3)


def test_documents_are_resampled_not_their_tokens():
    nats, tokens = np.array([10.0, 1.0]), np.array([1.0, 10.0])
    low, high = Bootstrap(2, rounds=500, seed=0).interval(np.stack([nats, tokens], axis=1), ratio)
    assert (low, high) == (0.1, 10.0)


def test_no_resamples_no_interval_and_no_invented_number():
    assert Bootstrap(5, rounds=0).interval(mean_of(np.ones(5)), ratio) is None
    with pytest.raises(ValueError, match="finite"):
        Bootstrap(2, rounds=50, seed=0).interval(np.array([[1.0, 1.0], [0.0, 0.0]]), ratio)
    with pytest.raises(ValueError, match="document"):
        Bootstrap(0)
