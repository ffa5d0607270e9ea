"""Latent to text: the latent's clock stands at 0, the text's runs from 1 to 0.

n ~ p(n | z),   y ~ p(y | n, z)             best_of: argmax over draws of cos(z, E[z | y]), judged by the model itself
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.decode import TextSamples, finished
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.guidance import answering
from lgdlm.sampling.request import Rows, canvas, identities, lengths, refusal, standardised
from lgdlm.sampling.reverse import Callback, Steering, reverse
from lgdlm.sampling.t2l import predict_latent


def sample_text_from_latent(
    model: TextLatentDiffusion,
    latent: Tensor,
    seq_len: int | None = None,
    num_steps: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    order: str = "ancestral",
    seed: int = 0,
    rows: Rows = None,
    length: Tensor | int | None = None,
    remask: float = 0.0,
    callback: Callback | None = None,
    draw: int = 0,
) -> TextSamples:
    """Texts for raw latents [B, D] or [B, L, D].

    The length is drawn from p(length | latent) unless the caller fixes it: `seq_len` one for all, `length` int64 [B] one a text; a model
    that ends its texts with EOS needs `seq_len` as the room there is. `temperature`, `top_k`, `top_p`: see `TokenDraw`; `order`: a key of
    `REVEAL`; `guidance_scale`, `remask`, `callback`: see `Steering`. Row r's text depends on (seed, rows[r], draw) and its latent alone.
    Raises InputError for latents of another width (LATENT_DIM), non-finite ones (NAN_LATENT) and arguments out of range.
    """
    steering = Steering(TokenDraw(temperature, top_k, top_p), order, guidance_scale=guidance_scale, remask=remask, callback=callback)
    condition = standardised(model, latent)
    count = len(condition)
    rng = identities(model, count, seed, rows, draw)
    with answering(model):
        sizes = lengths(model, condition, condition.new_zeros(count), rng, temperature, seq_len, length)
    text, seen = canvas(model, sizes)
    paths = descend(num_steps, count, device=model.device), hold(num_steps, count, device=model.device)
    tokens, _ = reverse(model, text, condition, seen, *paths, rng, steering)
    return finished(model, tokens, seen, model.unstandardise(condition))


def best_of(
    model: TextLatentDiffusion, latent: Tensor, candidates: int = 8, seed: int = 0, rows: Rows = None, **options: object
) -> TextSamples:
    """Of `candidates` draws of each text, the one whose own one-step latent lies nearest (cosine, raw units) to the given latent.

    No external encoder is asked. `options` are those of `sample_text_from_latent`; candidate 0 is what that function returns.
    """
    if candidates < 1:
        raise refusal("candidates", f"at least 1 is expected, got {candidates}")
    best: TextSamples | None = None
    for draw in range(candidates):
        sample = sample_text_from_latent(model, latent, seed=seed, rows=rows, draw=draw, **options)  # type: ignore[arg-type]
        assert sample.latent is not None
        predicted = predict_latent(model, sample.tokens, sample.seen_mask, seed=seed, rows=rows)
        score = F.cosine_similarity(predicted.flatten(1), sample.latent.flatten(1), dim=1)
        best = replace(sample, score=score) if best is None else _better(best, replace(sample, score=score), model.eos_id)
    assert best is not None
    return best


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
