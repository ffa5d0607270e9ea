"""Counter-based randomness: noise is a function of (seed, step, row, purpose), never of history.

    key(row) = mix(mix(mix(mix(seed) + step) + row) + purpose),   draw(row, i) = mix(key(row) + (i + 1) golden)

`mix` is the SplitMix64 finaliser. Because a row's draws depend on its own key alone, they do not change with the
batch it sits in, the number of ranks, or a restart; there is no generator state to save.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
WEYL = (0.6180339887498949, 0.7320508075688772)  # (sqrt(5) - 1) / 2 and sqrt(3) - 1: even in each axis and in the square


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser on int64 (two's complement wraps as unsigned does; shifts are made logical by a mask)."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class Rng:
    """Random numbers for the rows of one batch at one step.

    `rows` int64 [B]: each row's identity (its position in the global batch in training, its request in sampling).
    A *purpose* is a word, such as "text noise": two purposes are independent streams.
    """

    def __init__(self, seed: int, step: int, rows: Tensor):
        self.seed, self.step, self.rows = int(seed), int(step), rows
        base = _mix(torch.tensor(_signed(seed * GOLDEN + 1), device=rows.device))
        self._step_key = _mix(base + int(step))
        self._keys = _mix(self._step_key + (rows.long() + 1) * _signed(GOLDEN))

    def fold(self, counter: int) -> Rng:
        """The same rows at another counter, for instance one reverse step of a sampler."""
        child = object.__new__(Rng)
        child.seed, child.step, child.rows = self.seed, self.step, self.rows
        salt = _signed((int(counter) + 1) * 0xD1B54A32D192ED03)
        child._step_key, child._keys = _mix(self._step_key + salt), _mix(self._keys + salt)
        return child

    def select(self, index: Tensor) -> Rng:
        """The randomness of some of the rows: `index` int64 [b] or bool [B]."""
        child = object.__new__(Rng)
        child.seed, child.step, child.rows = self.seed, self.step, self.rows[index]
        child._step_key, child._keys = self._step_key, self._keys[index]
        return child

    def _bits(self, keys: Tensor, purpose: str, count: int) -> Tensor:
        keys = _mix(keys + _signed(zlib.crc32(purpose.encode()) * 0xA0761D6478BD642F))
        counter = torch.arange(1, count + 1, device=keys.device) * _signed(GOLDEN)
        return _mix(keys[..., None] + counter)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Float64 [B, *shape] in the open interval (0, 1): never 0, never 1, so that logarithms are finite."""
        bits = self._bits(self._keys, purpose, math.prod(shape)) >> 12 & ((1 << 52) - 1)
        return ((bits.double() + 0.5) * 2.0**-52).view(len(self._keys), *shape)

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal [B, *shape] by Box-Muller in float64, on the last axis: a number does not depend on how many rows of that
        axis stand behind its own, so the noise of a text does not depend on how far its row is padded."""
        *lead, width = shape or (1,)
        u = self.uniform(purpose, *lead, 2, (width + 1) // 2)
        radius, angle = (-2.0 * u[..., 0, :].log()).sqrt(), 2.0 * math.pi * u[..., 1, :]
        draws = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)[..., :width]
        return draws.reshape(len(self._keys), *shape).to(dtype)

    def shared(self, purpose: str) -> Tensor:
        """One float64 uniform for the step, the same for every row and rank."""
        bits = self._bits(self._step_key[None], purpose, 1)[0, 0] >> 12 & ((1 << 52) - 1)
        return (bits.double() + 0.5) * 2.0**-52

    def stratified(self, purpose: str, axis: int = 0) -> Tensor:
        """Float64 [B] in (0, 1): a Weyl sequence over the rows behind one shared offset.

        Any run of consecutive rows covers the interval evenly, whatever the batch size, the accumulation or the number
        of ranks: the low-discrepancy times of the diffusion losses. Two axes together cover the square.
        """
        drift = self.shared(purpose) + self.rows.double() * WEYL[axis]
        return (drift % 1.0).clamp_(2.0**-53, 1 - 2.0**-53)
