"""The time mix between its matrix products as one compiled operation; the equations are in `time_mix.hpp`.

`TimeMix.recall` has the same in plain PyTorch, for everything that this does not take.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgdlm.models.wkv.native import WIDEST, Memory, Shape, address, can_run, records_for, wants_gradient
from lgdlm.models.wkv.passes import HALVES
from lgdlm.models.wkv.shared_library import library

SIGNALS = ["r", "w", "k", "v", "a", "g", "gate", "v_first"]
PARAMETERS = ["w0", "a0", "v0", "k_k", "k_a", "r_k", "weight", "bias"]


class MixArrays(ctypes.Structure):
    """`MixArrays` of time_mix.hpp."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (*SIGNALS, "real", "parameters", "out", "d_out", *(f"d_{name}" for name in SIGNALS), "d_parameters")
    ]


def can_mix(signals: tuple[Tensor | None, ...], parameters: Tensor, state: Tensor | None) -> bool:
    """Whether `mix` takes these: on the CPU, signals all float32 or all bfloat16, parameters and state float32."""
    same = len({x.dtype for x in signals if x is not None}) == 1
    return same and parameters.shape[-1] <= WIDEST and can_run(*signals, dtypes=HALVES) and can_run(parameters, state)


def mix(
    signals: tuple[Tensor | None, ...], real: Tensor | None, parameters: Tensor, state: Tensor | None, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor | None]:
    """What the matrix products gave (`SIGNALS`, [B, N, H] each) to the gated answer [B, N, H] in their dtype, and the final state.

    gate and v_first are None in the first layer. real: bool [B, N] or None; parameters float32 [8, G, K], in the order of
    `PARAMETERS`; state float32 [B, G, K, K] or None.
    """
    return _Mix.apply(*signals, real, parameters, state, reverse, final_state, wants_gradient(*signals, parameters, state))


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, reverse, final_state, keep = arguments
        arranged: list[Any] = [None if x is None else x.contiguous() for x in tensors]
        *signals, real, parameters, state = arranged
        (B, N, _), (G, K) = signals[0].shape, parameters.shape[1:]
        lib, shape = library(), Shape(B, N, G, K, reverse, torch.get_num_threads())
        assert lib is not None
        out = torch.empty_like(signals[0])
        after = parameters.new_empty(B, G, K, K) if final_state else None
        records = records_for(shape) if keep else None
        arrays = MixArrays(*map(address, (*signals, real, parameters, out)))
        memory = Memory.of(state, after, records)
        lib.lgdlm_mix_forward(ctypes.byref(shape), ctypes.byref(arrays), ctypes.byref(memory), int(out.dtype == torch.bfloat16))
        if keep:
            ctx.save_for_backward(*signals, real, parameters, state, records)
            ctx.reverse = reverse
            ctx.set_materialize_grads(False)
        return out, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        *signals, real, parameters, state, records = ctx.saved_tensors
        (B, N, _), (G, K) = signals[0].shape, parameters.shape[1:]
        lib, shape = library(), Shape(B, N, G, K, ctx.reverse, torch.get_num_threads())
        assert lib is not None
        d_out = torch.zeros_like(signals[0]) if d_out is None else d_out.contiguous()
        d_after = None if d_after is None else d_after.contiguous()
        d_signals = [None if x is None else torch.empty_like(x) for x in signals]
        d_parameters = parameters.new_empty(B, G, len(PARAMETERS), K)
        d_state = None if state is None else torch.empty_like(state)
        arrays = MixArrays(*map(address, (*signals, real, parameters, None, d_out, *d_signals, d_parameters)))
        memory = Memory.of(d_after, d_state, records)
        lib.lgdlm_mix_backward(ctypes.byref(shape), ctypes.byref(arrays), ctypes.byref(memory), int(d_out.dtype == torch.bfloat16))
        return (*d_signals, None, d_parameters.sum(dim=0).transpose(0, 1), d_state, None, None, None)
