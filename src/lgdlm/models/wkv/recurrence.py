"""The definition of the WKV-7 recurrence, one token at a time.

    S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T          y_t = S_t r_t

`S[v, k]` is one head's matrix state: it decays per key channel (w), is read and rewritten along one direction (a, b: the
generalised delta rule), learns one association (v k^T), and is read out by the receptance (r). Every other kernel is
checked against this loop in float64, in values and in gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wkv_recurrence(
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
    """The loop itself, in the dtype of its inputs.

    r, log_w, k, v, a, b  float [B, N, G, K]; `log_w` is the log decay, at most 0
    state                 float [B, G, K, K], indexed [v, k], before the first token read; None: zeros
    chunk                 has no meaning here; every kernel takes it
    reverse               read the tokens from the last to the first
    final_state           False: the second answer is None

    Returns y [B, N, G, K] in the order of the tokens, and the state after the last token read.
    """
    B, N, G, K = r.shape
    S = r.new_zeros(B, G, K, K) if state is None else state
    w = log_w.exp()
    y = [r.new_empty(0)] * N
    for t in reversed(range(N)) if reverse else range(N):
        removed = torch.einsum("bgvk,bgk->bgv", S, a[:, t])
        S = S * w[:, t, :, None, :] + removed[..., None] * b[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
        y[t] = torch.einsum("bgvk,bgk->bgv", S, r[:, t])
    return torch.stack(y, dim=1), S if final_state else None
