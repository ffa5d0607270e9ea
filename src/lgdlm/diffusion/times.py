"""Time policies: where on its clock a modality stands while it is trained.

Clean      t = 0              the modality is the condition
Full       t = 1              the modality is unknown
Uniform    t ~ U(0, 1]        every t a sampler will visit; low-discrepancy over the batch
Widening   t ~ U(low(k), high(k)]   a curriculum: at step k a range between those of two levels, linear in k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lgdlm.rng import Rng

CLOCKS = ("text", "latent")


class TimePolicy(Protocol):
    def __call__(self, rng: Rng, clock: str) -> Tensor:
        """float32 [B] for the clock named `text` or `latent`."""


@dataclass(frozen=True)
class Clean:
    def __call__(self, rng: Rng, clock: str) -> Tensor:
        return torch.zeros(len(rng.rows), dtype=torch.float32, device=rng.rows.device)


@dataclass(frozen=True)
class Full:
    def __call__(self, rng: Rng, clock: str) -> Tensor:
        return torch.ones(len(rng.rows), dtype=torch.float32, device=rng.rows.device)


@dataclass(frozen=True)
class Uniform:
    """Uniform on (low, high], spread evenly over the rows of the global batch; the two clocks together cover the square.

    A latent starts at 1e-4: below, its noise is under 0.2 % and recovering the target divides by nearly nothing.
    """

    low_text: float = 0.0
    low_latent: float = 1e-4
    high: float = 1.0

    def __call__(self, rng: Rng, clock: str) -> Tensor:
        low = self.low_text if clock == "text" else self.low_latent
        u = rng.stratified(clock + " time", axis=CLOCKS.index(clock))
        return (self.high - (self.high - low) * u).float().clamp_min(1e-12)  # float32 rounding must not reach 0, the clean time


@dataclass(frozen=True)
class Level:
    """From `step` on, times lie in (low, high]; up to the next level the range moves on a line."""

    step: int
    low: float
    high: float


@dataclass(frozen=True)
class Widening:
    """Noise levels that change with the step of the randomness they are drawn from: the first level's range before its step, the last
    one's behind it. Raises ValueError for no levels, steps that do not rise, or a range that is empty or leaves [0, 1]."""

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("noise_levels is empty: expected [{step: 0, low: 0.3, high: 0.7}, ...]")
        for level in self.levels:
            if not 0 <= level.low < level.high <= 1:
                raise ValueError(f"noise_levels: 0 <= low < high <= 1 is expected, got {level.low} and {level.high} at step {level.step}")
        for before, after in zip(self.levels, self.levels[1:], strict=False):
            if after.step <= before.step:
                raise ValueError(f"noise_levels: steps must rise, got {before.step} and then {after.step}")

    def range_at(self, step: int) -> tuple[float, float]:
        """(low, high) at `step`."""
        before, after = self.levels[0], self.levels[0]
        for level in self.levels:
            before, after = (level, level) if level.step <= step else (before, level)
            if level.step > step:
                break
        share = (step - before.step) / (after.step - before.step) if after.step > before.step and step > before.step else 0.0
        return before.low + share * (after.low - before.low), before.high + share * (after.high - before.high)

    def __call__(self, rng: Rng, clock: str) -> Tensor:
        low, high = self.range_at(rng.step)
        return Uniform(low, max(low, min(Uniform.low_latent, high / 2)), high)(rng, clock)


TIME_POLICIES: dict[str, TimePolicy] = {"random": Uniform(), "full": Full()}
