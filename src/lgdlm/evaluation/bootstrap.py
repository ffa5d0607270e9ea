"""Percentile intervals over documents.

    counts ~ Multinomial(n; 1/n, ..., 1/n),   sums* = counts @ statistics,   interval = quantiles of fn(sums*)

One matrix product gives all resamples of a metric. All metrics share one set of resamples, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Bootstrap:
    """`rounds` resamples of `documents`, from `seed`; `rounds` 0 means that no interval is wanted."""

    def __init__(self, documents: int, rounds: int = 1000, seed: int = 0, level: float = 0.95):
        if documents < 1:
            raise ValueError("an interval needs at least one document")
        if not 0 < level < 1:
            raise ValueError(f"level {level}: expected a probability between 0 and 1")
        self.documents, self.level = documents, level
        draws = np.random.default_rng(seed)
        self.counts = draws.multinomial(documents, np.full(documents, 1 / documents), size=rounds).astype(np.float64)

    def interval(self, statistics: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float] | None:
        """(low, high) of fn over the resampled sums of `statistics` [documents, k]; None without resamples.

        With fewer documents than something to average in every resample (0 / 0) the quantiles are not finite, and the caller must not
        write them: that is reported as a ValueError, never skipped.
        """
        assert statistics.shape[0] == self.documents, "one row of statistics a document"
        if not len(self.counts):
            return None
        values = fn(self.counts @ statistics)
        if not np.isfinite(values).all():
            raise ValueError("a resample has no finite value: too few documents with anything to measure")
        tail = (1 - self.level) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)
