"""An epoch in windows: how much of it is planned at once, and which rows each window holds.

    epoch  = n // batch_size steps;   window = at most window_rows // batch_size of its steps
    rows   = one window:       the first rows of a sorted permutation of all n
             several windows:  positions [first, last) of a computed permutation, blocks of rows at a time

Planning takes memory and time in proportion to a window, whatever n is: ten million documents cost no more than one million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lgdlm.data.permutation import rows_at
from lgdlm.rng import Rng

WINDOW_ROWS = 1 << 20


@dataclass(frozen=True)
class Windows:
    """`steps` of an epoch and of a window, each of `batch_size` rows. Epochs, windows and steps: from 1, 0 and 1."""

    steps: int
    batch_size: int
    window_steps: int

    @staticmethod
    def of(count: int, batch_size: int, window_rows: int = WINDOW_ROWS) -> Windows:
        """The windows of an epoch of `count` documents; a window is at least one step."""
        return Windows(count // batch_size, batch_size, max(1, window_rows // batch_size))

    @property
    def count(self) -> int:
        """Windows of an epoch."""
        return -(-self.steps // self.window_steps)

    def place(self, k: int) -> tuple[int, int, int]:
        """Of step k: its epoch, its window in that epoch, and its number in that window (from 0)."""
        epoch, step = divmod(k - 1, self.steps)
        return epoch + 1, step // self.window_steps, step % self.window_steps

    def bounds(self, window: int) -> tuple[int, int]:
        """Positions [first, last) of a window in its epoch: a whole number of batches."""
        last = min((window + 1) * self.window_steps, self.steps)
        return window * self.window_steps * self.batch_size, last * self.batch_size


class Order(Protocol):
    """Which rows a window holds, int64 [steps of it * batch_size]: a function of (seed, epoch, window)."""

    def rows(self, epoch: int, window: int) -> np.ndarray: ...


@dataclass(frozen=True)
class InOrder:
    """Rows as they stand, the same in every epoch."""

    windows: Windows

    def rows(self, epoch: int, window: int) -> np.ndarray:
        return np.arange(*self.windows.bounds(window))


@dataclass(frozen=True)
class Shuffled:
    """Every row of `count` at most once an epoch, in an order by (seed, epoch)."""

    count: int
    windows: Windows
    seed: int

    def rows(self, epoch: int, window: int) -> np.ndarray:
        first, last = self.windows.bounds(window)
        if self.windows.count == 1:
            return permutation(self.count, self.seed, epoch, "epoch order")[:last]
        return rows_at(np.arange(first, last), self.count, self.seed, epoch, "epoch blocks")


def permutation(count: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """A permutation of 0 .. count - 1, int64, by sorting counter-based keys.

    numpy's own generators are not used, so that a new numpy release cannot change a run.
    """
    keys = Rng(seed, epoch, torch.arange(count)).uniform(purpose)
    return torch.argsort(keys, stable=True).numpy()
