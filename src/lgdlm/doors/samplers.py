"""The samplers, for a model of ours and for the networks of this room alike: a network stands for the model around it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lgdlm import sampling
from lgdlm.doors.network import OldNetwork
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling import TextSamples


def inner(model: nn.Module) -> TextLatentDiffusion:
    """The model of ours that `model` is or holds. Raises TypeError for any other."""
    if isinstance(model, TextLatentDiffusion):
        return model
    if isinstance(model, OldNetwork):
        return model.diffusion
    raise TypeError(f"a TextLatentDiffusion or a network of the doors is expected, got {type(model).__name__}")


def sample_text_from_latent(model: nn.Module, latent: Tensor, seq_len: int | None = None, *args: Any, **options: Any) -> TextSamples:
    """`lgdlm.sampling.sample_text_from_latent`: texts for latents [B, D] or [B, L, D]."""
    return sampling.sample_text_from_latent(inner(model), latent, seq_len, *args, **options)


def sample_latent_from_text(
    model: nn.Module, input_ids: Tensor, latent_dim: int | None = None, num_steps: int = 20, guidance_scale: float = 1.0, **options: Any
) -> Tensor:
    """`lgdlm.sampling.sample_latent_from_text`: latents [B, L, D] for tokens int64 [B, N]; `attention_mask` is an option."""
    return sampling.sample_latent_from_text(
        inner(model), input_ids, latent_dim=latent_dim, num_steps=num_steps, guidance_scale=guidance_scale, **options
    )


def sample_joint(
    model: nn.Module, batch_size: int, seq_len: int | None = None, latent_dim: int | None = None, *args: Any, **options: Any
) -> TextSamples:
    """`lgdlm.sampling.sample_joint`: `batch_size` texts with their latents, drawn together."""
    return sampling.sample_joint(inner(model), batch_size, seq_len, latent_dim, *args, **options)
