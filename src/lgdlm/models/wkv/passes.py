"""What a block does around its matrix products, one pass over memory each: compiled where it can be, plain PyTorch elsewhere.

    shift          x + (x' - x) mu_c for several mu; x' is the token read before
    norm           normal(x) weight + bias, weight and bias [H] or one for each row [B, 1, H]; zero at padding
    add            x + gate branch, gate [B, 1, H] or 1
    squared_relu   max(x, 0)^2

`compiled=False` forces the plain form; both compute in float32 or wider and agree to rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgdlm.models.wkv.native import address, can_run
from lgdlm.models.wkv.shared_library import library

HALVES = (torch.float32, torch.bfloat16)
RUN = 64  # tokens of a partial sum; RUN of passes.hpp
MOST_MIXES = 6  # MIXES of shift.hpp


class PassShape(ctypes.Structure):
    """`PassShape` of passes.hpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "length", "width")),
        *((name, ctypes.c_int32) for name in ("threads", "half", "half_x")),
    ]

    @classmethod
    def of(cls, x: Tensor, branch: torch.dtype) -> PassShape:
        """Of x [B, N, H] on the residual side and a dtype on the branch side."""
        return cls(*x.shape, torch.get_num_threads(), branch == torch.bfloat16, x.dtype == torch.bfloat16)


def _structure(title: str, *groups: tuple[str, Any]) -> type[ctypes.Structure]:
    fields = [(name, kind) for names, kind in groups for name in names.split()]
    return type(title, (ctypes.Structure,), {"_fields_": fields})


_Several = ctypes.c_void_p * MOST_MIXES
ShiftArrays = _structure(
    "ShiftArrays", ("x before mu", ctypes.c_void_p), ("mixed d_mixed", _Several), ("dx d_before d_mu", ctypes.c_void_p),
    ("span", ctypes.c_int64), ("mixes reverse", ctypes.c_int32),
)  # fmt: skip
NormArrays = _structure(
    "NormArrays", ("x weight bias real out d_out dx d_weight d_bias", ctypes.c_void_p), ("stride", ctypes.c_int64), ("eps", ctypes.c_float)
)
AddArrays = _structure("AddArrays", ("x branch gate out d_out d_branch d_gate", ctypes.c_void_p))


def _call(name: str, *arguments: Any) -> None:
    lib = library()
    assert lib is not None
    getattr(lib, name)(*(ctypes.byref(x) if isinstance(x, ctypes.Structure) else x for x in arguments))


