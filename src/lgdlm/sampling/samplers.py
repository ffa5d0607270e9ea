"""The two tables of a reverse step: how a latent moves, and which masked tokens are revealed first.

ddim, ddpm   z_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) e + c n       c = 0 for ddim, the posterior's deviation for ddpm
dpmpp        z_s = sigma_s / sigma_t z_t - alpha_s (exp(-h) - 1) d      h = lambda_s - lambda_t,  lambda = log(alpha / sigma)
             d = x0 + (x0 - x0_before) h / (2 h_before)                 DPM-Solver++ (2M), Lu et al. 2022

ancestral    masked positions are revealed at random, as the forward process hid them: chosen before any logits are computed
confidence   first where the drawn token is likeliest               entropy      first where the distribution is narrowest
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.diffusion.categorical import chunks
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.process import per_row
from lgdlm.rng import Rng


class LatentSampler(ABC):
    """One reverse process of a latent; it may remember its last step, so every process has its own."""

    def __init__(self, process: GaussianDiffusion):
        self.process = process

    @abstractmethod
    def step(self, z_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        """z_s from z_t [B, L, D] and the estimate x0 of z_0, for times float32 [B] with s < t."""


class DDIM(LatentSampler):
    """Deterministic (Song et al. 2021)."""

    def step(self, z_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        return self.process.step_from_x0(z_t, x0, t, s, rng, eta=0.0)


class DDPM(LatentSampler):
    """Ancestral: a draw from the Gaussian posterior q(z_s | z_t, x0) (Ho et al. 2020)."""

    def step(self, z_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        return self.process.step_from_x0(z_t, x0, t, s, rng, eta=1.0)


class DPMSolver(LatentSampler):
    """DPM-Solver++ of second order with two points; of first order where a log-SNR is infinite: at t = 1 and into s = 0."""

    def __init__(self, process: GaussianDiffusion):
        super().__init__(process)
        self.before: tuple[Tensor, Tensor] | None = None  # the last estimate and lambda's last stride

    def step(self, z_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        schedule = self.process.schedule
        stride = (schedule.log_snr(s.double()) - schedule.log_snr(t.double())) / 2
        direction = x0
        if self.before is not None:
            x0_before, stride_before = self.before
            ratio = torch.where(stride.isfinite() & stride_before.isfinite(), stride / (2 * stride_before), 0.0)
            direction = x0 + per_row(ratio, x0).to(x0.dtype) * (x0 - x0_before)
        self.before = x0, stride
        (_, sigma_t), (alpha_s, sigma_s) = self.process.scales(t, z_t), self.process.scales(s, z_t)
        return sigma_s / sigma_t * z_t - alpha_s * per_row(torch.expm1(-stride), z_t).to(z_t.dtype) * direction


def drawn_log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p(drawn token), [M, V] and int64 [M] to float32 [M]."""
    return -torch.cat([F.cross_entropy(part.float(), drawn, reduction="none") for part, drawn in chunks(logits, tokens)])


def negative_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """sum p log p, [M, V] to float32 [M]; the drawn token does not matter."""

    def of(part: Tensor) -> Tensor:
        log_p = part.float().log_softmax(dim=1)
        return (log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(dim=1)  # 0 log 0 is 0, not 0 times -inf

    return torch.cat([of(part) for part, _ in chunks(logits, tokens)])


def most_certain(certainty: Tensor, count: Tensor) -> Tensor:
    """bool [B, N]: the `count` int64 [B] most certain positions of each row; -inf where a position is no candidate.

    Equal certainties are taken from left to right.
    """
    rank = certainty.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count[:, None]) & (certainty > -torch.inf)


SAMPLERS: dict[str, type[LatentSampler]] = {"ddim": DDIM, "ddpm": DDPM, "dpmpp": DPMSolver}

REVEAL: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "ancestral": None,
    "confidence": drawn_log_probability,
    "entropy": negative_entropy,
}
