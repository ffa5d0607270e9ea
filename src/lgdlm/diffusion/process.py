"""A process: how one modality is noised, scored and denoised.

Its four methods read one schedule, so the loss weight and the reverse step cannot disagree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lgdlm.rng import Rng


class Process(ABC):
    """`noise` goes from data to the prior, `step` goes back; `loss` says how good a prediction was.

    Times are float32 [B] in [0, 1]: 0 is clean, 1 is the prior.
    """

    @abstractmethod
    def noise(self, x0: Tensor, t: Tensor, rng: Rng, mask: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0)."""

    @abstractmethod
    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        """x_1."""

    @abstractmethod
    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of each row, float32 [B] (float64 where the prediction is)."""

    @abstractmethod
    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        """x_s ~ p(x_s | x_t) for s < t."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[B] shaped to broadcast against [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def widen(values: Tensor) -> Tensor:
    """At least float32: a loss is never summed in half precision, and float64 stays float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
