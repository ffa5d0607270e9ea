"""Gaussian diffusion of latents.

    z_t = alpha(t) z_0 + sigma(t) e,   e ~ N(0, I),   alpha^2 + sigma^2 = 1

The network may predict e, z_0 or v = alpha e - sigma z_0. Everything outside this file speaks z_0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.diffusion.process import Process, per_row, widen
from lgdlm.diffusion.schedule import Cosine, LatentSchedule
from lgdlm.rng import Rng

PARAMETERIZATIONS = ("v_param", "x0", "epsilon")
LEAST_SIGNAL = 1e-2  # below this alpha, dividing by it turns an epsilon error into an x0 error a hundred times as large


class GaussianDiffusion(Process):
    """`predicts` is the network's parameterisation: `v_param` (default), `x0` or `epsilon`."""

    def __init__(self, schedule: LatentSchedule | None = None, predicts: str = "v_param"):
        if predicts not in PARAMETERIZATIONS:
            raise ValueError(f"latent_parameterization {predicts!r}: expected one of {', '.join(PARAMETERIZATIONS)}")
        self.schedule, self.predicts = schedule or Cosine(), predicts

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, computed in float64, shaped to broadcast against `like` and in its dtype."""
        t = per_row(t.double(), like)
        return self.schedule.alpha(t).to(like.dtype), self.schedule.sigma(t).to(like.dtype)

    @property
    def latest_time(self) -> float:
        """Where a reverse process may start: 1, or for `epsilon` the last time at which z_0 can be recovered."""
        if self.predicts != "epsilon":
            return 1.0
        least = torch.tensor(LEAST_SIGNAL, dtype=torch.float64)
        return float(self.schedule.time_of(2 * least.log() - torch.log1p(-(least**2)))) - 1e-6

    def noise(self, x0: Tensor, t: Tensor, rng: Rng, mask: Tensor | None = None) -> Tensor:
        return self.mix(x0, rng.normal("latent noise", *x0.shape[1:], dtype=x0.dtype), t)

    def mix(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """alpha z_0 + sigma e."""
        alpha, sigma = self.scales(t, x0)
        return alpha * x0 + sigma * epsilon

    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        return rng.normal("latent prior", *shape[1:])

    def target(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network should have said about z_t, given the true z_0."""
        if self.predicts == "x0":
            return x0
        alpha, sigma = self.scales(t, x0)
        epsilon = self.noise_in(x_t, x0, t)
        return epsilon if self.predicts == "epsilon" else alpha * epsilon - sigma * x0

    def noise_in(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """E[e | z_t, z_0]: (z_t - alpha z_0) / sigma, and 0 at t = 0, where z_t says nothing about the noise."""
        alpha, sigma = self.scales(t, x_t)
        return (x_t - alpha * x0) * torch.where(sigma > 0, 1 / sigma, 0.0)

    def to_x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's z_0. `epsilon` near t = 1 raises: there the result would be noise divided by almost zero."""
        alpha, sigma = self.scales(t, x_t)
        if self.predicts == "x0":
            return prediction
        if self.predicts == "v_param":
            return alpha * x_t - sigma * prediction
        if bool((alpha < LEAST_SIGNAL).any()):
            raise ValueError("epsilon prediction cannot recover z_0 near t = 1, where alpha is near 0: use latent_parameterization=v_param")
        return (x_t - sigma * prediction) / alpha

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's noise; from `x0` it is lost at t = 0."""
        if self.predicts == "epsilon":
            return prediction
        if self.predicts == "x0":
            return self.noise_in(x_t, prediction, t)
        alpha, sigma = self.scales(t, x_t)
        return sigma * x_t + alpha * prediction

    def from_x0(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction a network would make if it believed z_0 = `x0`: the inverse of `to_x0` for t > 0."""
        return self.target(x0, x_t, t)

    def answer_of_gaussian(self, mean: Tensor, variance: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The best prediction where z_0 ~ N(mean, variance) a priori, in the network's parameterisation, for every t in [0, 1].

        E[z_0 | z_t] = (sigma^2 mean + alpha variance z_t) / d,   d = alpha^2 variance + sigma^2
        and the same as epsilon = sigma (z_t - alpha mean) / d or v = sigma (alpha (1 - variance) z_t - mean) / d.
        """
        alpha, sigma = self.scales(t, x_t)
        evidence = alpha**2 * variance + sigma**2
        if self.predicts == "x0":
            return (sigma**2 * mean + alpha * variance * x_t) / evidence
        if self.predicts == "epsilon":
            return sigma * (x_t - alpha * mean) / evidence
        return sigma * (alpha * (1 - variance) * x_t - mean) / evidence

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean squared error on the target over the latent's dimensions, float32 [B]."""
        return (widen(prediction) - widen(self.target(x0, x_t, t))).square().flatten(1).mean(dim=1)

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, s: Tensor, rng: Rng, eta: float = 1.0) -> Tensor:
        """z_s from z_t: DDIM for `eta` 0, the ancestral (DDPM) posterior for `eta` 1.

        z_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) e + c n,  c = eta sigma_s / sigma_t sqrt(1 - (alpha_t / alpha_s)^2)
        """
        x0 = self.to_x0(prediction, x_t, t)
        return self.step_from_x0(x_t, x0, t, s, rng, eta)

    def step_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, rng: Rng, eta: float = 1.0) -> Tensor:
        """The same step from a z_0 estimate, for guided or edited predictions. A latent that is clean already (t = 0) stays.

        The coefficients are float64: neighbouring alphas differ by less than float32 resolves.
        """
        later, earlier = per_row(t.double(), x_t), per_row(s.double(), x_t)
        sigma_t, sigma_s = self.schedule.sigma(later), self.schedule.sigma(earlier)
        ratio = self.schedule.alpha(later) / self.schedule.alpha(earlier)
        jitter = eta * sigma_s / sigma_t * (1 - ratio**2).clamp_min(0).sqrt()  # the clamps only meet rounding
        kept = (sigma_s**2 - jitter**2).clamp_min(0).sqrt()
        fresh = rng.normal("latent step", *x_t.shape[1:], dtype=x_t.dtype)
        z_s = self.scales(s, x_t)[0] * x0 + kept.to(x_t.dtype) * self.noise_in(x_t, x0, t) + jitter.to(x_t.dtype) * fresh
        return torch.where(later > 0, z_s, x_t)
