"""WKV-7: one interface, interchangeable kernels.

    y, state = wkv(r, log_w, k, v, a, b, state)             S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T

`KERNELS` is the table: a kernel added there is checked against the float64 recurrence, in values and all gradients, by
the tests that walk it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lgdlm.models.wkv.chunked import LONGEST, wkv_chunked
from lgdlm.models.wkv.recurrence import wkv_recurrence


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
    "recurrent": wkv_recurrence,
    "chunked": wkv_chunked,
}
CHOICES = ("auto", *KERNELS)
__all__ = ["CHOICES", "KERNELS", "LONGEST", "Kernel", "wkv"]


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

    `auto` takes the recurrence for a single token and the chunked form otherwise. The state is a long sum, so everything
    here is at least float32 whatever the inputs are and whatever autocast says; y is returned in that dtype.
    """
    if kernel == "auto":
        kernel = "recurrent" if r.shape[1] == 1 else "chunked"
    dtype = torch.promote_types(r.dtype, torch.float32)
    r, log_w, k, v, a, b = (x.to(dtype) for x in (r, log_w, k, v, a, b))
    state = None if state is None else state.to(dtype)
    with torch.autocast(r.device.type, enabled=False):
        return KERNELS[kernel](r, log_w, k, v, a, b, state, chunk, reverse=reverse, final_state=final_state)
