"""The model people train, save, load and hand to samplers.

TextLatentDiffusion = denoiser + one process for each modality + the length + the latent's statistics
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.length import LengthHead
from lgdlm.models.linear_reading import LinearReading
from lgdlm.models.posterior import Posterior, TextLatentEncoder
from lgdlm.models.prior import Prior
from lgdlm.rng import Rng


class TextLatentDiffusion(nn.Module):
    """One denoiser for p(y, z), p(y given z) and p(z given y).

    `latent_mean` and `latent_std` [D] standardise latents before any noise and undo it when a sampler hands them out;
    they are buffers, so they travel in every checkpoint. `length` is None when texts end with EOS (`eos_id`).
    `reading` is an optional linear skip from the visible tokens to the latent: the denoiser then predicts a correction of it.
    `posterior` and `prior`, both or neither, are Stage II's: a latent of the text's own, and where latents come from without a text;
    `corrects_reading`: q's means are a correction of what the model reads from a text, E[z | y], which Stage II itself does not move.
    `identity` holds what a checkpoint must say about its data: tokenizer, encoder, projection. `text_process` says how texts are noised:
    its questions are tokens with masks, or rows of the token table with Gaussian noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        text_process: MaskedDiffusion | EmbeddingDiffusion,
        latent_process: GaussianDiffusion,
        length: LengthHead | None,
        latent_mean: Tensor,
        latent_std: Tensor,
        eos_id: int,
        identity: Mapping[str, object] | None = None,
        reading: LinearReading | None = None,
        posterior: TextLatentEncoder | None = None,
        prior: Prior | None = None,
        corrects_reading: bool = False,
    ):
        super().__init__()
        assert text_process.mask_id == denoiser.vocab_size, "the mask is one beyond the vocabulary"
        assert latent_mean.shape == latent_std.shape == (denoiser.latent_dim,)
        self.denoiser, self.text_process, self.latent_process, self.length = denoiser, text_process, latent_process, length
        assert reading is None or isinstance(text_process, MaskedDiffusion), "a linear reading is of tokens, and noised rows are none"
        assert (posterior is None) == (prior is None), "a posterior is measured against a prior"
        self.eos_id, self.identity, self.reading = eos_id, dict(identity or {}), reading
        self.posterior, self.prior, self.corrects_reading = posterior, prior, corrects_reading
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
    def longest(self) -> int | None:
        """Tokens of the longest text that it can write, the closing EOS included where there is one; None: no bound."""
        return self.length.max_length if self.length is not None else self.denoiser.max_length

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
        if isinstance(self.text_process, EmbeddingDiffusion) and answer.embedding is None:
            answer = replace(answer, embedding=self.denoiser.text_head.estimate(answer.hidden))
        if self.reading is None:
            return answer
        mean, variance = self.reading(pair)
        linear = self.latent_process.answer_of_gaussian(mean, variance, pair.latent, pair.t_latent)
        return replace(answer, latent=answer.latent + linear)

    def x0_latent(self, prediction: Prediction, pair: NoisyPair) -> Tensor:
        """The standardised clean latent that a prediction implies, [B, L, D]."""
        return self.latent_process.to_x0(prediction.latent.float(), pair.latent, pair.t_latent)

    def over(self, pair: NoisyPair, clean: Tensor) -> NoisyPair:
        """The question as the loss of the text `clean` int64 [B, N] asks it: in block diffusion, with what lies before each block."""
        return pair if self.denoiser.block_diffusion is None else pair.at(context=clean)

    def unknown_text(self, seen: Tensor, rng: Rng) -> Tensor:
        """A text of which nothing is known where `seen` bool [B, N]: masks int64 [B, N], EOS elsewhere; or pure noise float [B, N, E]."""
        if isinstance(self.text_process, EmbeddingDiffusion):
            return self.text_process.prior(tuple(seen.shape), rng)
        return torch.where(seen, self.mask_id, self.eos_id)

    def without_text(self, pair: NoisyPair, rng: Rng) -> NoisyPair:
        """The same question with the text dropped: all masks or pure noise, text clock at 1."""
        seen, text = pair.attention_mask, self.unknown_text(pair.attention_mask, rng)
        text = text if text.is_floating_point() else torch.where(seen, text, pair.text)
        return pair.at(text=text, t_text=torch.ones_like(pair.t_text), estimate=None)

    def embedded(self, pair: NoisyPair) -> NoisyPair:
        """The question with its tokens as rows where the text's process is one of rows: the same question, of one type with noised ones."""
        if not isinstance(self.text_process, EmbeddingDiffusion) or pair.text.is_floating_point():
            return pair
        return pair.at(text=self.text_process.embed(pair.text))

    @torch.no_grad()
    def self_conditioned(self, pair: NoisyPair) -> NoisyPair:
        """The question with the network's own first estimate of the clean rows beside it, as data."""
        estimate = self(pair.at(logits_at=torch.zeros_like(pair.attention_mask))).embedding
        assert estimate is not None, "only embedding diffusion estimates rows"
        torch.clear_autocast_cache()  # it keeps the first copy of a weight, and one made without gradient would have none to give
        return pair.at(estimate=estimate.float())

    def without_latent(self, pair: NoisyPair, rng: Rng) -> NoisyPair:
        """The same question with the latent dropped: pure noise, latent clock at 1. No null embedding is needed."""
        return pair.at(latent=rng.normal("dropped latent", *self.latent_shape), t_latent=torch.ones_like(pair.t_latent))

    def alone(self, latent: Tensor, t_latent: Tensor) -> NoisyPair:
        """The question about a latent with no text in sight: one mask, since a row of them would say how long the text is."""
        size, device = len(latent), latent.device
        text, seen = torch.full((size, 1), self.mask_id, device=device), torch.ones(size, 1, dtype=torch.bool, device=device)
        return NoisyPair(text, torch.ones_like(t_latent), latent, t_latent, seen, torch.zeros_like(seen))

    def clean_text(self, text: Tensor, attention_mask: Tensor) -> NoisyPair:
        """The question about a known text int64 [B, N] and an unknown latent, a function of the text alone.

        The latent's clock stands at 1 and the latent itself at 0, the mean of the noise it would be there.
        """
        clean = torch.zeros(len(text), device=text.device)
        unknown = clean.new_zeros(len(text), *self.latent_shape)
        return NoisyPair(text, clean, unknown, clean + 1, attention_mask, torch.zeros_like(attention_mask))

    def read(self, text: Tensor, attention_mask: Tensor) -> tuple[Posterior, Tensor]:
        """q(z | text) of clean tokens int64 [B, N], and the text states [B, N, H] that it was read from."""
        assert self.posterior is not None, "a Stage I model has no posterior"
        pair = self.clean_text(text, attention_mask)
        answer = self(pair)
        mean, log_variance = (x.view(len(text), *self.latent_shape) for x in self.posterior(answer.hidden, attention_mask))
        if self.corrects_reading:
            mean = mean + self.x0_latent(answer, pair).detach()
        return Posterior(mean, log_variance), answer.hidden
