"""WKV-7 by the compiled kernel: float32 on a CPU, parallel over (row, head). The equations are in `recurrence.hpp`.

For anything else (other dtypes and devices, heads of more than 128 channels, no compiler) the call goes to the chunked form.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgdlm.models.wkv.chunked import wkv_chunked
from lgdlm.models.wkv.shared_library import library

WIDEST = 128  # channels of a head; `lgdlm_widest` of the library


class Shape(ctypes.Structure):
    """`Shape` of row.hpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "length", "heads", "size")),
        ("reverse", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]

    @classmethod
    def of(cls, x: Tensor, reverse: bool) -> Shape:
        """Of a tensor [B, N, G, K], for the threads that torch uses."""
        return cls(*x.shape, reverse, torch.get_num_threads())


class Memory(ctypes.Structure):
    """`Memory` of row.hpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("before", "after", "records")]

    @classmethod
    def of(cls, *tensors: Tensor | None) -> Memory:
        return cls(*map(address, tensors))


class Signals(ctypes.Structure):
    """`Signals` of native.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ["r", "log_w", "k", "v", "a", "b", "dy", "y", "dr", "d_log_w", "dk", "dv", "da", "db"]]


def address(x: Tensor | None) -> int | None:
    """Where the numbers of a contiguous tensor begin; None is the null pointer."""
    assert x is None or x.is_contiguous()
    return None if x is None else x.data_ptr()


def can_run(*tensors: Tensor | None, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> bool:
    """Whether the compiled code takes these: on the CPU, of one of these dtypes, and not empty; and whether there is any."""
    there = [x for x in tensors if x is not None]
    return all(x.device.type == "cpu" and x.dtype in dtypes and x.numel() for x in there) and library() is not None


def wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def records_for(shape: Shape) -> Tensor:
    """Room for what a gradient needs of the states: 4.5 K bytes a channel and tile of 16 tokens."""
    lib = library()
    assert lib is not None
    lib.lgdlm_record_bytes.restype = ctypes.c_int64
    return torch.empty(lib.lgdlm_record_bytes(ctypes.byref(shape)), dtype=torch.uint8)


def wkv_native(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    chunk: int = 32,
    *,
    reverse: bool = False,
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Arguments and answers of `wkv_recurrence`; `chunk` means something only where the chunked form takes over."""
    arguments = (r, log_w, k, v, a, b, state)
    if r.shape[-1] > WIDEST or not can_run(*arguments):
        return wkv_chunked(r, log_w, k, v, a, b, state, chunk, reverse=reverse, final_state=final_state)
    return _NativeWKV.apply(*arguments, reverse, final_state, wants_gradient(*arguments))


class _NativeWKV(torch.autograd.Function):
    """Six signals and a state to y and the state behind them; `keep`: a gradient will be asked for."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, reverse, final_state, keep = arguments
        *signals, state = tensors[0].contiguous(), *(None if x is None else x.contiguous() for x in tensors[1:])
        lib, shape = library(), Shape.of(signals[0], reverse)
        assert lib is not None
        B, _, G, K = signals[0].shape
        y = torch.empty_like(signals[0])
        after = y.new_empty(B, G, K, K) if final_state else None
        records = records_for(shape) if keep else None
        arrays = Signals(*map(address, signals), None, address(y))
        lib.lgdlm_wkv_forward(ctypes.byref(shape), ctypes.byref(arrays), ctypes.byref(Memory.of(state, after, records)))
        if keep:
            ctx.save_for_backward(*signals, records)
            ctx.reverse, ctx.has_state = reverse, state is not None
            ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        *signals, records = ctx.saved_tensors
        lib, shape = library(), Shape.of(signals[0], ctx.reverse)
        assert lib is not None
        B, _, G, K = signals[0].shape
        dy = torch.zeros_like(signals[0]) if dy is None else dy.contiguous()
        d_after = None if d_after is None else d_after.contiguous()
        d_signals = [torch.empty_like(x) for x in signals]
        d_state = dy.new_empty(B, G, K, K) if ctx.has_state else None
        arrays = Signals(*map(address, signals), address(dy), None, *map(address, d_signals))
        lib.lgdlm_wkv_backward(ctypes.byref(shape), ctypes.byref(arrays), ctypes.byref(Memory.of(d_after, d_state, records)))
        return (*d_signals, d_state, None, None, None)
