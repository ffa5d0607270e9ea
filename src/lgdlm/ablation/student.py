"""Intervals of a mean over a few seeds, by Student's t.

    mean +- t(n - 1) s / sqrt(n),       P(|T| <= t(k)) = level

With k degrees of freedom and theta = atan(t / sqrt(k)) the probability is a finite sum (Abramowitz and Stegun 26.7.3, 26.7.4):

    k odd    2/pi (theta + sin theta (cos theta + 2/3 cos^3 theta + ... up to cos^(k-2)))
    k even   sin theta (1 + 1/2 cos^2 theta + (1 3)/(2 4) cos^4 theta + ... up to cos^(k-2))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean of `n` values with its interval; None where one value alone says nothing about their spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


def central_probability(theta: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan theta) of Student's t; theta in [0, pi/2]."""
    assert degrees >= 1
    odd = degrees % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total


def quantile(level: float, degrees: int) -> float:
    """t with P(|T| <= t) = level, by bisection of the angle."""
    assert 0 < level < 1
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if central_probability(middle, degrees) < level else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values and its interval."""
    n = len(values)
    assert n, "a mean needs a value"
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(level, n - 1) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)
