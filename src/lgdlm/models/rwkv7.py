"""RWKV-7: blocks of time mix and channel mix, in one direction or two.

    x = x + TimeMix(ln1(x))         x = x + ChannelMix(ln2(x)),   ChannelMix(x) = W_v relu(W_k (x + (x' - x) mu_k))^2

In two directions a block has a second time mix that reads from the last token to the first, and the two are fused:
h = fuse(h_f, h_b). The channel mix stays one, with the neighbour on the left. What a block must remember to go on from
where a text was cut is its WKV matrix and the last token both of its shifts have seen: `RWKVState`. With it a text read
whole, in pieces, or token by token gives the same answer. Only the left-to-right half has a state; the other half needs
the end of the text first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.models.conditioning import Conditioning, Modulation
from lgdlm.models.fusion import FUSIONS
from lgdlm.models.time_mix import Signals, TimeMix
from lgdlm.models.walk import WHOLE_ROW, Walk
from lgdlm.models.wkv import CHOICES, LONGEST, chosen_kernel
from lgdlm.models.wkv.passes import add, norm, shift, squared_relu

Values = tuple[Tensor, Tensor | None]  # layer 0's values, of each half


@dataclass(frozen=True)
class LayerState:
    """One layer's memory: `wkv` [B, G, K, K] float32, `time_shift` and `channel_shift` [B, H]."""

    wkv: Tensor
    time_shift: Tensor
    channel_shift: Tensor


@dataclass(frozen=True)
class RWKVState:
    """The memory of the whole stack, of constant size whatever the length of the text."""

    layers: tuple[LayerState, ...]


class ChannelMix(nn.Module):
    """The feed-forward branch with token shift; initialised as published (see `TimeMix` for `zero_init`)."""

    def __init__(self, hidden_size: int, ffn_size: int, layer: int, n_layers: int, zero_init: bool = True):
        super().__init__()
        H = hidden_size
        remaining = 1 - layer / n_layers
        self.x_k = nn.Parameter((1 - (torch.arange(H) / H) ** remaining**4).view(1, 1, H))
        self.key = nn.Linear(H, ffn_size, bias=False)
        self.value = nn.Linear(ffn_size, H, bias=False)
        nn.init.uniform_(self.key.weight, -0.5 / H**0.5, 0.5 / H**0.5)
        nn.init.zeros_(self.value.weight) if zero_init else nn.init.uniform_(self.value.weight, -0.5 / H**0.5, 0.5 / H**0.5)

    def forward(self, x: Tensor, before: Tensor | None = None, *, compiled: bool = True) -> Tensor:
        """x [B, N, H], and the token before it [B, H] or None."""
        (mixed,) = shift(x, [self.x_k], before, compiled=compiled)
        return self.value(squared_relu(self.key(mixed), compiled=compiled))


class Block(nn.Module):
    """One layer. `att` and `ffn` are the published block; `att_back` and `fuse` make it read both ways.

    With `share` the right-to-left half uses the weights of `att`.
    """

    def __init__(
        self,
        hidden_size: int,
        layer: int,
        n_layers: int,
        *,
        head_size: int,
        ffn_size: int,
        ranks: dict[str, int] | None,
        zero_init: bool,
        fusion: str | None,
        share: bool,
        conditioning: str | None,
        dropout: float,
        kernel: str,
        chunk: int,
    ):
        super().__init__()
        self.kernel, self.chunk = kernel, chunk
        self.ln0 = nn.LayerNorm(hidden_size) if layer == 0 else nn.Identity()
        self.ln1 = nn.LayerNorm(hidden_size)
        self.ln2 = nn.LayerNorm(hidden_size)
        self.att = TimeMix(hidden_size, layer, n_layers, head_size, zero_init, ranks)
        self.ffn = ChannelMix(hidden_size, ffn_size, layer, n_layers, zero_init)
        self.att_back = None if share or fusion is None else TimeMix(hidden_size, layer, n_layers, head_size, zero_init, ranks)
        self.fuse = None if fusion is None else FUSIONS[fusion](hidden_size)
        self.conditioning = None if conditioning is None else Conditioning(hidden_size, conditioning)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        v_first: Values | None,
        state: LayerState | None,
        cond: Tensor | None,
        mask: Tensor | None,
        keep_state: bool,
        walk: Walk = WHOLE_ROW,
    ) -> tuple[Tensor, Values, LayerState | None]:
        """x [B, N, H] to x, the value residual for the next layer, and the state."""
        time, channel = (None, None) if self.conditioning is None else self.conditioning(cond)
        compiled = chosen_kernel(self.kernel, x.device.type) == "native"
        past = (None, None) if state is None else (state.time_shift, state.channel_shift)
        x = self.ln0(x)
        h = _branch_input(self.ln1, x, time, mask, compiled)
        mixed, v_first, S = self._mix_time(h, v_first, state, mask, keep_state, walk, compiled)
        x = add(x, self.dropout(mixed), None if time is None else time.gate, compiled=compiled)
        f = _branch_input(self.ln2, x, channel, mask, compiled)
        mixed = self.ffn(f, past[1], compiled=compiled)
        x = add(x, self.dropout(mixed), None if channel is None else channel.gate, compiled=compiled)
        if not keep_state:
            return x, v_first, None
        assert S is not None, "a kept state was computed"
        return x, v_first, LayerState(S, walk.last(h, mask, past[0]), walk.last(f, mask, past[1]))

    def _mix_time(
        self, h: Tensor, v_first: Values | None, state: LayerState | None, mask: Tensor | None, keep: bool, walk: Walk, compiled: bool
    ) -> tuple[Tensor, Values, Tensor | None]:
        first, first_back = v_first or (None, None)
        before, S = (None, None) if state is None else (state.time_shift, state.wkv)
        s, first = self.att.signals(h, first, mask, before=before, compiled=compiled)
        mixed, S = walk.ahead(_Recall(self.att, self.kernel, self.chunk), s, S, keep)
        if self.fuse is None:
            return self.att.output(mixed), (first, None), S
        back = self.att if self.att_back is None else self.att_back
        s, first_back = back.signals(h, first_back, mask, reverse=True, span=walk.span, compiled=compiled)
        mixed_back = walk.back(_Recall(back, self.kernel, self.chunk), s)
        return self.fuse(self.att.output(mixed), back.output(mixed_back)), (first, first_back), S