def _partial_sums(x: Tensor, *middle: int) -> Tensor:
    B, N, H = x.shape
    return torch.empty(B, -(-N // RUN), *middle, H)


def neighbours(x: Tensor, before: Tensor | None = None, reverse: bool = False, span: int | None = None) -> Tensor:
    """The token read before each one, [B, N, H].

    From the left, the first one's is `before` [B, H] or zeros; `reverse`: from the right. The reading starts anew, from zeros,
    every `span` tokens.
    """
    B, N, H = x.shape
    if span is not None and span < N:
        assert before is None, "a reading that starts anew remembers nothing"
        tail = -N % span
        blocks = F.pad(x, (0, 0, 0, tail)).view(-1, span, H)
        return neighbours(blocks, reverse=reverse).view(B, N + tail, H)[:, :N]
    if reverse:
        return F.pad(x[:, 1:], (0, 0, 0, 1))
    if before is None:
        return F.pad(x[:, :-1], (0, 0, 1, 0))
    return torch.cat([before[:, None].to(x.dtype), x[:, :-1]], dim=1)


def shift(
    x: Tensor,
    mixes: Sequence[Tensor],
    before: Tensor | None = None,
    reverse: bool = False,
    span: int | None = None,
    *,
    compiled: bool = True,
) -> tuple[Tensor, ...]:
    """x [B, N, H] and proportions [1, 1, H] to as many mixtures [B, N, H]; the rest as in `neighbours`."""
    before = None if before is None else before.to(x.dtype)
    if compiled and len(mixes) <= MOST_MIXES and can_run(x, before, dtypes=HALVES) and can_run(*mixes):
        return _Shift.apply(x, before, torch.cat([mu.flatten()[None] for mu in mixes]), reverse, span or x.shape[1])
    off = neighbours(x, before, reverse, span) - x
    return tuple(torch.addcmul(x, off, mu.to(x.dtype)) for mu in mixes)


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor | None, mu: Tensor, reverse: bool, span: int) -> tuple[Tensor, ...]:
        x, before = x.contiguous(), None if before is None else before.contiguous()
        mixed = tuple(torch.empty_like(x) for _ in mu)
        arrays = ShiftArrays(
            address(x), address(before), address(mu), _Several(*map(address, mixed)), span=span, mixes=len(mu), reverse=reverse
        )
        _call("lgdlm_shift", PassShape.of(x, x.dtype), arrays, 0)
        ctx.save_for_backward(x, before, mu)
        ctx.reverse, ctx.span = reverse, span
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        x, before, mu = ctx.saved_tensors
        d_mixed = tuple(d.contiguous() for d in d_mixed)
        dx, d_before = torch.empty_like(x), None if before is None else torch.empty_like(before)
        d_mu = _partial_sums(x, len(mu))
        arrays = ShiftArrays(
            address(x), address(before), address(mu), _Several(), _Several(*map(address, d_mixed)), address(dx), address(d_before),
            address(d_mu), ctx.span, len(mu), ctx.reverse,
        )  # fmt: skip
        _call("lgdlm_shift", PassShape.of(x, x.dtype), arrays, 1)
        return dx, d_before, d_mu.sum(dim=(0, 1)), None, None


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, real: Tensor | None, dtype: torch.dtype, *, compiled: bool = True) -> Tensor:
    """x [B, N, H] to its normalised rows in `dtype`; `real` bool [B, N] is False at padding, None where nothing is."""
    if compiled and dtype in HALVES and can_run(x, dtypes=HALVES) and can_run(weight, bias):
        weight, bias = torch.broadcast_tensors(weight, bias)
        return _Norm.apply(x, weight.reshape(-1, x.shape[-1]), bias.reshape(-1, x.shape[-1]), eps, real, dtype)
    h = (F.layer_norm(x.to(weight.dtype), x.shape[-1:], eps=eps) * weight + bias).to(dtype)
    return h if real is None else h * real[..., None].to(dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, real: Tensor | None, dtype: torch.dtype) -> Tensor:
        x, weight, bias, real = x.contiguous(), weight.contiguous(), bias.contiguous(), None if real is None else real.contiguous()
        out = torch.empty_like(x, dtype=dtype)
        stride = x.shape[-1] if len(weight) > 1 else 0
        arrays = NormArrays(*map(address, (x, weight, bias, real, out)), stride=stride, eps=eps)
        _call("lgdlm_norm", PassShape.of(x, dtype), arrays, 0)
        ctx.save_for_backward(x, weight, real)
        ctx.stride, ctx.eps = stride, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, real = ctx.saved_tensors
        d_out = d_out.contiguous()
        dx, d_weight, d_bias = torch.empty_like(x), _partial_sums(x), _partial_sums(x)
        arrays = NormArrays(*map(address, (x, weight, None, real, None, d_out, dx, d_weight, d_bias)), ctx.stride, ctx.eps)
        _call("lgdlm_norm", PassShape.of(x, d_out.dtype), arrays, 1)
        over = 1 if ctx.stride else (0, 1)
        return dx, d_weight.sum(dim=over).view_as(weight), d_bias.sum(dim=over).view_as(weight), None, None, None


def add(x: Tensor, branch: Tensor, gate: Tensor | None = None, *, compiled: bool = True) -> Tensor:
    """x and branch [B, N, H], gate [B, 1, H] or None, to their sum in x's dtype."""
    gate = None if gate is None else gate.to(torch.promote_types(x.dtype, torch.float32))
    if compiled and can_run(x, branch, dtypes=HALVES) and can_run(gate):
        return _Add.apply(x, branch, None if gate is None else gate.expand(len(x), 1, -1))
    return (x + branch if gate is None else torch.addcmul(x, gate, branch)).to(x.dtype)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
        x, branch, gate = x.contiguous(), branch.contiguous(), None if gate is None else gate.contiguous()
        out = torch.empty_like(x)
        _call("lgdlm_add", PassShape.of(x, branch.dtype), AddArrays(*map(address, (x, branch, gate, out))), 0)
        ctx.save_for_backward(None if gate is None else branch, gate)
        ctx.dtype = branch.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        branch, gate = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_branch = torch.empty_like(d_out, dtype=ctx.dtype)
        d_gate = None if gate is None else _partial_sums(d_out)
        arrays = AddArrays(*map(address, (None, branch, gate, None, d_out, d_branch, d_gate)))
        _call("lgdlm_add", PassShape.of(d_out, ctx.dtype), arrays, 1)
        return d_out, d_branch, None if d_gate is None else d_gate.sum(dim=1, keepdim=True)


def squared_relu(x: Tensor, *, compiled: bool = True) -> Tensor:
    """max(x, 0)^2, of any shape."""
    return _SquaredReLU.apply(x) if compiled and can_run(x, dtypes=HALVES) else torch.relu(x).square()


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _SquaredReLU.run(x, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SquaredReLU.run(x, d.contiguous())

    @staticmethod
    def run(x: Tensor, d: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        numbers = (ctypes.c_int64(x.numel()), torch.get_num_threads(), int(x.dtype == torch.bfloat16))
        _call("lgdlm_relu", *numbers, *(ctypes.c_void_p(address(y)) for y in (x, d, out)))
        return out
