"""Joint sampling: both clocks run from 1 to 0 together, in one reverse process.

n ~ p(n),   (y, z) ~ p(y, z | n)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.block import reverse_text
from lgdlm.sampling.clock import descend
from lgdlm.sampling.decode import TextSamples, finished
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.guidance import answering
from lgdlm.sampling.request import Rows, canvas, checked_width, identities, lengths, refusal
from lgdlm.sampling.reverse import Callback, Steering


def sample_joint(
    model: TextLatentDiffusion,
    batch_size: int,
    seq_len: int | None = None,
    latent_dim: int | None = None,
    num_steps: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    order: str = "ancestral",
    sampler: str = "ddim",
    seed: int = 0,
    rows: Rows = None,
    length: Tensor | int | None = None,
    remask: float = 0.0,
    rounding: str = "logits",
    text_sampler: str = "ddim",
    callback: Callback | None = None,
) -> TextSamples:
    """`batch_size` pairs of text and latent (`TextSamples.latent`, in the encoder's units).

    The arguments are those of `sample_text_from_latent` and `sample_latent_from_text`; with a `guidance_scale` other than 1 each side is
    guided by the other. The length comes from p(length), the length head at pure noise. Raises InputError as they do.
    """
    if batch_size < 1:
        raise refusal("batch_size", f"at least 1 is expected, got {batch_size}")
    checked_width(model, latent_dim)
    draw = TokenDraw(temperature, top_k, top_p)
    steering = Steering(draw, order, sampler, guidance_scale, remask, callback, rounding=rounding, text_sampler=text_sampler)
    rng = identities(model, batch_size, seed, rows)
    noise = model.latent_process.prior((batch_size, *model.latent_shape), rng)
    with answering(model):
        unknown = torch.ones(batch_size, device=model.device)
        sizes = lengths(model, noise, unknown, rng, temperature, seq_len, length)
    text, seen = canvas(model, sizes)
    text_path = descend(num_steps, batch_size, device=model.device)
    latent_path = descend(num_steps, batch_size, model.latent_process.latest_time, model.device)
    tokens, latent = reverse_text(model, text, noise, seen, text_path, latent_path, rng, steering)
    return finished(model, tokens, seen, model.unstandardise(latent))
