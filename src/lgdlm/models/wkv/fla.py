"""WKV-7 by the Triton kernels of flash-linear-attention, on CUDA.

Its states are indexed [k, v] and ours [v, k]; its kernels read from the left only, so a reversed reading turns the tokens round.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lgdlm.models.wkv.chunked import wkv_chunked

# it warns about every float32 input and, for some releases, about every text of fewer tokens than heads; both are meant here
KNOWN = ("ChunkDeltaRuleFunction does not support float32", "Input tensor shape suggests potential format mismatch")


@cache
def fla_present() -> bool:
    """Whether there is a GPU that Triton compiles for (compute capability 7.5 or later) and the package is installed."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (7, 5):
        return False
    return find_spec("triton") is not None and find_spec("fla") is not None


def wkv_fla(
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
    """Arguments and answers of `wkv_recurrence`; float32 on CUDA, anything else goes to the chunked form."""
    if not (r.device.type == "cuda" and r.dtype == torch.float32 and fla_present()):
        return wkv_chunked(r, log_w, k, v, a, b, state, chunk, reverse=reverse, final_state=final_state)
    return by_triton(r, log_w, k, v, a, b, state, reverse, final_state)


def by_triton(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None, reverse: bool, final_state: bool
) -> tuple[Tensor, Tensor | None]:
    """The package's call, in our order of indices and without what it says about float32 and short texts."""
    from fla.ops.rwkv7 import chunk_rwkv7

    signals = [(x.flip(1) if reverse else x).contiguous() for x in (r, log_w, k, v, a, b)]
    names = dict(zip("rwkvab", signals, strict=True))
    start = None if state is None else state.mT.contiguous()
    with warnings.catch_warnings():
        for known in KNOWN:
            warnings.filterwarnings("ignore", message=known)
        y, after = chunk_rwkv7(**names, scale=1.0, initial_state=start, output_final_state=final_state)
    return y.flip(1) if reverse else y, after.mT if final_state else None
