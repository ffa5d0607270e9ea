"""Mean and standard deviation per latent dimension, of the training split, in float64.

    n = n_a + n_b,   delta = mean_b - mean_a
    mean = mean_a + delta n_b / n,   M2 = M2_a + M2_b + delta^2 n_a n_b / n,   std = sqrt(M2 / n)

Blocks are merged as they are read (Chan's update): exact to rounding, one pass, constant memory.
"""

from __future__ import annotations

import numpy as np


class LatentStatistics:
    """Accumulates latents [k, D]; `.mean` and `.std` are float64 [D] (population)."""

    def __init__(self, dim: int):
        self.count, self.mean, self._m2 = 0, np.zeros(dim), np.zeros(dim)

    def add(self, latents: np.ndarray) -> None:
        """Merge a block of latents, float [k, D]."""
        block = np.asarray(latents, dtype=np.float64)
        if not len(block):
            return
        mean = block.mean(axis=0)
        m2 = np.square(block - mean).sum(axis=0)
        total, delta = self.count + len(block), mean - self.mean
        self._m2 += m2 + np.square(delta) * (self.count * len(block) / total)
        self.mean = self.mean + delta * (len(block) / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, float64 [D]."""
        assert self.count, "no latents were added"
        return np.sqrt(self._m2 / self.count)
