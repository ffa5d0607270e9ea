"""The model people train, save, load and hand to samplers.

TextLatentDiffusion = denoiser + one process for each modality + the length + the latent's statistics
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.length import LengthHead
from lgdlm.models.linear_reading import LinearReading
from lgdlm.rng import Rng


class TextLatentDiffusion(nn.Module):
    """One denoiser for p(y, z), p(y given z) and p(z given y).

    `latent_mean` and `latent_std` [D] standardise latents before any noise and undo it when a sampler hands them out;
    they are buffers, so they travel in every checkpoint. `length` is None when texts end with EOS (`eos_id`).
    `reading` is an optional linear skip from the visible tokens to the latent: the denoiser then predicts a correction of it.
    `identity` holds what a checkpoint must say about its data: tokenizer, encoder, projection.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        text_process: MaskedDiffusion,
        latent_process: GaussianDiffusion,
        length: LengthHead | None,
        latent_mean: Tensor,
        latent_std: Tensor,
        eos_id: int,
        identity: Mapping[str, object] | None = None,
        reading: LinearReading | None = None,
    ):
        super().__init__()
        assert text_process.mask_id == denoiser.vocab_size, "the mask is one beyond the vocabulary"
        assert latent_mean.shape == latent_std.shape == (denoiser.latent_dim,)
        self.denoiser, self.text_process, self.latent_process, self.length = denoiser, text_process, latent_process, length
        self.eos_id, self.identity, self.reading = eos_id, dict(identity or {}), reading
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", latent_mean.float())
        self.register_buffer("latent_std", latent_std.float())

    @property
    def mask_id(self) -> int:
        return self.text_process.mask_id

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D)"""
        return self.denoiser.latent_len, self.denoiser.latent_dim

    @property
    def device(self) -> torch.device:
        return self.latent_mean.device

    def standardise(self, latent: Tensor) -> Tensor:
        """[B, L, D] or [B, D] as the encoder gives it, to zero mean and unit variance per dimension, [B, L, D]."""
        if latent.shape[-1] != self.denoiser.latent_dim:
            raise ValueError(f"latent has {latent.shape[-1]} dimensions, the model {self.denoiser.latent_dim}: project it first")
        latent = latent[:, None] if latent.dim() == 2 else latent
        return (latent.float() - self.latent_mean) / self.latent_std

    def unstandardise(self, latent: Tensor) -> Tensor:
        """The encoder's own units again, [B, L, D]."""
        return latent * self.latent_std + self.latent_mean

    def forward(self, pair: NoisyPair) -> Prediction:
        answer = self.denoiser(pair)
        if self.reading is None:
            return answer
        mean, variance = self.reading(pair)
        linear = self.latent_process.answer_of_gaussian(mean, variance, pair.latent, pair.t_latent)
        return replace(answer, latent=answer.latent + linear)

    def x0_latent(self, prediction: Prediction, pair: NoisyPair) -> Tensor:
        """The standardised clean latent that a prediction implies, [B, L, D]."""
        return self.latent_process.to_x0(prediction.latent.float(), pair.latent, pair.t_latent)

    def without_text(self, pair: NoisyPair) -> NoisyPair:
        """The same question with the text dropped: all masks, text clock at 1."""
        text = torch.where(pair.attention_mask, self.mask_id, pair.text)
        return pair.at(text=text, t_text=torch.ones_like(pair.t_text))

    def without_latent(self, pair: NoisyPair, rng: Rng) -> NoisyPair:
        """The same question with the latent dropped: pure noise, latent clock at 1. No null embedding is needed."""
        return pair.at(latent=rng.normal("dropped latent", *self.latent_shape), t_latent=torch.ones_like(pair.t_latent))