@dataclass(frozen=True)
class _Recall:
    """The recurrence of one time mix, as a `Walk` runs it."""

    mix: TimeMix
    kernel: str
    chunk: int

    def __call__(self, s: Signals, S: Tensor | None, reverse: bool, keep: bool) -> tuple[Tensor, Tensor | None]:
        return self.mix.recall(s, S, reverse, keep, self.kernel, self.chunk)

    def empty(self, s: Signals) -> Tensor:
        G, K = self.mix.r_k.shape
        return s.r.new_zeros(len(s.r), G, K, K, dtype=torch.promote_types(s.r.dtype, torch.float32))


class RWKV7(nn.Module):
    """A stack of `n_blocks` blocks: states in, states out; embedding and head belong to the caller.

    fusion        None reads left to right only; a name of `FUSIONS` makes every block read both ways
    share         the two directions use the same time mix
    conditioning  a kind of `Conditioning`, one per block, or None for the plain published stack
    zero_init     start as published; refused together with a conditioning, whose zeros would be in series with it
    """

    def __init__(
        self,
        hidden_size: int,
        n_blocks: int,
        *,
        head_size: int = 64,
        ffn_size: int | None = None,
        ranks: dict[str, int] | None = None,
        fusion: str | None = None,
        share: bool = False,
        conditioning: str | None = None,
        zero_init: bool | None = None,
        dropout: float = 0.0,
        kernel: str = "auto",
        chunk: int = 32,
    ):
        super().__init__()
        zero_init = conditioning is None if zero_init is None else zero_init
        if zero_init and conditioning is not None:
            raise ValueError("zero_init under a conditioning puts zero matrices in series, which never receive a gradient")
        if fusion is not None and fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r}: expected one of {', '.join(FUSIONS)}")
        if kernel not in CHOICES:
            raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(CHOICES)}")
        if not 1 <= chunk <= LONGEST:
            raise ValueError(f"chunk {chunk}: expected 1 to {LONGEST}")
        options: dict[str, Any] = {
            "head_size": head_size,
            "ffn_size": ffn_size or 4 * hidden_size,
            "ranks": ranks,
            "zero_init": zero_init,
            "fusion": fusion,
            "share": share,
            "conditioning": conditioning,
            "dropout": dropout,
            "kernel": kernel,
            "chunk": chunk,
        }
        self.blocks = nn.ModuleList(Block(hidden_size, i, n_blocks, **options) for i in range(n_blocks))

    def forward(
        self,
        x: Tensor,
        state: RWKVState | None = None,
        *,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        keep_state: bool = True,
        walk: Walk = WHOLE_ROW,
    ) -> tuple[Tensor, RWKVState | None]:
        """x [B, N, H] to x [B, N, H] and the state after the last real token.

        state       of the text so far; in two directions it feeds the left-to-right half, the other starts empty
        cond        [B, H], for stacks with a conditioning
        mask        bool [B, N]: real tokens, padding at the end of a row only; None: all are real. Where it is False
                    nothing enters a state or a neighbour, and the answer is meaningless but finite
        keep_state  False saves the work of the final state; the second answer is then None
        walk        where the halves begin and end, see `Walk`
        """
        v_first, layers = None, []
        for i, block in enumerate(self.blocks):
            x, v_first, layer = block(x, v_first, None if state is None else state.layers[i], cond, mask, keep_state, walk)
            layers.append(layer)
        return x, RWKVState(tuple(layers)) if keep_state else None


def _branch_input(norm_of: nn.LayerNorm, x: Tensor, modulation: Modulation | None, mask: Tensor | None, compiled: bool) -> Tensor:
    """The modulated norm, zero at padding. Under autocast the token shifts already run in its dtype, as their products do."""
    weight: Tensor = norm_of.weight
    bias: Tensor = norm_of.bias
    if modulation is not None and modulation.scale is not None:
        scale = 1 + modulation.scale.to(weight.dtype)
        weight, bias = weight * scale, bias * scale
    if modulation is not None:
        bias = bias + modulation.shift.to(bias.dtype)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return norm(x, weight, bias, norm_of.eps, mask, dtype, compiled=compiled)
