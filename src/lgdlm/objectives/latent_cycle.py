"""The latent cycle, z -> y' -> z: a text is written from a latent, and the latent is read from it.

    y' = pseudo-text of z          z_t = alpha z + sigma e,  t ~ U(t_min, t_max]          L = |x0(y', z_t, t) - z|^2 / D

The time stays below t_max, where a latent can be recovered in every parameterisation. The loss is in the latent's own units, so
that it compares with the error of T2L, and it moves the encoder; with `gumbel_st` the decoder too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.diffusion.times import Uniform
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.pseudo_text import SAMPLINGS, PseudoText, pseudo_text
from lgdlm.rng import Rng


@dataclass(frozen=True)
class LatentCycle:
    """`sampling`: see `pseudo_text`, with `temperature` for `gumbel_st`."""

    sampling: str = "argmax"
    t_min: float = 0.0
    t_max: float = 0.98
    temperature: float = 1.0

    def __post_init__(self) -> None:
        assert self.sampling in SAMPLINGS
        assert 0 <= self.t_min <= self.t_max <= 1

    def times(self, rng: Rng) -> Tensor:
        """float32 [B], spread evenly over (t_min, t_max]."""
        return self.t_min + (self.t_max - self.t_min) * Uniform()(rng, "latent")

    def __call__(self, model: TextLatentDiffusion, z0: Tensor, width: int, rng: Rng) -> tuple[Tensor, Tensor, PseudoText]:
        """The loss of each standardised latent z0 [B, L, D], float32 [B], with its time [B] and the pseudo-text.

        `width`: see `pseudo_text`. Logits that are not finite make the loss NaN, for the guard to skip the step.
        """
        text = pseudo_text(model, z0, width, rng, self.sampling, self.temperature)
        t = self.times(rng)
        pair = NoisyPair(
            text=text.tokens,
            t_text=torch.zeros_like(t),
            latent=model.latent_process.noise(z0, t, rng),
            t_latent=t,
            attention_mask=text.seen,
            logits_at=torch.zeros_like(text.seen),
            soft=text.soft,
        )
        errors = (model.x0_latent(model(pair), pair) - z0).square().flatten(1).mean(dim=1)
        return errors if text.finite else errors * float("nan"), t, text
