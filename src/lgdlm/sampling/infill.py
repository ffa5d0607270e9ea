"""Infilling and editing: the text's clock starts part of the way, given tokens stand still.

infill   keep what is given, mask the rest: t_text starts at the share that is masked, row by row
edit     y_t ~ q(y_t | y) at t = share, then back to 0 towards a target latent (partial-mask editing)

In embedding diffusion given tokens take the noise of the clock, which then starts at 1, and an edit noises every token as far as `share`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.block import reverse_text
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.decode import TextSamples, finished
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.request import Rows, checked_text, identities, refusal, standardised
from lgdlm.sampling.reverse import Callback, Steering


def infill(
    model: TextLatentDiffusion,
    tokens: Tensor,
    keep_mask: Tensor,
    latent: Tensor | None = None,
    attention_mask: Tensor | None = None,
    num_steps: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    order: str = "ancestral",
    seed: int = 0,
    rows: Rows = None,
    remask: float = 0.0,
    rounding: str = "logits",
    text_sampler: str = "ddim",
    callback: Callback | None = None,
) -> TextSamples:
    """Texts int64 [B, N] whose tokens are kept where `keep_mask` bool [B, N] is True and drawn elsewhere (what stands there is not read).

    `latent` [B, D] or [B, L, D], raw, is the condition; without one the latent stays unknown (its clock at 1). A row's length is given
    by `attention_mask`. Raises InputError: ARGUMENT, LATENT_DIM, NAN_LATENT, EMPTY_TEXT.
    """
    steering = Steering(
        TokenDraw(temperature, top_k, top_p), order, guidance_scale=guidance_scale, remask=remask, callback=callback,
        rounding=rounding, text_sampler=text_sampler,
    )  # fmt: skip
    if keep_mask.shape != tokens.shape:
        raise refusal("keep_mask", f"one entry a token is expected: {list(tokens.shape)}, got {list(keep_mask.shape)}")
    kept = keep_mask.to(model.device, torch.bool)
    text, seen = checked_text(model, torch.where(kept, tokens.to(model.device), model.mask_id), attention_mask, masks=True)
    if bool((text == model.mask_id)[kept & seen].any()):
        raise refusal("keep_mask", "a mask cannot be kept; leave its entry False")
    open_ = seen & ~kept
    rng = identities(model, len(text), seed, rows)
    start = model.text_process.start_time(open_, seen)
    return _refine(model, text, seen, open_, latent, start, num_steps, rng, steering)


def edit(
    model: TextLatentDiffusion,
    tokens: Tensor,
    share: float,
    latent: Tensor,
    attention_mask: Tensor | None = None,
    num_steps: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    order: str = "ancestral",
    seed: int = 0,
    rows: Rows = None,
    remask: float = 0.0,
    rounding: str = "logits",
    text_sampler: str = "ddim",
    callback: Callback | None = None,
    draw: int = 0,
) -> TextSamples:
    """Texts int64 [B, N] moved towards raw latents [B, D] or [B, L, D]: each token is masked with probability `share` and drawn anew.

    `share` 0 leaves the text as it is, 1 writes another of the same length. Row r's answer depends on (seed, rows[r], draw) and its own
    text and latent alone.
    Raises InputError: ARGUMENT, LATENT_DIM, NAN_LATENT, EMPTY_TEXT.
    """
    steering = Steering(
        TokenDraw(temperature, top_k, top_p), order, guidance_scale=guidance_scale, remask=remask, callback=callback,
        rounding=rounding, text_sampler=text_sampler,
    )  # fmt: skip
    if not 0 <= share <= 1:
        raise refusal("share", f"0 to 1 is expected, got {share}")
    text, seen = checked_text(model, tokens, attention_mask)
    rng = identities(model, len(text), seed, rows, draw)
    start = torch.full((len(text),), share, device=model.device)
    noised = model.text_process.noise(text, start, rng, seen)
    return _refine(model, noised, seen, model.text_process.masked(noised, seen), latent, start, num_steps, rng, steering)


def _refine(
    model: TextLatentDiffusion,
    text: Tensor,
    seen: Tensor,
    editable: Tensor,
    latent: Tensor | None,
    start: Tensor,
    num_steps: int,
    rng: Rng,
    steering: Steering,
) -> TextSamples:
    count = len(text)
    text_path = descend(num_steps, count, start, model.device)
    if latent is None:
        unknown = model.latent_process.prior((count, *model.latent_shape), rng)
        state, latent_path = unknown, hold(num_steps, count, 1.0, model.device)
    else:
        state, latent_path = standardised(model, latent, count), hold(num_steps, count, 0.0, model.device)
    tokens, _ = reverse_text(model, text, state, seen, text_path, latent_path, rng, steering, editable)
    return finished(model, tokens, seen, None if latent is None else model.unstandardise(state))
