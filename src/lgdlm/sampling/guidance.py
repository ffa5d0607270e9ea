"""Asking the denoiser, with classifier-free guidance.

    logits = uncond + w (cond - uncond)          x0 = uncond + w (cond - uncond)

The unconditional branch is the same question with the other modality dropped (its clock at 1), so no null embedding exists. All branches go
through the network in one call; w = 1 has one branch, and so has a step whose other clock is at 1 already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lgdlm.errors import InputError
from lgdlm.models.block_causal import BlockMemory
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng

if TYPE_CHECKING:
    from lgdlm.sampling.block_past import Past


@contextmanager
def answering(model: TextLatentDiffusion) -> Iterator[None]:
    """No gradients and no dropout inside; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def ask(
    model: TextLatentDiffusion,
    pair: NoisyPair,
    rng: Rng,
    guidance_scale: float = 1.0,
    text: bool = True,
    latent: bool = True,
    past: Past | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Guided logits float [M, V] at `pair.logits_at`, and the guided clean latent [B, L, D] (standardised; None unless `latent`).

    `text` and `latent` say which of the two answers will be used: only those are guided. `past` is what stands before a block's text.
    """
    assert pair.logits_at is not None
    branches = [pair]
    guide_text = text and guidance_scale != 1 and bool((pair.t_latent < 1).any())
    guide_latent = latent and guidance_scale != 1 and bool((pair.t_text < 1).any())
    if guide_text:
        branches.append(model.without_latent(pair, rng if past is None else past.rng))
    if guide_latent:
        branches.append(model.without_text(pair).at(logits_at=torch.zeros_like(pair.logits_at)))
    question = _stacked(branches if past is None else [past.before(branch, i) for i, branch in enumerate(branches)])
    prediction = model(question)
    asked = int(pair.logits_at.sum())
    logits = prediction.text_logits[:asked]
    if guide_text:
        logits = torch.lerp(prediction.text_logits[asked:].float(), logits.float(), guidance_scale)
    if not latent:
        return logits, None
    x0 = model.x0_latent(prediction, question)
    if not bool(torch.isfinite(x0).all()):
        raise InputError("NAN_LATENT", "model", "latent", "the denoiser's latents are not finite; sample from an earlier checkpoint")
    if guide_latent:
        return logits, torch.lerp(x0[-pair.size :], x0[: pair.size], guidance_scale)
    return logits, x0[: pair.size]


def _stacked(pairs: list[NoisyPair]) -> NoisyPair:
    """The questions as one, row after row."""
    if len(pairs) == 1:
        return pairs[0]
    return NoisyPair(
        text=torch.cat([p.text for p in pairs]),
        t_text=torch.cat([p.t_text for p in pairs]),
        latent=torch.cat([p.latent for p in pairs]),
        t_latent=torch.cat([p.t_latent for p in pairs]),
        attention_mask=torch.cat([p.attention_mask for p in pairs]),
        logits_at=torch.cat([p.logits_at for p in pairs if p.logits_at is not None]),
        context=None if pairs[0].context is None else torch.cat([p.context for p in pairs if p.context is not None]),
        memory=None if pairs[0].memory is None else BlockMemory.stacked([p.memory for p in pairs if p.memory is not None]),
    )
