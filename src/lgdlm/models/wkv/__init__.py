"""WKV-7: one interface, interchangeable kernels.

    y, state = wkv(r, log_w, k, v, a, b, state)             S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T

`KERNELS` is the table: a kernel added there is checked against the float64 recurrence, in values and all gradients, by
the tests that walk it. Each may be asked for anywhere; where it cannot run (`PRESENT`) it hands the call to the chunked form.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lgdlm.errors import InputError
from lgdlm.models.wkv.chunked import LONGEST, wkv_chunked
from lgdlm.models.wkv.fla import fla_present, wkv_fla
from lgdlm.models.wkv.native import wkv_native
from lgdlm.models.wkv.recurrence import wkv_recurrence
from lgdlm.models.wkv.shared_library import library

VARIABLE = "LGDLM_KERNEL"


class Kernel(Protocol):
    """The signature of every kernel, documented at `wkv_recurrence`."""

    def __call__(
        self,
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
    ) -> tuple[Tensor, Tensor | None]: ...


KERNELS: dict[str, Kernel] = {
    "recurrence": wkv_recurrence,
    "chunked": wkv_chunked,
    "native": wkv_native,
    "fla": wkv_fla,
}
CHOICES = ("auto", *KERNELS)
PRESENT: dict[str, Callable[[], bool]] = {"native": lambda: library() is not None, "fla": fla_present}
AT_HOME = {"cpu": "native", "cuda": "fla"}  # the fastest kernel of a device
__all__ = ["CHOICES", "KERNELS", "LONGEST", "VARIABLE", "Kernel", "chosen_kernel", "wkv"]


def chosen_kernel(kernel: str = "auto", device: str = "cpu") -> str:
    """The name in `KERNELS` that does the work: `auto` is what the variable LGDLM_KERNEL says, else the fastest there is.

    Raises InputError where the variable names no kernel, ValueError where `kernel` does.
    """
    if kernel not in CHOICES:
        raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(CHOICES)}")
    if kernel == "auto":
        kernel = os.environ.get(VARIABLE) or "auto"
        if kernel not in CHOICES:
            raise InputError("KERNEL", "environment", VARIABLE, f"{kernel!r} is no kernel: expected one of {', '.join(CHOICES)}")
    if kernel == "auto":
        kernel = AT_HOME.get(device, "chunked")
    return kernel if kernel not in PRESENT or PRESENT[kernel]() else "chunked"


def wkv(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    chunk: int = 32,
    *,
    kernel: str = "auto",
    reverse: bool = False,
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """[B, N, G, K] each, state [B, G, K, K] or None, to (y [B, N, G, K], the state after the last token read).

    `kernel` as in `chosen_kernel`; what works in chunks of tokens leaves a single token to the recurrence. The state is a long
    sum, so everything here is at least float32 whatever the inputs are and whatever autocast says; y is returned in that dtype.
    """
    kernel = chosen_kernel(kernel, r.device.type)
    if kernel in ("chunked", "fla") and r.shape[1] == 1:
        kernel = "recurrence"
    dtype = torch.promote_types(r.dtype, torch.float32)
    r, log_w, k, v, a, b = (x.to(dtype) for x in (r, log_w, k, v, a, b))
    state = None if state is None else state.to(dtype)
    with torch.autocast(r.device.type, enabled=False):
        return KERNELS[kernel](r, log_w, k, v, a, b, state, chunk, reverse=reverse, final_state=final_state)
