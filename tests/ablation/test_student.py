"""Student's t against printed tables and against its own definition."""

import math

import numpy as np
import pytest

from lgdlm.ablation.student import central_probability, estimate, quantile

# two-sided 95 % and 99 % points, as printed in any table
TABLE = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    5: (2.571, 4.032),
    9: (2.262, 3.250),
    30: (2.042, 2.750),
}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_table(degrees):
    assert [round(quantile(level, degrees), 3) for level in (0.95, 0.99)] == list(TABLE[degrees])


def test_with_many_degrees_it_is_the_normal_distribution():
    assert quantile(0.95, 100_001) == pytest.approx(1.95996, abs=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6, 11])
def test_the_probability_is_the_integral_of_the_density(degrees):
    t = np.linspace(0, 2.5, 20_001)
    constant = math.gamma((degrees + 1) / 2) / math.sqrt(degrees * math.pi) / math.gamma(degrees / 2)
    density = constant * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert central_probability(math.atan(2.5 / math.sqrt(degrees)), degrees) == pytest.approx(2 * np.trapezoid(density, t), abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_about_95_of_100_intervals_hold_the_truth(n):
    rng = np.random.default_rng(n)
    found = [estimate(rng.normal(3, 2, n).tolist()) for _ in range(2000)]
    assert 0.935 < np.mean([e.low <= 3 <= e.high for e in found]) < 0.965


def test_one_value_has_no_interval_and_equal_ones_a_point():
    assert estimate([2.5]) == (2.5, None, None, 1)
    assert estimate([2.5, 2.5, 2.5]) == (2.5, 2.5, 2.5, 3)
