"""A denoiser under the signature of the earlier systems.

    network(text_tokens [B, N] | rows [B, N, E], latents [B, L, D] | [B, D], text_timesteps [B], latent_timesteps [B], attention_mask)
        -> text_logits [B, N, V], latent_pred [B, L, D]

A time that is None is 0: that modality is clean. A floating time lies in [0, 1]; an integer one counts the `latent_timesteps` entries of
the schedule's table, from 0, as `ContinuousDiffusion` does. Token V (one beyond the vocabulary) is the mask. Rows of embeddings are for
`model.text_process=embedding`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.config import Config
from lgdlm.doors.latent_noise import continuous_time
from lgdlm.doors.old_config import read_config
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion

EOS = 0  # of a network without a tokenizer: it never ends a text by itself


class OldNetwork(nn.Module):
    """A model of ours, `diffusion`, around the denoiser that `config` describes; its latents are taken as they are (mean 0, deviation 1).

    `config` is what `read_config` takes; `cluster_size` is 0. Raises InputError for a configuration that cannot be built.
    """

    denoiser_name: str

    def __init__(self, config: Any, vocab_size: int, latent_dim: int, cluster_size: int = 0, **model: Any):
        super().__init__()
        if cluster_size:
            raise ValueError(f"cluster_size {cluster_size}: there are no clusters of tokens, 0 is expected")
        self.config: Config = read_config(config, self.denoiser_name, latent_dim=latent_dim, **model)
        self.vocab_size, self.mask_id, self.latent_dim = vocab_size, vocab_size, latent_dim
        self.diffusion: TextLatentDiffusion = build_model(
            self.config.model,
            vocab_size=vocab_size,
            eos_id=EOS,
            latent_mean=torch.zeros(latent_dim),
            latent_std=torch.ones(latent_dim),
            text_weighting=self.config.loss.text_weighting,
            seed=self.config.training.seed,
        )

    def forward(
        self,
        text_tokens: Tensor,
        latents: Tensor,
        text_timesteps: Tensor | None = None,
        latent_timesteps: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """text_logits [B, N, V] and latent_pred [B, L, D] in the parameterisation of `model.latent_parameterization`.

        Raises ValueError for rows of embeddings where texts are noised as tokens, and for a time out of its range.
        """
        if text_tokens.is_floating_point() and self.config.model.text_process != "embedding":
            raise ValueError(f"text_tokens {tuple(text_tokens.shape)} are rows of numbers: they need model.text_process=embedding")
        size = text_tokens.shape[:2]
        seen = torch.ones(size, dtype=torch.bool, device=text_tokens.device) if attention_mask is None else attention_mask.bool()
        steps = self.config.model.latent_timesteps
        pair = NoisyPair(
            text=text_tokens,
            t_text=self._clock(text_timesteps, text_tokens, steps),
            latent=latents[:, None] if latents.dim() == 2 else latents,
            t_latent=self._clock(latent_timesteps, text_tokens, steps),
            attention_mask=seen,
        )
        answer = self.diffusion(pair)
        return answer.text_logits, answer.latent

    @staticmethod
    def _clock(t: Tensor | None, like: Tensor, steps: int) -> Tensor:
        """float32 [B] for a time [B], [B, 1] or a number."""
        if t is None:
            return torch.zeros(len(like), device=like.device)
        return continuous_time(torch.as_tensor(t, device=like.device), steps).float().reshape(-1).expand(len(like))
