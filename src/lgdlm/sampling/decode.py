"""From sampled tokens to text.

predicted length:  y_1 ... y_n                                text = decode(y)
eos:               y_1 ... y_n EOS | whatever the canvas had  text = decode(y before the first EOS)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.length import before_end


class Decoder(Protocol):
    """The part of a tokenizer that sampling needs."""

    eos_id: int

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class TextSamples:
    """Sampled texts, and latents where there are any.

    tokens          int64 [B, N]     never the mask; EOS where a row has no text
    attention_mask  bool [B, N]      True at text, and at the first EOS where the model ends its texts with one
    fill_mask       bool [B, N]      True at the canvas behind the first EOS (seen by the network, no text); None with predicted lengths
    latent          float [B, L, D]  in the encoder's units: the condition, or what was drawn with the text; None: unknown
    score           float [B]        of `best_of`: cosine between the latent and the text's own predicted latent
    """

    tokens: Tensor
    attention_mask: Tensor
    fill_mask: Tensor | None = None
    latent: Tensor | None = None
    score: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text (with its EOS, if any), int64 [B]."""
        return self.attention_mask.sum(dim=1)

    @property
    def seen_mask(self) -> Tensor:
        """What a denoiser attends to, bool [B, N]: text and filling."""
        return self.attention_mask if self.fill_mask is None else self.attention_mask | self.fill_mask

    def texts(self, tokenizer: Decoder) -> list[str]:
        """The texts, each cut before its first EOS."""
        return decode(self.tokens, self.attention_mask, tokenizer)


def finished(model: TextLatentDiffusion, tokens: Tensor, seen: Tensor, latent: Tensor | None) -> TextSamples:
    """The samples of a reverse process over the positions `seen`; in eos mode everything behind the first EOS becomes filling."""
    if model.length is not None:
        return TextSamples(torch.where(seen, tokens, model.eos_id), seen, None, latent)
    text = seen & before_end(tokens, model.eos_id, keep_end=True)
    return TextSamples(torch.where(text, tokens, model.eos_id), text, seen & ~text, latent)


def decode(tokens: Tensor, attention_mask: Tensor, tokenizer: Decoder) -> list[str]:
    """int64 [B, N] and bool [B, N] to B texts, each cut before its first EOS."""
    kept = attention_mask & before_end(torch.where(attention_mask, tokens, -1), tokenizer.eos_id)
    return [tokenizer.decode(row[keep].tolist()) for row, keep in zip(tokens.cpu(), kept.cpu(), strict=True)]
