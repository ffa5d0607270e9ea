"""The WKV-7 recurrence for whole chunks at once, in plain PyTorch matrix products with a hand-written gradient.

Within a chunk of L tokens let c_t = log w_1 + ... + log w_t, measured from the middle of the chunk so that no exponent
exceeds half the chunk's decay; h = exp(half the chunk's decay); Z = S^T the state before it. With tokens as rows,

    A_t = a_t exp(c_{t-1})   R_t = r_t exp(c_t)   K_t = k_t exp(-c_t)   B_t = b_t exp(-c_t)
    Zm = h Z                                                              the state, decayed to the middle
    U  = T (A Zm + lower(A K^T) V),   T = (I - lower(A B^T))^{-1}         the rows S_{t-1} a_t
    Y  = R Zm + lower'(R K^T) V + lower'(R B^T) U                         lower' includes the diagonal
    Z' = h (Zm + K^T V + B^T U)

Everything without Z is computed for all chunks at once; only Z is carried from one to the next. The gradient has the
same form and runs the other way: with E = [T^T dU; dY] it is E [V; U]^T for all four score matrices together, so T is
never differentiated. Reading backwards exchanges lower with upper triangles and the order of the chunks: nothing is flipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 128
GRANULE = 4  # chunk lengths are multiples of this: a short text is not padded to a full chunk


def wkv_chunked(
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
    """Arguments and answers of `wkv_recurrence`; no chunk is longer than `chunk`, rounded up to a multiple of 4.

    exp(-sum of log_w over a chunk) must be in range, in float32 below 3e38: with RWKV-7's log_w > -0.6066 up to 128
    tokens. Raises ValueError for longer chunks.
    """
    if not 1 <= chunk <= LONGEST:
        raise ValueError(f"chunk {chunk}: expected 1 to {LONGEST}")
    B, N, G, K = r.shape
    C = -(-N // max(chunk, GRANULE))
    L = -(-N // (C * GRANULE)) * GRANULE
    parts = [_chunks(x, C, L) for x in (r, log_w, k, v, a, b)]
    if C == 1 and state is None and not final_state:
        y, _ = _ChunkScan.apply(*parts, None, reverse)
        return y[:, :N], None
    Z = r.new_zeros(B, G, K, K) if state is None else state.mT
    y, Z = _ChunkScan.apply(*parts, Z.flatten(0, 1), reverse)
    return y[:, :N], Z.view(B, G, K, K).mT if final_state else None


def _chunks(x: Tensor, C: int, L: int) -> Tensor:
    """[B, N, G, K] to [B, C, L, G, K]; the tail is padded with zeros, which is neutral: w = 1 and nothing is written."""
    tail = C * L - x.shape[1]
    x = F.pad(x, (0, 0, 0, 0, 0, tail)) if tail else x
    return x.unflatten(1, (C, L))


class _ChunkScan(torch.autograd.Function):
    """r, log_w, k, v, a, b [B, C, L, G, K] and Z [B G, K, V] or None (nothing carried, C = 1) to y [B, C L, G, K] and Z'.

    Inside, chunks come first and rows and heads are one axis: [C, B G, L, K].
    """

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, Z: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor | None]:
        L = r.shape[2]
        signs, keep = _orders(L, reverse, r)
        c = (signs @ log_w.flatten(3)).view_as(log_w)
        decay_a, decay_r, decay_k = torch.exp(c - log_w), torch.exp(c), torch.exp(-c)
        AR = _stacked(r, (a, decay_a), (r, decay_r))
        KB = _stacked(r, (k, decay_k), (b, decay_k))
        VU = _stacked(r, (v, None), None)

        scores = (AR @ KB.mT).mul_(keep)
        T = _inverse(scores[..., :L, L:], reverse)
        WY = scores[..., :L] @ VU[..., :L, :]
        half, before, after = None, None, None
        if Z is None:
            VU[..., L:, :] = T @ WY[..., :L, :]
        else:
            half = _heads(log_w.sum(dim=2, keepdim=True)).flatten(1, 2).mul(0.5).exp().mT  # [C, B G, K, 1]
            before, after = (VU.new_empty(*VU.shape[:2], *Z.shape[1:]) for _ in range(2))
            for i in _sequence(len(VU), reverse):
                torch.mul(half[i], Z, out=before[i])
                WY[i].baddbmm_(AR[i], before[i])
                VU[i, :, L:] = T[i] @ WY[i, :, :L]
                torch.baddbmm(before[i], KB[i].mT, VU[i], out=after[i])
                Z = half[i] * after[i]
        Y = WY[..., L:, :] + scores[..., L:, L:] @ VU[..., L:, :]
        ctx.save_for_backward(r, k, a, b, decay_a, decay_r, decay_k, AR, KB, VU, scores, T, half, before, after)
        ctx.reverse = reverse
        return _tokens(Y, r.shape).flatten(1, 2), Z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, D: Tensor | None) -> tuple[Tensor | None, ...]:
        r, k, a, b, decay_a, decay_r, decay_k, AR, KB, VU, scores, T, half, before, after = ctx.saved_tensors
        B, C, L, G, K = shape = r.shape
        signs, keep = _orders(L, ctx.reverse, dy)
        E = _stacked(r, None, (dy.unflatten(1, (C, L)), None))  # [dW; dY], where U = T W
        dU = scores[..., L:, L:].mT @ E[..., L:, :]
        if half is None:
            E[..., :L, :] = T.mT @ dU
        else:
            assert D is not None
            D_before, D_after = torch.empty_like(before), torch.empty_like(after)
            for i in _sequence(C, not ctx.reverse):
                torch.mul(half[i], D, out=D_after[i])
                dU[i].baddbmm_(KB[i, :, L:], D_after[i])
                E[i, :, :L] = T[i].mT @ dU[i]
                torch.baddbmm(D_after[i], AR[i].mT, E[i], out=D_before[i])
                D = half[i] * D_before[i]
        d_scores = (E @ VU.mT).mul_(keep)
        dAR, dKB, dV = d_scores @ KB, d_scores.mT @ AR, scores[..., :L].mT @ E
        if half is not None:
            dAR += E @ before.mT
            dKB += VU @ D_after.mT
            dV += KB[..., :L, :] @ D_after
        da, dr = _tokens(dAR[..., :L, :], shape, decay_a), _tokens(dAR[..., L:, :], shape, decay_r)
        dk, db = _tokens(dKB[..., :L, :], shape, decay_k), _tokens(dKB[..., L:, :], shape, decay_k)

        through_a = da * a  # the gradient of an exponent is x dx: c_t - log w_t for a, c_t for r, -c_t for k and b
        d_c = torch.addcmul(through_a, dr, r).addcmul_(dk, k, value=-1).addcmul_(db, b, value=-1)
        d_log_w = (signs.mT @ d_c.flatten(3)).view(shape).sub_(through_a)
        if half is not None:
            d_half = (D_after * after).sum(dim=-1) + (D_before * before).sum(dim=-1)
            d_log_w += 0.5 * d_half.view(C, B, 1, G, K).transpose(0, 1)
        return dr, d_log_w, dk, _tokens(dV, shape), da, db, D, None


def _sequence(C: int, reverse: bool) -> Iterable[int]:
    return reversed(range(C)) if reverse else range(C)


def _orders(L: int, reverse: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices over (token, other token): the signs that give c, and which of the scores [A; R] [K; B]^T are real.

    c_t is half of what decays up to and with t minus half of what decays after it.
    """
    at_or_before = torch.ones(L, L, dtype=like.dtype, device=like.device).tril()
    at_or_before = at_or_before.mT if reverse else at_or_before
    strictly = at_or_before - torch.eye(L, dtype=like.dtype, device=like.device)
    return at_or_before - 0.5, torch.cat([strictly, at_or_before]).repeat(1, 2)


