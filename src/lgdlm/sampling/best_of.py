"""Latent to text with a choice: several draws, then edits of the winner, judged by the model itself.

    score(y) = cos(z, E[z | y])        E[z | y]: the model's own one-step latent of the text, no external encoder
    draws    y = argmax over k candidates of score
    rounds   y' = edit of y with half of its tokens drawn anew;   y = y' where score(y') > score(y)

A round costs half a draw, and starts from a good text: measured in docs/log.md against as many further draws.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.decode import TextSamples
from lgdlm.sampling.infill import edit
from lgdlm.sampling.l2t import sample_text_from_latent
from lgdlm.sampling.request import Rows, refusal
from lgdlm.sampling.t2l import predict_latent

SHARE = 0.5  # of a text's tokens that a round draws anew


def best_of(
    model: TextLatentDiffusion,
    latent: Tensor,
    candidates: int = 8,
    rounds: int = 0,
    num_steps: int = 32,
    seed: int = 0,
    rows: Rows = None,
    seq_len: int | None = None,
    length: Tensor | int | None = None,
    **options: Any,
) -> TextSamples:
    """The text of the highest score, of `candidates` draws for each latent [B, D] or [B, L, D] and `rounds` of edits; `.score` float [B].

    The other arguments are those of `sample_text_from_latent`; candidate 0 is what that function returns. An edit keeps its text's canvas.
    Raises InputError for counts out of range (ARGUMENT) and as that function does.
    """
    for name, count, least in (("candidates", candidates, 1), ("rounds", rounds, 0)):
        if count < least:
            raise refusal(name, f"at least {least} is expected, got {count}")
    shared = {"seed": seed, "rows": rows, **options}

    def drawn(draw: int) -> TextSamples:
        return _scored(model, sample_text_from_latent(model, latent, seq_len, num_steps, length=length, draw=draw, **shared), seed, rows)

    best = drawn(0)
    for draw in range(1, candidates):
        best = _better(best, drawn(draw), model.eos_id)
    for draw in range(candidates, candidates + rounds):
        steps = math.ceil(SHARE * num_steps)
        edited = edit(model, best.tokens, SHARE, latent, best.seen_mask, num_steps=steps, draw=draw, **shared)
        best = _better(best, _scored(model, edited, seed, rows), model.eos_id)
    return best


def _scored(model: TextLatentDiffusion, sample: TextSamples, seed: int, rows: Rows) -> TextSamples:
    assert sample.latent is not None
    predicted = predict_latent(model, sample.tokens, sample.attention_mask, seed=seed, rows=rows)
    return replace(sample, score=F.cosine_similarity(predicted.flatten(1), sample.latent.flatten(1), dim=1))


def _better(one: TextSamples, other: TextSamples, eos_id: int) -> TextSamples:
    """Row by row the sample with the higher score; the first where they are equal."""
    assert one.score is not None
    assert other.score is not None
    width = max(one.tokens.shape[1], other.tokens.shape[1])
    wins = other.score > one.score

    def merged(a: Tensor, b: Tensor, empty: int) -> Tensor:
        wide = [F.pad(x, (0, width - x.shape[1]), value=empty) for x in (a, b)]
        return torch.where(wins[:, None], wide[1], wide[0])

    fill = None
    if one.fill_mask is not None and other.fill_mask is not None:
        fill = merged(one.fill_mask, other.fill_mask, False)
    return TextSamples(
        merged(one.tokens, other.tokens, eos_id),
        merged(one.attention_mask, other.attention_mask, False),
        fill,
        one.latent,
        torch.where(wins, other.score, one.score),
    )
