"""Where latents come from without a text: p(z), and how far a posterior is from it.

    fixed_gaussian     p = N(0, I)
    learned_gaussian   p = N(m, diag s^2), both trained
    diffusion          p = the model's own latent diffusion with no text in sight

KL(q || N) is closed. For the diffusion it is an upper bound, written as a correction of the standard normal's:

    KL(q || p) <= KL(q || N(0, I)) + range / 2 E_l [ |e - e_hat(z_l)|^2 - |e - sigma z_l|^2 ],   l = log-SNR, uniform on its range

sigma z_l is what the exact denoiser of N(0, I) answers, and its bound is tight. A network that says no more is that normal exactly,
and only what it knows beyond is estimated. The bound is of a generative model, so adding it to a conditional NELBO never undercuts
the truth, whatever the range.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lgdlm.models.posterior import Posterior, kl_by_dimension
from lgdlm.rng import Rng

if TYPE_CHECKING:
    from lgdlm.models.joint import TextLatentDiffusion

LOG_SNR = (-8.0, 8.0)  # outside of it a latent is noise but for a half of a thousandth, or as good as clean


class Prior(nn.Module, ABC):
    """`divergence` is KL(q || p), exact or an unbiased estimate of an upper bound; `closed` its part without chance."""

    @abstractmethod
    def closed(self, q: Posterior) -> Tensor:
        """Nats of each dimension to the Gaussian that the prior is or starts from, float32 [B, L, D]."""

    @abstractmethod
    def divergence(self, model: TextLatentDiffusion, q: Posterior, z: Tensor, rng: Rng) -> Tensor:
        """Nats of each dimension, float32 [B, L, D]; z [B, L, D] is a draw from q. Gradients reach q, z and the prior."""


class LatentPrior(Prior):
    """A diagonal Gaussian over `latent_size` numbers; `prior_type` is `fixed_gaussian` or `learned_gaussian`."""

    mean: Tensor
    log_variance: Tensor

    def __init__(self, latent_size: int, prior_type: str = "fixed_gaussian"):
        super().__init__()
        if prior_type not in ("fixed_gaussian", "learned_gaussian"):
            raise ValueError(f"prior_type {prior_type!r}: expected fixed_gaussian or learned_gaussian")
        for name in ("mean", "log_variance"):
            if prior_type == "learned_gaussian":
                self.register_parameter(name, nn.Parameter(torch.zeros(latent_size)))
            else:
                self.register_buffer(name, torch.zeros(latent_size), persistent=False)

    def forward(self, batch_size: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """mu and logvar, [batch_size, latent_size] each."""
        mu, logvar = (x.expand(batch_size, -1) for x in (self.mean, self.log_variance))
        return mu.to(device), logvar.to(device)

    def closed(self, q: Posterior) -> Tensor:
        mu, logvar = (x.view(1, *q.mean.shape[1:]) for x in (self.mean, self.log_variance))
        return kl_by_dimension(q.mean, q.log_variance, mu, logvar)

    def divergence(self, model: TextLatentDiffusion, q: Posterior, z: Tensor, rng: Rng) -> Tensor:
        return self.closed(q)


class DiffusionPrior(Prior):
    """The model's latent diffusion, asked without a text; it has no parameters beside the denoiser's."""

    def closed(self, q: Posterior) -> Tensor:
        zero = torch.zeros_like(q.mean)
        return kl_by_dimension(q.mean, q.log_variance, zero, zero)

    def divergence(self, model: TextLatentDiffusion, q: Posterior, z: Tensor, rng: Rng) -> Tensor:
        process, (low, high) = model.latent_process, LOG_SNR
        log_snr = low + (high - low) * rng.stratified("prior time", axis=1)
        t = process.schedule.time_of(log_snr).float()
        noise = rng.normal("prior noise", *z.shape[1:], dtype=z.dtype)
        z_t = process.mix(z, noise, t)
        answer = process.to_epsilon(model(model.alone(z_t, t)).latent.float(), z_t, t)
        of_normal = process.scales(t, z_t)[1] * z_t
        correction = (high - low) / 2 * ((noise - answer).square() - (noise - of_normal).square())
        return self.closed(q) + correction


PRIOR_TYPES = ("fixed_gaussian", "learned_gaussian", "diffusion")


def build_prior(prior_type: str, latent_size: int) -> Prior:
    """The prior that `model.latent_prior_type` names. Raises ValueError for another word."""
    return DiffusionPrior() if prior_type == "diffusion" else LatentPrior(latent_size, prior_type)
