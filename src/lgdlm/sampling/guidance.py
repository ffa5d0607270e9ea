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
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.text_state import Answer

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
) -> Answer:
    """Guided logits at `pair.logits_at`, the guided clean latent (None unless `latent`) and in embedding diffusion the guided clean rows.

    `text` and `latent` say which of the two answers will be used: only those are guided. `past` is what stands before a block's text.
    """
    assert pair.logits_at is not None
    asked_at, pair = pair.logits_at, model.embedded(pair)
    branches = [pair]
    guide_text = text and guidance_scale != 1 and bool((pair.t_latent < 1).any())
    guide_latent = latent and guidance_scale != 1 and bool((pair.t_text < 1).any())
    if guide_text:
        branches.append(model.without_latent(pair, rng if past is None else past.rng))
    if guide_latent:
        branches.append(model.without_text(pair, rng).at(logits_at=torch.zeros_like(asked_at)))
    question = _stacked(branches if past is None else [past.before(branch, i) for i, branch in enumerate(branches)])
    prediction = model(question)
    asked = int(asked_at.sum())
    logits = prediction.text_logits[:asked]
    if guide_text:
        logits = torch.lerp(prediction.text_logits[asked:].float(), logits.float(), guidance_scale)
    rows = _rows(prediction, pair.size, guidance_scale if guide_text else 1.0) if text else None
    if not latent:
        return Answer(logits, None, rows)
    x0 = model.x0_latent(prediction, question)
    if not bool(torch.isfinite(x0).all()):
        raise InputError("NAN_LATENT", "model", "latent", "the denoiser's latents are not finite; sample from an earlier checkpoint")
    if guide_latent:
        return Answer(logits, torch.lerp(x0[-pair.size :], x0[: pair.size], guidance_scale), rows)
    return Answer(logits, x0[: pair.size], rows)


def _rows(prediction: Prediction, size: int, guidance_scale: float) -> Tensor | None:
    """The clean rows [B, N, E] of embedding diffusion, guided like logits; None in masked diffusion."""
    if prediction.embedding is None:
        return None
    found = prediction.embedding.float()
    if not bool(torch.isfinite(found).all()):
        raise InputError("NAN_LOGITS", "model", "embedding", "the denoiser's estimates are not finite; sample from an earlier checkpoint")
    return found[:size] if guidance_scale == 1 else torch.lerp(found[size : 2 * size], found[:size], guidance_scale)


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
        estimate=None if pairs[0].estimate is None else torch.cat([_estimate(p, pairs[0].estimate) for p in pairs]),
        memory=None if pairs[0].memory is None else BlockMemory.stacked([p.memory for p in pairs if p.memory is not None]),
    )


def _estimate(pair: NoisyPair, like: Tensor) -> Tensor:
    """The estimate beside a question; a text that was dropped has none, and the matrix it enters through makes nothing of zeros."""
    return torch.zeros_like(like) if pair.estimate is None else pair.estimate
