"""Where a text ends: p(length | latent side).

predicted   -log p(y, n | z) = -log p(n | z) - log p(y | n, z)        so the length's cost is part of the bound
eos         y_1 ... y_n EOS | filling                                 the first EOS ends the text
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.models.conditioning import ClockEmbedding


class LengthHead(nn.Module):
    """Logits over 1 .. `max_length` real tokens from a noisy latent and its clock; at t_latent = 1 it is the prior p(n)."""

    def __init__(self, latent_len: int, latent_dim: int, max_length: int, width: int = 256):
        super().__init__()
        self.max_length = max_length
        self.clock = ClockEmbedding(width)
        self.enter = nn.Linear(latent_len * latent_dim, width)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, max_length))

    def forward(self, latent: Tensor, t_latent: Tensor) -> Tensor:
        """[B, L, D] and float32 [B] to [B, max_length]."""
        clock = self.clock(t_latent.new_zeros(t_latent.shape), t_latent)
        return self.mlp(self.enter(latent.flatten(1)) + clock)

    def loss(self, latent: Tensor, t_latent: Tensor, lengths: Tensor) -> Tensor:
        """-log p(length) in nats, float32 [B]."""
        assert int(lengths.max()) <= self.max_length, "texts longer than max_seq_len are refused before training"
        return F.cross_entropy(self(latent, t_latent).float(), lengths - 1, reduction="none")


def before_end(tokens: Tensor, eos_id: int, keep_end: bool = False) -> Tensor:
    """bool [B, N]: positions in front of a row's first EOS; with `keep_end` that EOS as well."""
    ends = tokens == eos_id
    count = ends.cumsum(dim=1)
    return (count == 0) | (ends & (count == 1)) if keep_end else count == 0
