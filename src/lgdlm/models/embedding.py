"""Tokens in, logits out: the two ends every denoiser shares.

    e(token) = sqrt(E) E[token] P,  e(mask) = sqrt(E) m          logits = norm(h) P' E^T + b   (tied)   or   norm(h) P' W + b

Rows are small, as a tied head wants them; the factor sqrt(width) lifts them to the size of what the blocks add, which would
otherwise drown which token it was. Rows of published weights are read as they are, and their head is norm and matrix alone
(`scale` 1, `plain`). The mask has a trainable row `m` of its own, so a frozen or borrowed vocabulary can still
be diffused. Logits have one entry per real token: the mask cannot be emitted (the SUBS rule holds by construction).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.models.denoiser import NoisyPair

# The number of masked tokens differs at every step, and the CPU's matrix library compiles and keeps a kernel for every shape it
# meets: rounded up, it meets few, where it otherwise grows by 10 MB a step and spends a tenth of its time compiling.
ROWS_TOGETHER = 64


class TokenEmbedding(nn.Module):
    """`embedding_dim` E below the hidden width H factorises the table; 0 means E = H and no projection. `scale` None: sqrt(E)."""

    def __init__(self, vocab_size: int, hidden_size: int, embedding_dim: int = 0, scale: float | None = None):
        super().__init__()
        self.vocab_size = vocab_size
        width = embedding_dim or hidden_size
        self.scale = width**0.5 if scale is None else scale
        self.table = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.project = nn.Linear(width, hidden_size, bias=False) if width != hidden_size else nn.Identity()

    def forward(self, tokens: Tensor, soft: Tensor | None = None) -> Tensor:
        """int64 [B, N] to [B, N, H]; `soft` [B, N, V] receives the gradient that one-hot rows would, and changes no value."""
        masked = tokens == self.vocab_size
        rows = self.table(tokens.masked_fill(masked, 0))
        if soft is not None:
            rows = rows + (soft - soft.detach()).to(rows.dtype) @ self.table.weight
        return self.project(torch.where(masked[..., None], self.mask.to(rows.dtype), rows) * self.scale)


class TextHead(nn.Module):
    """Logits over the vocabulary at the asked positions only.

    With `tied` the table of the embedding is used again (through a projection of its own back to the table's width). `plain` leaves
    the projection out; tables are then as wide as the hidden states.
    """

    def __init__(self, embedding: TokenEmbedding, hidden_size: int, tied: bool = True, plain: bool = False):
        super().__init__()
        self.plain = plain
        width = embedding.table.weight.shape[1]
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Identity() if plain else nn.Linear(hidden_size, width, bias=False)
        self.decode = nn.Linear(width, embedding.vocab_size)
        nn.init.zeros_(self.decode.bias)
        if tied:
            self.decode.weight = embedding.table.weight
        else:
            nn.init.normal_(self.decode.weight, std=0.02)

    def forward(self, hidden: Tensor, pair: NoisyPair) -> Tensor:
        if pair.logits_at is None:
            return self.decode(self.project(self.norm(hidden)))
        asked = hidden[pair.logits_at]
        count = len(asked)
        filled = F.pad(asked, (0, 0, 0, -count % ROWS_TOGETHER))
        return self.decode(self.project(self.norm(filled)))[:count]
