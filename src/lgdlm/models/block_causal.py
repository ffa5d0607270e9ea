"""RWKV-7 over a text in blocks of K tokens: both ways inside a block, left to right across blocks.

    block j    h_f = ahead(x_j; S_{j-1})      h_b = back(x_j; 0)      h = fuse(h_f, h_b)      in every layer
    border     S_j = the WKV matrix and both token shifts of every layer behind block j

The answer in block j depends on blocks 0 .. j and no later one, and all that block j + 1 needs of them is S_j, whose size
does not grow. The right-to-left half starts from nothing in every block, so its blocks are one batch [B * J]. With that
half off, what is left is the causal pass, whatever K is.

Block diffusion asks every block about its noised tokens with clean ones before it. One clean pass gives all borders, from
which all noised blocks run at once: the same as block after block, each from the clean state that precedes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.models.rwkv7 import RWKV7, LayerState, RWKVState
from lgdlm.models.time_mix import Signals
from lgdlm.models.walk import Recurrence, Walk


def fold(x: Tensor, size: int) -> Tensor:
    """[B, N, ...] to blocks [B * J, size, ...], J = ceil(N / size); the last one is filled with zeros, which are neutral to WKV."""
    tail = -x.shape[1] % size
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, tail)) if tail else x
    return x.unflatten(1, (-1, size)).flatten(0, 1)


def unfold(x: Tensor, B: int, N: int) -> Tensor:
    """Blocks [B * J, size, ...] to [B, N, ...]."""
    return x.unflatten(0, (B, -1)).flatten(1, 2)[:, :N]


@dataclass(frozen=True)
class BlockWalk(Walk):
    """The right-to-left half starts anew every `size` tokens.

    With `every_border` the states handed out are those before each of J whole blocks and behind the last, [B * (J + 1), ...].
    """

    size: int
    every_border: bool = False

    @property
    def span(self) -> int:
        return self.size

    def ahead(self, run: Recurrence, s: Signals, S: Tensor | None, keep: bool) -> tuple[Tensor, Tensor | None]:
        if not self.every_border:
            return super().ahead(run, s, S, keep)
        answers, borders = [], [run.empty(s) if S is None else S]
        for start in range(0, s.r.shape[1], self.size):
            part = slice(start, start + self.size)
            y, S = run(s.each(itemgetter((slice(None), part))), S, False, True)
            assert S is not None, "a kept state was computed"
            answers.append(y)
            borders.append(S)
        return torch.cat(answers, dim=1), torch.stack(borders, dim=1).flatten(0, 1)

    def back(self, run: Recurrence, s: Signals) -> Tensor:
        return unfold(super().back(run, s.each(lambda x: fold(x, self.size))), *s.r.shape[:2])

    def last(self, x: Tensor, mask: Tensor | None, before: Tensor | None) -> Tensor:
        if not self.every_border:
            return super().last(x, mask, before)
        before = torch.zeros_like(x[:, 0]) if before is None else before.to(x.dtype)
        return torch.cat([before[:, None], x[:, self.size - 1 :: self.size]], dim=1).flatten(0, 1)


class BlockCausalRWKV(RWKV7):
    """The stack of `RWKV7` with its parameters, read in blocks of `block_size`. Raises ValueError for a size below 1.

    forward        a row of blocks in one pass: each sees the ones before it as they stand there
    borders        the same of whole blocks, and the states between them
    from_borders   all blocks of a row at once, each from a given state
    in_front       tokens of a text in front of its last block: what has to be read before all its blocks can be
    """

    def __init__(self, hidden_size: int, n_blocks: int, *, block_size: int, **options: Any):
        if block_size < 1:
            raise ValueError(f"block_size {block_size}: expected at least 1 token")
        super().__init__(hidden_size, n_blocks, **options)
        self.block_size = block_size

    def forward(
        self,
        x: Tensor,
        state: RWKVState | None = None,
        *,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        keep_state: bool = True,
        walk: Walk | None = None,
    ) -> tuple[Tensor, RWKVState | None]:
        """As `RWKV7.forward`; `state` is that of a text which ended with a block."""
        walk = BlockWalk(self._size(x)) if walk is None else walk
        return super().forward(x, state, cond=cond, mask=mask, keep_state=keep_state, walk=walk)

    def borders(self, x: Tensor, state: RWKVState, *, cond: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, RWKVState]:
        """x [B, J K, H] behind `state` to x, and the states before each block and behind the last, tensors [B * (J + 1), ...].

        J may be 0: then there is only `state`.
        """
        assert x.shape[1] % self.block_size == 0, "borders are those of whole blocks"
        if not x.shape[1]:
            return x, state
        x, states = self(x, state, cond=cond, mask=mask, walk=BlockWalk(self.block_size, every_border=True))
        assert states is not None
        return x, states

    def from_borders(self, x: Tensor, borders: RWKVState, *, cond: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, N, H] in J blocks to x where block j starts from state j of `borders` [B * J, ...]; cond [B, H], mask bool [B, N]."""
        B, N = x.shape[:2]
        size = self._size(x)
        if mask is None and N % size:
            mask = torch.ones(B, N, dtype=torch.bool, device=x.device)
        blocks = fold(x, size)
        cond = None if cond is None else cond.repeat_interleave(len(blocks) // B, dim=0)
        mask = None if mask is None else fold(mask, size)
        return unfold(self(blocks, borders, cond=cond, mask=mask, keep_state=False)[0], B, N)

    def in_front(self, length: int) -> int:
        """(J - 1) K for a text of `length` tokens in J blocks of at most K."""
        return (length - 1) // self.block_size * self.block_size

    def _size(self, x: Tensor) -> int:
        return min(self.block_size, x.shape[1])  # a text shorter than a block is not filled up to one


@dataclass(frozen=True)
class BlockMemory:
    """What a denoiser keeps of the text before a block, of constant size whatever its length.

    state    of the stack          prefix   [B, P, H] last states of the latent's tokens
    mean     [B, H] of the last text states, and `count` float32 [B] of how many: the text's share in a latent prediction
    """

    state: RWKVState
    prefix: Tensor
    mean: Tensor
    count: Tensor

    def rows(self, index: Tensor) -> BlockMemory:
        """The memory of some rows: int64 [b] or bool [B]."""
        return _mapped(lambda parts: parts[0][index], [self])

    @staticmethod
    def stacked(memories: Sequence[BlockMemory]) -> BlockMemory:
        """The rows of all of them, one after another."""
        return memories[0] if len(memories) == 1 else _mapped(torch.cat, memories)


def _mapped(f: Callable[[list[Tensor]], Tensor], memories: Sequence[BlockMemory]) -> BlockMemory:
    """`f` of the tensors that stand in the same place in each."""

    def merged(same: Sequence[LayerState]) -> LayerState:
        return LayerState(f([s.wkv for s in same]), f([s.time_shift for s in same]), f([s.channel_shift for s in same]))

    layers = tuple(merged(same) for same in zip(*(m.state.layers for m in memories), strict=True))
    return BlockMemory(RWKVState(layers), f([m.prefix for m in memories]), f([m.mean for m in memories]), f([m.count for m in memories]))


def two_stacks(
    blocks: Sequence[Tensor], state: Any, ahead: Callable[[Tensor, Any], tuple[Tensor, Any]], back: Callable[[Tensor, Any], Any] | None
) -> tuple[Tensor, Any]:
    """Blocks of tokens [B, K] read by two whole networks that meet at their ends: h = ahead(y_j; S_{j-1}) + back(y_j turned round).

    `ahead` and `back` take tokens and a state (of any kind; None: none yet) to hidden [B, K, H] and the state behind them; `back`
    always starts from none, all blocks of one size as one batch. Returns hidden [B, N, H] and the last state of `ahead`.
    """
    hidden = []
    for block in blocks:
        h, state = ahead(block, state)
        hidden.append(h)
    if back is not None:
        B, sizes = blocks[0].shape[0], [block.shape[1] for block in blocks]
        for size in set(sizes):
            same = [j for j, other in enumerate(sizes) if other == size]
            turned = back(torch.cat([blocks[j].flip(1) for j in same]), None)[0].flip(1)
            for j, part in zip(same, turned.split(B), strict=True):
                hidden[j] = hidden[j] + part
    return torch.cat(hidden, dim=1), state
