"""Time policies: where on its clock a modality stands while it is trained.

Clean      t = 0              the modality is the condition
Full       t = 1              the modality is unknown
Uniform    t ~ U(0, 1]        every t a sampler will visit; low-discrepancy over the batch
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
    """Uniform on (low, 1], spread evenly over the rows of the global batch; the two clocks together cover the square.

    A latent starts at 1e-4: below, its noise is under 0.2 % and recovering the target divides by nearly nothing.
    """

    low_text: float = 0.0
    low_latent: float = 1e-4

    def __call__(self, rng: Rng, clock: str) -> Tensor:
        low = self.low_text if clock == "text" else self.low_latent
        u = rng.stratified(clock + " time", axis=CLOCKS.index(clock))
        return (1.0 - (1.0 - low) * u).float().clamp_min(1e-12)  # float32 rounding must not reach 0, the clean time


TIME_POLICIES: dict[str, TimePolicy] = {"random": Uniform(), "full": Full()}
