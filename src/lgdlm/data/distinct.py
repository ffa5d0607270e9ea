"""Which of many strings occur twice, in eight bytes a string.

    h(s) = fold of mix over the 8-byte words of s (zero-filled) and its length;   equal hashes are compared byte by byte

A dictionary of ten million ids takes more than a gigabyte; their hashes take eighty megabytes, and sorting them finds every pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lgdlm.data.permutation import mix

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
PART = 1 << 16  # strings hashed at a time
PART_BYTES = 1 << 22


class DistinctIds:
    """Collects the ids of `count` rows, shard by shard, in row order."""

    def __init__(self, count: int):
        self._hashes = np.empty(count, np.uint64)
        self._added = 0

    def add(self, column: np.ndarray, offsets: np.ndarray) -> None:
        """The ids `column[offsets[i]:offsets[i + 1]]`, uint8, of the next rows."""
        for start in range(0, len(offsets) - 1, PART):
            part = np.asarray(offsets[start : start + PART + 1], np.int64)
            self._hashes[self._added : self._added + len(part) - 1] = string_hashes(column, part)
            self._added += len(part) - 1

    def repeated(self, read: Callable[[int], bytes]) -> Iterator[tuple[int, int]]:
        """(row, first row with the same id) of every row whose id occurred before; `read(row)` gives the id's bytes."""
        hashes = self._hashes[: self._added]
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        candidates = np.unique(np.concatenate([order[same], order[same + 1]]))
        seen: dict[bytes, int] = {}
        for row in candidates.tolist():
            first = seen.setdefault(read(row), row)
            if first != row:
                yield row, first


def string_hashes(column: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every string `column[offsets[i]:offsets[i + 1]]`, uint64 [n]."""
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64) * GOLDEN
    by_length = np.argsort(lengths, kind="stable")
    for of_length in np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1):
        size = int(lengths[of_length[0]]) if len(of_length) else 0
        many = max(1, PART_BYTES // max(1, size))
        for rows in np.split(of_length, range(many, len(of_length), many)) if size else []:
            padded = np.zeros((len(rows), -(-size // 8) * 8), np.uint8)
            padded[:, :size] = column[offsets[rows][:, None] + np.arange(size)]
            value = hashes[rows]
            for word in padded.view(np.uint64).T:
                value = mix((value ^ word) + GOLDEN)
            hashes[rows] = value
    return hashes