def _heads(x: Tensor) -> Tensor:
    """[B, C, L, G, K] seen as [C, B, G, L, K]."""
    return x.permute(1, 0, 3, 2, 4)


def _stacked(like: Tensor, *halves: tuple[Tensor, Tensor | None] | None) -> Tensor:
    """Two of [B, C, L, G, K], each with a factor or None, written on top of each other: [C, B G, 2 L, K].

    A half that is None is left for the caller to fill.
    """
    B, C, L, G, K = like.shape
    stack = like.new_empty(C, B, G, 2, L, K)
    for i, half in enumerate(halves):
        if half is not None and half[1] is not None:
            torch.mul(_heads(half[0]), _heads(half[1]), out=stack[:, :, :, i])
        elif half is not None:
            stack[:, :, :, i] = _heads(half[0])
    return stack.flatten(3, 4).flatten(1, 2)


def _tokens(x: Tensor, shape: torch.Size, factor: Tensor | None = None) -> Tensor:
    """[C, B G, L, K] written as [B, C, L, G, K], times a factor of that shape."""
    B, C, L, G, K = shape
    x = x.unflatten(1, (B, G)).permute(1, 0, 3, 2, 4)
    return x.contiguous() if factor is None else torch.mul(x, factor, out=torch.empty_like(factor))


def _inverse(A: Tensor, reverse: bool) -> Tensor:
    """(I - A)^{-1} for strictly lower (reverse: upper) triangular A [..., L, L], by doubling the inverted diagonal blocks.

        inverse of two neighbours:   [ T1         0  ]
                                     [ T2 A21 T1  T2 ]

    A substitution, hence backward stable. The Neumann product (I + A)(I + A^2)(I + A^4)... is not: the powers explode
    when keys repeat.
    """
    if reverse:
        return _inverse(A.mT, False).mT
    L = A.shape[-1]
    size = 1 << (L - 1).bit_length()
    padded = F.pad(A, (0, size - L, 0, size - L)).reshape(-1, size, size)
    T = torch.eye(size, dtype=A.dtype, device=A.device).repeat(len(padded), 1, 1)
    half = 1
    while half < size:
        blocks = _diagonal_blocks(T, 2 * half)
        lower = _diagonal_blocks(padded, 2 * half)[..., half:, :half]
        if half > 1:
            lower = blocks[..., half:, half:] @ lower @ blocks[..., :half, :half]
        blocks[..., half:, :half] = lower
        half *= 2
    return T[:, :L, :L].reshape(A.shape)


def _diagonal_blocks(x: Tensor, size: int) -> Tensor:
    """A view [n, L / size, size, size] of the square blocks along the diagonals of [n, L, L]."""
    m = x.shape[-1] // size
    return x.view(-1, m, size, m, size).diagonal(dim1=1, dim2=3).movedim(-1, 1)
