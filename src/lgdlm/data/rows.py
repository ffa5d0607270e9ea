"""What every layout offers of a split: rows that are read when they are asked for.

    rows i_1 ... i_k  ->  ids, lengths, last tokens, tokens one after another, latents [k, D]

A layout keeps nothing of a row in memory that its files can say again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

BLOCK = 1 << 17


class Rows(Protocol):
    """The texts of a split: `PackedSplit`, `SampleSplit`, `JoinedSplit`, `MemorySplit`, and the `PairedDataset` over one of them."""

    def __len__(self) -> int: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def texts(self) -> Sequence[str]: ...
    def ids_of(self, indices: np.ndarray) -> list[str]:
        """The ids of the rows `indices` int64 [k], in their order."""

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of the rows, int64 [k]."""

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        """The last id of the rows, int64 [k]; -1 where a text has no token."""

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token ids of the rows one after another, int64 [T], and their lengths, int64 [k]."""

    def latents(self, indices: np.ndarray) -> np.ndarray | None:
        """float32 [k, D], or None where there are none."""


def blocks_of(count: int) -> Iterator[np.ndarray]:
    """0 .. count - 1 in runs of at most BLOCK, for a pass over all rows in bounded memory."""
    for start in range(0, count, BLOCK):
        yield np.arange(start, min(start + BLOCK, count))


class Strings(Sequence[str]):
    """`count` strings decoded when they are asked for."""

    def __init__(self, count: int, read: Callable[[int], str]):
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._read(int(index) % self._count)
