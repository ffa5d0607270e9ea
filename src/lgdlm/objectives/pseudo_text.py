"""Pseudo-text: what the decoder says of a latent in one prediction, taken for a text.

    n ~ p(n | z),   y'_i ~ p(y_i | n masks, z)   for i <= n               no loop: every position on its own

    argmax        the likeliest length, and the likeliest token everywhere
    categorical   both drawn
    gumbel_st     y' = argmax(l + g), g Gumbel noise; its gradient is that of softmax((l + g) / temperature) (straight-through)

Logits have no entry for the mask, so it is never drawn. Where texts end with EOS the first one ends the pseudo-text, on a canvas as wide
as the batch's rows; lengths, like hard tokens, carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.diffusion.categorical import draw, likeliest
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.length import before_end
from lgdlm.rng import Rng

SAMPLINGS = ("argmax", "categorical", "gumbel_st")


@dataclass(frozen=True)
class PseudoText:
    """tokens int64 [B, N], EOS behind a text's end; seen bool [B, N]: the text, its EOS included where there is one;
    soft float [B, N, V] of `gumbel_st`, else None; finite: whether the logits were, without which the tokens mean nothing."""

    tokens: Tensor
    seen: Tensor
    soft: Tensor | None
    finite: bool


def pseudo_text(
    model: TextLatentDiffusion, latent: Tensor, width: int, rng: Rng, sampling: str = "argmax", temperature: float = 1.0
) -> PseudoText:
    """A text for each standardised latent [B, L, D]. `width` is the canvas where texts end with EOS; predicted lengths bring their own.

    Only `gumbel_st` has a gradient (to the decoder and to `latent`); its noise is a number a token of the vocabulary a position, which
    is as much work as the vocabulary head.
    """
    assert sampling in SAMPLINGS, sampling
    with torch.set_grad_enabled(torch.is_grad_enabled() and sampling == "gumbel_st"):
        clean = torch.zeros(len(latent), device=latent.device)
        canvas, finite = _canvas(model, latent, clean, width, rng, sampling)
        masks = torch.where(canvas, model.mask_id, model.eos_id)
        logits = model(NoisyPair(model.unknown_text(canvas, rng), clean + 1, latent, clean, canvas, logits_at=canvas)).text_logits
        finite = finite and bool(torch.isfinite(logits).all())
        size = canvas.shape[1]
        soft = None
        if not finite:
            drawn = torch.full((len(logits),), model.eos_id, device=logits.device)
        elif sampling == "gumbel_st":
            gumbel = -(-rng.uniform("gumbel", size, logits.shape[1])[canvas].log()).log()
            noisy = logits.float() + gumbel.float()
            drawn = likeliest(noisy.detach())
            soft = noisy.new_zeros(*canvas.shape, noisy.shape[1])
            soft[canvas] = (noisy / temperature).softmax(dim=1)
        else:
            drawn = likeliest(logits) if sampling == "argmax" else draw(logits, rng.uniform("pseudo-text", size)[canvas])
    tokens = masks.masked_scatter(canvas, drawn)
    seen = canvas if model.length is not None else before_end(tokens, model.eos_id, keep_end=True)
    return PseudoText(torch.where(seen, tokens, model.eos_id), seen, soft, finite)


@torch.no_grad()
def _canvas(model: TextLatentDiffusion, latent: Tensor, clean: Tensor, width: int, rng: Rng, sampling: str) -> tuple[Tensor, bool]:
    """bool [B, N]: where a token is asked for; and whether the length's logits were finite (else every text has one token)."""
    if model.length is None:
        return torch.ones(len(latent), width, dtype=torch.bool, device=latent.device), True
    logits = model.length(latent, clean).float()
    if not bool(torch.isfinite(logits).all()):
        return torch.ones(len(latent), 1, dtype=torch.bool, device=latent.device), False
    lengths = 1 + (likeliest(logits) if sampling == "argmax" else draw(logits, rng.uniform("pseudo-text length")))
    return torch.arange(int(lengths.max()), device=latent.device) < lengths[:, None], True
