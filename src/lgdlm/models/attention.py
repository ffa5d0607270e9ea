"""Attention over real positions.

    softmax(q k^T / sqrt(d) + mask) v,     q and k RMS-normalised per head where `qk_rmsnorm` asks for it

Fused SDPA for long sequences. For short ones on a CPU (texts of a dozen tokens) its bf16 kernel is several times slower
than two batched matrix products, so those take the plain path; both give the same numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_BELOW = 128  # keys; measured crossover on CPU, see docs/performance.md


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """q, k, v [B, G, N, d] and bool [B, N] (True: may be looked at) or None, to [B, G, N, d]."""
    bias = None if key_mask is None else key_mask[:, None, None, :]
    if q.device.type != "cpu" or k.shape[2] >= PLAIN_BELOW:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


class HeadNorm(nn.Module):
    """Root-mean-square normalisation of each head's vector with one learned scale per channel."""

    def __init__(self, head_size: int, eps: float = 1e-6):
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.ones(head_size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.scale.to(x.dtype), self.eps)


class Projections(nn.Module):
    """One stream's q, k, v and output matrices."""

    def __init__(self, hidden_size: int, n_heads: int, qk_rmsnorm: bool):
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)
        head = hidden_size // n_heads
        self.norm_q = HeadNorm(head) if qk_rmsnorm else nn.Identity()
        self.norm_k = HeadNorm(head) if qk_rmsnorm else nn.Identity()

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, H] to q, k, v [B, G, N, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm_q(q), self.norm_k(k), v

    def merge(self, attended: Tensor) -> Tensor:
        """[B, G, N, d] to [B, N, H]."""
        return self.out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """H to ratio H and back through the squared ReLU, as RWKV's channel mix: as good as GELU here and a tenth of its cost."""

    def __init__(self, hidden_size: int, ratio: float = 4.0, dropout: float = 0.0):
        super().__init__()
        width = int(hidden_size * ratio)
        self.enter = nn.Linear(hidden_size, width)
        self.leave = nn.Linear(width, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.leave(F.relu(self.enter(x)).square()))


class TextPositions(nn.Module):
    """Learned position from the start plus learned position from the end of the attended text.

    The length is known before the text is denoised, so a token may know how far the end is.
    """

    def __init__(self, max_length: int, hidden_size: int):
        super().__init__()
        self.max_length = max_length
        self.from_start = nn.Embedding(max_length, hidden_size)
        self.from_end = nn.Embedding(max_length, hidden_size)
        for table in (self.from_start, self.from_end):
            nn.init.normal_(table.weight, std=0.2)

    def forward(self, attention_mask: Tensor) -> Tensor:
        """bool [B, N] to [B, N, H]."""
        if attention_mask.shape[1] > self.max_length:
            raise ValueError(f"text of {attention_mask.shape[1]} tokens, but max_seq_len is {self.max_length}")
        index = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        to_end = (attention_mask.sum(dim=1, keepdim=True) - 1 - index).clamp_min(0)  # padding's own value is never read
        return self.from_start(index) + self.from_end(to_end)
