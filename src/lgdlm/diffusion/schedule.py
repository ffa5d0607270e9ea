"""Noise schedules: how much of the data is left at time t.

    tokens    LogLinear   alpha(t) = 1 - (1 - eps) t                      probability that a token is still clean
    latents   Cosine      alpha(t) = cos((t + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2),  s = 0.008
              Linear      log alpha(t) = -T (b0 t + (b1 - b0) t^2 / 2) / 2
              Sigmoid     abar(t) from a logistic ramp between -3 and 3, rescaled to [0, 1]
              with alpha^2 + sigma^2 = 1 and abar = alpha^2

Everything is computed in float64 and handed out in the dtype of `t`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogLinear:
    """The masking schedule: alpha(t) = 1 - (1 - eps) t, so that 1 - alpha(t) = (1 - eps) t.

    The loss weight and the share revealed are written out with that: 1 - alpha(t) in floating point has lost its digits near 0.
    """

    eps: float = 1e-4

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - (1 - self.eps) * t.double()).to(t.dtype)

    def weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)) = 1 / t; +inf at t = 0, where nothing is masked."""
        return 1 / t

    def reveal_share(self, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token masked at t is clean at s < t: (alpha(s) - alpha(t)) / (1 - alpha(t)) = 1 - s / t.

        At s = 0 it is exactly 1: at the end of the reverse process nothing may stay masked.
        """
        share = (1 - s.double() / t.double()).to(t.dtype)
        return torch.where(s <= 0, torch.ones_like(share), share)

    def remask_share(self, t: Tensor, s: Tensor, strength: float) -> Tensor:
        """Probability sigma that a token visible at t is masked again at s: strength * min(1, (1 - alpha(s)) / alpha(t)).

        At strength 1 it is the largest that a reverse process with these marginals allows; at s = 0 it is exactly 0.
        """
        return strength * ((1 - self.alpha(s)) / self.alpha(t)).clamp_max(1)


class LatentSchedule(ABC):
    """A variance-preserving schedule, continuous on [0, 1]; `table` is its discretisation."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t) for float64 t; 0 at t = 0, decreasing, -inf allowed at t = 1."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """-d log alpha / dt for float64 t < 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t.double()).exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t.double()))).clamp_min(0).sqrt().to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2); +inf at t = 0."""
        log_abar = 2 * self.log_alpha(t.double())
        return (log_abar - torch.log(-torch.expm1(log_abar))).to(t.dtype)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time at which log SNR has this value, by bisection (float64)."""
        low, high = torch.zeros_like(log_snr, dtype=torch.float64), torch.ones_like(log_snr, dtype=torch.float64)
        for _ in range(60):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > log_snr
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def vlb_weight(self, t: Tensor) -> Tensor:
        """-SNR'(t) / 2, the weight of |z_0 - x0_hat|^2 in the variational bound (Kingma et al. 2021), for 0 < t < 1.

        SNR' = SNR d log SNR/dt and d log SNR/dt = -2 rate / sigma^2.
        """
        t = t.double()
        log_abar = 2 * self.log_alpha(t)
        return self.rate(t) * log_abar.exp() / torch.expm1(log_abar) ** 2

    def table(self, steps: int) -> Tensor:
        """abar at t = 1/steps, 2/steps, ..., 1 in float64: what a discrete implementation of `steps` times uses."""
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return (2 * self.log_alpha(t)).exp()


@dataclass(frozen=True)
class Cosine(LatentSchedule):
    """Nichol and Dhariwal 2021, normalised to alpha(0) = 1; alpha(1) is 0."""

    offset: float = 0.008

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.offset) / (1 + self.offset) * (math.pi / 2)

    def log_alpha(self, t: Tensor) -> Tensor:
        # sin of the complement keeps digits near t = 1, where cos would cancel
        complement = (1 - t) / (1 + self.offset) * (math.pi / 2)
        start = math.cos(self.offset / (1 + self.offset) * math.pi / 2)
        return (complement.sin().log() - math.log(start)).clamp_max(0)  # rounding may leave +1e-17 at t = 0

    def rate(self, t: Tensor) -> Tensor:
        return self._angle(t).tan() * (math.pi / 2) / (1 + self.offset)


@dataclass(frozen=True)
class Linear(LatentSchedule):
    """Ho et al. 2020: a noise rate that rises linearly from beta_min to beta_max per 1/steps of time."""

    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self.steps * (self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t)

    def rate(self, t: Tensor) -> Tensor:
        return 0.5 * self.steps * (self.beta_min + (self.beta_max - self.beta_min) * t)


@dataclass(frozen=True)
class Sigmoid(LatentSchedule):
    """Jabri et al. 2022: abar(t) = (g(end) - g(start + (end - start) t)) / (g(end) - g(start)), g the logistic."""

    start: float = -3.0
    end: float = 3.0

    def _parts(self, t: Tensor) -> tuple[Tensor, Tensor, float]:
        low, high = 1 / (1 + math.exp(-self.start)), 1 / (1 + math.exp(-self.end))
        here = self.start + (self.end - self.start) * t
        # g(end) - g(x) = g(-x) - g(-end) loses no digits near t = 1 when written as a product
        left = torch.sigmoid(-here) * high * -torch.expm1(here - self.end)
        return left, here, high - low

    def log_alpha(self, t: Tensor) -> Tensor:
        left, _, span = self._parts(t)
        return (0.5 * (left / span).log()).clamp_max(0)  # rounding may leave +1e-17 at t = 0

    def rate(self, t: Tensor) -> Tensor:
        left, here, _ = self._parts(t)
        slope = torch.sigmoid(here) * torch.sigmoid(-here) * (self.end - self.start)
        return 0.5 * slope / left


LATENT_SCHEDULES: dict[str, type[LatentSchedule]] = {"cosine": Cosine, "linear": Linear, "sigmoid": Sigmoid}
