"""Several sources read in given proportions.

    window j of M rows:   c_i = floor(M B_i + u_j) - floor(M B_(i-1) + u_j),   B_i = w_1 + ... + w_i,   u_j uniform by (seed, j)
                          so sum c_i = M,   E c_i = M w_i exactly,   |c_i - M w_i| < 1
    draw d of source i:   epoch d // n_i + 1 of that source, position d mod n_i of its own computed permutation

Each source is read without replacement, a small one several times before a large one once. Which rows a window holds is a function
of (seed, window): nothing is remembered, so a run goes on in the middle of an epoch by asking for its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lgdlm.data.permutation import rows_at
from lgdlm.data.windows import Windows, permutation
from lgdlm.rng import Rng


@dataclass(frozen=True)
class Mixture:
    """Rows of each source, `counts`, and their proportions, `weights` (positive, of any sum)."""

    counts: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.counts) == len(self.weights) > 0, "a weight for every source"
        assert min(self.counts) > 0 < min(self.weights), "every source has rows and a share"

    @property
    def borders(self) -> np.ndarray:
        """B_0 = 0, B_1, ... B_S = 1: float64 [S + 1]."""
        sums = np.concatenate([[0.0], np.cumsum(np.asarray(self.weights, np.float64))])
        return sums / sums[-1]

    @property
    def shares(self) -> np.ndarray:
        """Proportions that sum to 1: float64 [S]."""
        return np.diff(self.borders)

    @property
    def starts(self) -> np.ndarray:
        """The first row of each source among all, int64 [S]: the sources' rows stand one source after another."""
        return np.cumsum(self.counts) - np.asarray(self.counts)

    def head(self, total: int) -> np.ndarray:
        """About `total` rows in proportion to the weights, the first of each source and never one twice; int64, ascending."""
        ends = np.floor(total * self.borders + 0.5).astype(np.int64)
        parts = zip(self.starts, np.diff(ends), self.counts, strict=True)
        return np.concatenate([start + np.arange(min(wanted, held)) for start, wanted, held in parts])


@dataclass(frozen=True)
class MixedOrder:
    """The rows of a window drawn from all sources of `mixture` (an `Order`). An epoch has as many rows as the sources together."""

    mixture: Mixture
    windows: Windows
    seed: int

    def rows(self, epoch: int, window: int) -> np.ndarray:
        numbers = np.arange((epoch - 1) * self.windows.count + window + 1)
        counts = self._counts(numbers)
        parts = []
        for i, start in enumerate(self.mixture.starts):
            before = int(counts[:-1, i].sum())
            draws = np.arange(before, before + int(counts[-1, i]))
            parts.append(start + self._drawn(i, draws))
        rows = np.concatenate(parts)
        return rows[permutation(len(rows), self.seed, int(numbers[-1]), "mixture order")]  # groups of one length mix the sources

    def _counts(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of each source in windows `numbers` (counted through all epochs): int64 [windows, S]."""
        bounds = np.array([self.windows.bounds(window) for window in range(self.windows.count)])
        sizes = np.diff(bounds, axis=1)[numbers % self.windows.count, 0]
        offsets = Rng(self.seed, 0, torch.from_numpy(numbers)).uniform("mixture").numpy()
        ends = np.floor(sizes[:, None] * self.mixture.borders + offsets[:, None]).astype(np.int64)
        ends[:, -1] = sizes  # B_S = 1: floor(M + u) = M, in exact arithmetic
        return np.diff(ends, axis=1)

    def _drawn(self, source: int, draws: np.ndarray) -> np.ndarray:
        """Rows, within the source, of draws `draws` int64 [k] of its endless stream."""
        count = self.mixture.counts[source]
        passes = draws // count
        rows = np.empty_like(draws)
        for number in np.unique(passes):
            chosen = passes == number
            rows[chosen] = rows_at(draws[chosen] % count, count, self.seed, int(number) + 1, f"source {source}")
        return rows


def mixed_statistics(
    shares: np.ndarray, means: Sequence[Sequence[float]], deviations: Sequence[Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, D floats each, of latents drawn from sources in proportions `shares` [S].

    mean = sum w_i m_i,   var = sum w_i (s_i^2 + (m_i - mean)^2)
    """
    means_, variances = np.asarray(means, np.float64), np.square(np.asarray(deviations, np.float64))
    mean = shares @ means_
    variance = shares @ (variances + np.square(means_ - mean))
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
