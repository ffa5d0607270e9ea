"""Parameters held still in one term of a loss: it is computed with them and moves none of them.

    decoder's own = text head + length head - what they share with the token table

is all that a text question has and a latent question has not: whatever else the decoder reads with, the encoder reads with too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from lgdlm.models.joint import TextLatentDiffusion


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """What is computed inside has no gradient to them; what was frozen before stays so afterwards."""
    held = [p for p in parameters if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def decoder_own(model: TextLatentDiffusion) -> list[nn.Parameter]:
    """The parameters that no latent prediction depends on, whatever denoiser it is: those of the two heads that the token table does
    not own (a tied table is read by both)."""
    shared = {id(p) for p in model.denoiser.embedding.parameters()}
    heads: list[nn.Module] = [model.denoiser.text_head, *([] if model.length is None else [model.length])]
    return [p for head in heads for p in head.parameters() if id(p) not in shared]


def encoder_side(model: TextLatentDiffusion) -> list[nn.Parameter]:
    """Every other parameter."""
    own = {id(p) for p in decoder_own(model)}
    return [p for p in model.parameters() if id(p) not in own]
