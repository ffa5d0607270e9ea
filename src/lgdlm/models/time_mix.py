"""The time mix of RWKV-7 "Goose": token shift, low-rank data-dependent signals, WKV, group norm, gate.

    x_c = x + (x' - x) mu_c,  c in r w k v a g         x' is the neighbour read before: the token shift
    log w = -exp(-1/2) sigmoid(w0 + tanh(x_w w1) w2)   decay, always in (-0.6066, 0)
    a = sigmoid(a0 + x_a a1 a2)                        in-context learning rate
    g = sigmoid(x_g g1) g2                             gate
    v = v + (v_first - v) sigmoid(v0 + x_v v1 v2)      value residual; v_first is the value of layer 0
    kk = normalise(k k_k) per head,  k = k (1 + (a - 1) k_a)
    y = WKV(r, log w, k, v, -kk, kk a)
    out = W_o [(ln_x(y) + (sum r k r_k) v) g]          r_k is the bonus of the current token

Letters, shapes and parameter names are those of the published checkpoints (`blocks.i.att.x_r`, ...), so their weights
fit without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.models.wkv import chosen_kernel, wkv
from lgdlm.models.wkv.mix import can_mix, mix
from lgdlm.models.wkv.passes import shift

MOST_DECAY = math.exp(-0.5)  # -log w of the fastest decay


class Signals(NamedTuple):
    """What the matrix products of one token mix gave, [B, N, H] each in one dtype.

    `gate` and `v_first` belong to the value residual and are None in layer 0; `real` bool [B, N] is False at padding, None where
    nothing is.
    """

    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    g: Tensor
    gate: Tensor | None = None
    v_first: Tensor | None = None
    real: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Signals:
        """The signals after a change to all that there are."""
        changed: list[Any] = [None if x is None else change(x) for x in self]
        return Signals(*changed)


def published_ranks(hidden_size: int) -> dict[str, int]:
    """Widths of the low-rank signals: factor * sqrt(H), rounded to a multiple of 32. Checkpoints may differ."""
    factors = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5.0}
    return {name: max(32, round(factor * hidden_size**0.5 / 32) * 32) for name, factor in factors.items()}


class TimeMix(nn.Module):
    """One direction's token mixing in layer `layer` of `n_layers`.

    With `zero_init` the parameters start as published, where `output` and the first low-rank factors are zero. Behind a
    gate that is zero too, such a matrix would never receive a gradient: `zero_init=False` starts those small instead.
    `ranks` are the widths of the low-rank signals w, a, v, g; None takes `published_ranks`.

    Raises ValueError where hidden_size is not a multiple of head_size.
    """

    x_r: nn.Parameter
    x_w: nn.Parameter
    x_k: nn.Parameter
    x_v: nn.Parameter
    x_a: nn.Parameter
    x_g: nn.Parameter
    w0: nn.Parameter
    w1: nn.Parameter
    w2: nn.Parameter
    a0: nn.Parameter
    a1: nn.Parameter
    a2: nn.Parameter
    v0: nn.Parameter
    v1: nn.Parameter
    v2: nn.Parameter
    g1: nn.Parameter
    g2: nn.Parameter

    def __init__(
        self,
        hidden_size: int,
        layer: int,
        n_layers: int,
        head_size: int = 64,
        zero_init: bool = True,
        ranks: dict[str, int] | None = None,
    ):
        super().__init__()
        if hidden_size % head_size:
            raise ValueError(f"hidden_size {hidden_size} must be a multiple of head_size {head_size}")
        H, self.head_size, self.layer = hidden_size, head_size, layer
        for name in "rwkvag":
            self.register_parameter(f"x_{name}", nn.Parameter(torch.empty(1, 1, H)))
        for name, width in (ranks or published_ranks(H)).items():
            if name == "v" and layer == 0:
                continue  # layer 0 defines v_first
            self.register_parameter(f"{name}1", nn.Parameter(torch.empty(H, width)))
            self.register_parameter(f"{name}2", nn.Parameter(torch.empty(width, H)))
            if name != "g":
                self.register_parameter(f"{name}0", nn.Parameter(torch.empty(1, 1, H)))
        self.k_k = nn.Parameter(torch.empty(1, 1, H))
        self.k_a = nn.Parameter(torch.empty(1, 1, H))
        self.r_k = nn.Parameter(torch.empty(H // head_size, head_size))
        self.receptance = nn.Linear(H, H, bias=False)
        self.key = nn.Linear(H, H, bias=False)
        self.value = nn.Linear(H, H, bias=False)
        self.output = nn.Linear(H, H, bias=False)
        self.ln_x = nn.GroupNorm(H // head_size, H, eps=64e-5)
        self._initialise(n_layers, zero_init)

    @torch.no_grad()
    def _initialise(self, n_layers: int, zero_init: bool) -> None:
        """The formulas of the published training code."""
        H, K = self.x_r.numel(), self.head_size
        depth, remaining = self.layer / max(1, n_layers - 1), 1 - self.layer / n_layers
        channel = torch.arange(H) / H
        for name, power in {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}.items():
            getattr(self, f"x_{name}").copy_((1 - channel ** (power * remaining)).view(1, 1, H))
        ramp = torch.arange(H) / (H - 1)
        linear = ramp - 0.5
        zigzag = (torch.arange(H) % K - (K - 1) / 2) / ((K - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        self.w0.copy_(-5.5 + 6 * ramp ** (1 + depth**0.3) + 2.5 * zigzag)
        self.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * linear)
        if self.layer:
            self.v0.copy_(0.73 - 0.4 * linear)
        for name in "wavg" if self.layer else "wag":
            first, second = getattr(self, f"{name}1"), getattr(self, f"{name}2")
            nn.init.zeros_(first) if zero_init else nn.init.uniform_(first, -0.05 / H**0.5, 0.05 / H**0.5)
            nn.init.orthogonal_(second, gain=0.1 * max(1.0, second.shape[0] / second.shape[1]) ** 0.5)
        self.k_k.copy_(0.71 - 0.1 * linear)
        self.k_a.fill_(1.02)
        self.r_k.fill_(-0.04)
        for linear_map, scale in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5), (self.output, 0.5)):
            nn.init.uniform_(linear_map.weight, -scale / H**0.5, scale / H**0.5)
        if zero_init:
            nn.init.zeros_(self.output.weight)

    def signals(
        self,
        x: Tensor,
        v_first: Tensor | None,
        real: Tensor | None = None,
        *,
        before: Tensor | None = None,
        reverse: bool = False,
        span: int | None = None,
        compiled: bool = True,
    ) -> tuple[Signals, Tensor]:
        """x [B, N, H] to its signals and v_first (this layer's value in layer 0); before, reverse, span: as in `neighbours`."""
        mixes = [self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g]
        xr, xw, xk, xv, xa, xg = shift(x, mixes, before, reverse, span, compiled=compiled)
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        w = (xw @ self.w1).tanh() @ self.w2
        a = xa @ self.a1 @ self.a2
        g = torch.sigmoid(xg @ self.g1) @ self.g2
        if self.layer == 0:
            return Signals(r, w, k, v, a, g, real=real), v
        assert v_first is not None, "layers above 0 read the value of layer 0"
        return Signals(r, w, k, v, a, g, xv @ self.v1 @ self.v2, v_first, real), v_first

    def recall(self, s: Signals, S: Tensor | None, reverse: bool, keep: bool, kernel: str, chunk: int) -> tuple[Tensor, Tensor | None]:
        """Signals and the state [B, G, K, K] before them (None: zeros) to the gated answer [B, N, H] and, if `keep`, the state behind.

        Where padding is, nothing decays and nothing is written: the state passes it unchanged. `kernel` and `chunk` as in `wkv`.
        """
        rows = [self.w0, self.a0, self.v0 if self.layer else torch.zeros_like(self.a0), self.k_k, self.k_a]
        parameters = torch.stack([p.reshape(self.r_k.shape) for p in (*rows, self.r_k, self.ln_x.weight, self.ln_x.bias)])
        if chosen_kernel(kernel, s.r.device.type) == "native" and can_mix(s[:8], parameters, S):
            return mix(s[:8], s.real, parameters, S, reverse, keep)
        return self._recall(s, parameters, S, reverse, keep, kernel, chunk)

    def _recall(
        self, s: Signals, parameters: Tensor, S: Tensor | None, reverse: bool, keep: bool, kernel: str, chunk: int
    ) -> tuple[Tensor, Tensor | None]:
        dtype = torch.promote_types(s.r.dtype, torch.float32)
        w0, a0, v0, k_k, k_a, r_k, weight, bias = parameters.to(dtype)
        r, w, k, v, a, g = (x.unflatten(-1, self.r_k.shape).to(dtype) for x in s[:6])
        if s.gate is not None and s.v_first is not None:
            gate, v_first = (x.unflatten(-1, self.r_k.shape).to(dtype) for x in (s.gate, s.v_first))
            v = torch.lerp(v, v_first, torch.sigmoid(v0 + gate))
        log_w, a = -MOST_DECAY * torch.sigmoid(w0 + w), torch.sigmoid(a0 + a)
        kk, k = F.normalize(k * k_k, dim=-1), k * (1 + (a - 1) * k_a)
        if s.real is not None:
            real = s.real[..., None, None].to(dtype)
            log_w, k, kk = log_w * real, k * real, kk * real
        y, S = wkv(r, log_w, k, v, -kk, kk * a, S, chunk, kernel=kernel, reverse=reverse, final_state=keep)
        y = F.layer_norm(y, y.shape[-1:], eps=self.ln_x.eps)  # a group norm with one group per head, and faster than it
        bonus = (r * k * r_k).sum(dim=-1, keepdim=True)
        z = torch.addcmul(torch.addcmul(bias, y, weight), bonus, v)
        return (z * g).flatten(2).to(s.g.dtype), S
