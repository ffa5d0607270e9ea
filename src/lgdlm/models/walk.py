"""How the two halves of a layer walk along a row: `Walk` takes both from end to end.

    ahead   S before the first token is the state handed in        back   starts from nothing at the last token

A walk decides where a half begins and ends, never what it computes there: `lgdlm.models.block_causal` has another one.
To both halves a row is its real tokens: padding is put behind them first (`padding_last`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lgdlm.models.time_mix import Signals


class Recurrence(Protocol):
    """A time mix over the signals of a row, from the left or from the right: its answer [B, N, H] and the state behind it."""

    def __call__(self, s: Signals, S: Tensor | None, reverse: bool, keep: bool) -> tuple[Tensor, Tensor | None]: ...

    def empty(self, s: Signals) -> Tensor:
        """The state before any text, [B, G, K, K]."""
        ...


class Walk:
    """Both halves see the whole row."""

    @property
    def span(self) -> int | None:
        """Tokens after which the right-to-left half starts anew; None: never."""
        return None

    def ahead(self, run: Recurrence, s: Signals, S: Tensor | None, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The left-to-right half from state `S`; its state is wanted where `keep`."""
        return run(s, S, False, keep)

    def back(self, run: Recurrence, s: Signals) -> Tensor:
        """The right-to-left half."""
        return run(s, None, True, False)[0]

    def last(self, x: Tensor, mask: Tensor | None, before: Tensor | None) -> Tensor:
        """What a token shift remembers of x [B, N, H] where `before` [B, H] was remembered so far."""
        return last_real(x, mask, before)


WHOLE_ROW = Walk()


def last_real(x: Tensor, mask: Tensor | None, before: Tensor | None) -> Tensor:
    """The last real row [B, H] of each [B, N, H]; where a row of this piece is all padding, the one from before."""
    if mask is None:
        return x[:, -1]
    lengths = mask.sum(dim=1)
    last = x[torch.arange(len(x), device=x.device), lengths.clamp(min=1) - 1]  # all padding: x is zero there
    return last if before is None else torch.where(lengths[:, None] > 0, last, before.to(x.dtype))


def padding_last(mask: Tensor, before: int = 0, after: int = 0) -> tuple[Tensor | None, Tensor | None]:
    """The order [B, before + N + after] that puts padding behind everything real, and what is real in that order.

    `before` and `after` are real positions around those of `mask` [B, N]. None and None where nothing is padding.
    """
    if bool(mask.all()):
        return None, None
    real = torch.cat([mask.new_ones(len(mask), before), mask, mask.new_ones(len(mask), after)], dim=1)
    order = (~real).long().argsort(dim=1, stable=True)
    return order, torch.take_along_dim(real, order, dim=1)


def ordered(x: Tensor, order: Tensor | None) -> Tensor:
    """x [B, N, ...] in that order."""
    return x if order is None else torch.take_along_dim(x, order.view(*order.shape, *[1] * (x.dim() - 2)), dim=1)


def in_place(x: Tensor, order: Tensor | None) -> Tensor:
    """Back from `ordered`."""
    return x if order is None else ordered(x, order.argsort(dim=1))
