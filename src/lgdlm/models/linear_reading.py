"""What a linear model reads from the visible tokens, and the answer it implies: the network only has to correct it.

    z_0 | visible text ~ N(b, s^2),   b = sum over visible features f of W[f] / sqrt(F) + share * c,   s^2 = 1 - share (1 - r)

Features are the tokens and the neighbouring pairs of tokens (hashed into BUCKETS), F = 2 n - 1 in a text of n; `share` is their
visible part and r the residual variance of a ridge regression on them. The skip is the exact posterior mean of that model given
z_t (`GaussianDiffusion.answer_of_gaussian`), so at initialisation T2L is ridge regression at every t, and with nothing visible
it is silent.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lgdlm.models.denoiser import NoisyPair

BUCKETS = 1 << 17  # of pairs: 97,000 definitions have 500,000 different ones; measured, doubling them gains half a point of R2
Ids = TypeVar("Ids", np.ndarray, Tensor)


def pair_ids(first: Ids, second: Ids, vocab_size: int) -> Ids:
    """Feature ids of neighbouring tokens, behind the tokens' own: V + hash mod BUCKETS. Works on arrays of either library."""
    return vocab_size + (first * 1_000_003 + second) % BUCKETS


def features(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """All features of a clean text, int64 [2 n - 1]."""
    return np.concatenate([tokens, pair_ids(tokens[:-1], tokens[1:], vocab_size)])


class LinearReading(nn.Module):
    """`table` W [V + BUCKETS, L D] and `offset` c [L D], zero until they are fitted, `residual` r [L D], 1 until then.

    None of them is trained: a regression fitted on every text is not improved by noisy gradients on some of them, and the
    network corrects a reading that stands still.
    """

    def __init__(self, vocab_size: int, latent_len: int, latent_dim: int):
        super().__init__()
        self.vocab_size, self.shape = vocab_size, (latent_len, latent_dim)
        self.table: Tensor
        self.offset: Tensor
        self.residual: Tensor
        self.register_buffer("table", torch.zeros(vocab_size + BUCKETS, latent_len * latent_dim))
        self.register_buffer("offset", torch.zeros(latent_len * latent_dim))
        self.register_buffer("residual", torch.ones(latent_len * latent_dim))

    @torch.no_grad()
    def fit(self, table: Tensor, offset: Tensor, residual: Tensor) -> None:
        """Take a regression's weights [V + BUCKETS, L D], intercept [L D] and residual variance [L D] in (0, 1]."""
        assert bool((residual > 0).all()), "a residual variance of 0 would leave nothing to denoise"
        self.table.copy_(table)
        self.offset.copy_(offset)
        self.residual.copy_(residual.clamp_max(1.0))  # a regression worse than the mean reads nothing

    def forward(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        """Mean b and variance s^2 of the latent, both [B, L, D]; masked and padding positions do not enter."""
        visible = pair.attention_mask & (pair.text != self.vocab_size)
        tokens = pair.text.masked_fill(~visible, 0)
        ids = torch.cat([tokens, pair_ids(tokens[:, :-1], tokens[:, 1:], self.vocab_size)], dim=1)
        seen = torch.cat([visible, visible[:, :-1] & visible[:, 1:]], dim=1)
        total = (2 * pair.attention_mask.sum(dim=1) - 1)[:, None]
        read = torch.where(seen[..., None], self.table[ids], 0.0).sum(dim=1) / total.sqrt()
        if pair.soft is not None:  # of a straight-through token its own row; pairs of tokens are hashed, and have no gradient
            pull = (pair.soft - pair.soft.detach()) @ self.table[: self.vocab_size]
            read = read + (pull * visible[..., None]).sum(dim=1) / total.sqrt()
        share = seen.sum(dim=1, keepdim=True) / total
        mean, variance = read + share * self.offset, 1 - share * (1 - self.residual)
        return mean.unflatten(1, self.shape), variance.unflatten(1, self.shape)
