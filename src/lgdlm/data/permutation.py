"""A permutation of 0 .. n - 1 that is computed where it is asked for, not stored.

    Feistel over two halves of b bits, 4^b >= n:     (l, r) -> (r, l xor F_key(r)),   once a key
    a result beyond n - 1 is permuted again until it lies below n (cycle walking, fewer than four rounds on average)

    blocks of B rows:   row(p) = (B pi(p // B) + p mod B + shift) mod n  for p < B floor(n / B),   (p + shift) mod n behind that

Memory is that of the positions asked for. Rows of a block stay neighbours, so that a read from disk is B rows long; the shift
moves the blocks' borders, and the rows behind the last whole block, from epoch to epoch.
"""

from __future__ import annotations

import numpy as np
import torch

from lgdlm.rng import Rng

ROUNDS = 6
BLOCK_ROWS = 256  # rows read together, at most; `prepare` writes them in the order of a content hash, so neighbours are strangers
LEAST_BLOCKS = 4096  # a shorter order has smaller blocks, down to single rows


class Permutation:
    """`Permutation(count, seed, epoch, purpose)(positions int64 [k]) -> int64 [k]`, a bijection of 0 .. count - 1."""

    def __init__(self, count: int, seed: int, epoch: int, purpose: str):
        assert count > 0, "nothing cannot be permuted"
        self.count = count
        self._bits = max(1, ((count - 1).bit_length() + 1) // 2)
        self._keys = (Rng(seed, epoch, torch.arange(ROUNDS)).uniform(purpose).numpy() * 2.0**52).astype(np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        values = self._once(np.asarray(positions, np.uint64))
        while len(beyond := np.flatnonzero(values >= self.count)):
            values[beyond] = self._once(values[beyond])
        return values.astype(np.int64)

    def _once(self, values: np.ndarray) -> np.ndarray:
        bits, mask = np.uint64(self._bits), np.uint64((1 << self._bits) - 1)
        left, right = values >> bits, values & mask
        for key in self._keys:
            left, right = right, left ^ (mix(right + key) & mask)
        return (left << bits) | right


def block_rows(count: int) -> int:
    """How many neighbouring rows of `count` stay together."""
    return max(1, min(BLOCK_ROWS, count // LEAST_BLOCKS))


def rows_at(positions: np.ndarray, count: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """Rows that stand at `positions` int64 [k] of the order (seed, epoch, purpose) of `count` rows; int64 [k]."""
    size = block_rows(count)
    blocks = Permutation(count // size, seed, epoch, purpose)
    shift = int(Rng(seed, epoch, torch.arange(0)).shared(f"{purpose} shift") * count)
    positions = np.asarray(positions, np.int64)
    rows = positions.copy()
    whole = positions < blocks.count * size
    rows[whole] = blocks(positions[whole] // size) * size + positions[whole] % size
    return (rows + shift) % count


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
