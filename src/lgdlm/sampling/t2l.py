"""Text to latent: the text's clock stands at 0, the latent's runs from 1 to 0.

sample   z ~ p(z | y)       a diverse draw; the mean of several approaches the point estimate
predict  E[z | y]           one answer from pure noise: the point estimate with the least squared error
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.guidance import answering, ask
from lgdlm.sampling.request import Rows, checked_text, checked_width, identities, refusal
from lgdlm.sampling.reverse import Callback, Steering, reverse


def sample_latent_from_text(
    model: TextLatentDiffusion,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    latent_dim: int | None = None,
    num_steps: int = 20,
    guidance_scale: float = 1.0,
    sampler: str = "ddim",
    seed: int = 0,
    rows: Rows = None,
    average: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Latents [B, L, D] in the encoder's units for texts int64 [B, N]; `attention_mask` bool [B, N], None: every token is real.

    `sampler` is a key of `SAMPLERS`; `average` is how many independent draws are averaged. Row r's latent depends on (seed, rows[r]) and
    its text alone. Raises InputError: LATENT_DIM where `latent_dim` is not the model's, EMPTY_TEXT, ARGUMENT.
    """
    if average < 1:
        raise refusal("average", f"at least 1 is expected, got {average}")
    checked_width(model, latent_dim)
    steering = Steering(sampler=sampler, guidance_scale=guidance_scale, callback=callback)
    text, seen = checked_text(model, input_ids, attention_mask)
    count, process = len(text), model.latent_process
    paths = hold(num_steps, count, device=model.device), descend(num_steps, count, process.latest_time, model.device)
    total = torch.zeros(count, *model.latent_shape, device=model.device)
    for draw in range(average):
        rng = identities(model, count, seed, rows, draw)
        start = process.prior((count, *model.latent_shape), rng)
        total += reverse(model, text, start, seen, *paths, rng, steering)[1]
    return model.unstandardise(total / average)


def predict_latent(
    model: TextLatentDiffusion,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
    rows: Rows = None,
) -> Tensor:
    """E[z | y] in one step, [B, L, D] in the encoder's units: the clean latent predicted from pure noise."""
    text, seen = checked_text(model, input_ids, attention_mask)
    rng = identities(model, len(text), seed, rows)
    noise = model.latent_process.prior((len(text), *model.latent_shape), rng)
    clean = torch.zeros(len(text), device=model.device)
    pair = NoisyPair(text, clean, noise, clean + model.latent_process.latest_time, seen, torch.zeros_like(seen))
    with answering(model):
        x0 = ask(model, pair, rng, guidance_scale, text=False).latent
    assert x0 is not None
    return model.unstandardise(x0)
