"""The latent as tokens: P prefix positions of the hidden width, and one summary vector for the condition.

prefix = reshape(W z_t) + type,   summary = W_s z_t,   back: P prefix states to the latent's L
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentPrefix(nn.Module):
    """[B, L, D] to [B, P, H]. The whole latent is seen by every prefix token.

    `read_back` is False where the latent is predicted from text states only: then nothing maps prefix states back.
    """

    def __init__(self, latent_len: int, latent_dim: int, hidden_size: int, prefix_len: int, read_back: bool = True):
        super().__init__()
        self.prefix_len, self.latent_len = prefix_len, latent_len
        self.enter = nn.Linear(latent_len * latent_dim, prefix_len * hidden_size)
        self.kind = nn.Parameter(torch.randn(prefix_len, hidden_size) * 0.02)
        self.into_condition = nn.Linear(latent_len * latent_dim, hidden_size)
        self.leave = nn.Linear(prefix_len, latent_len, bias=False) if read_back and prefix_len != latent_len else nn.Identity()

    def forward(self, latent: Tensor) -> Tensor:
        return self.enter(latent.flatten(1)).unflatten(1, (self.prefix_len, -1)) + self.kind

    def summary(self, latent: Tensor) -> Tensor:
        """[B, H], added to the clocks' condition."""
        return self.into_condition(latent.flatten(1))

    def back(self, states: Tensor) -> Tensor:
        """[B, P, H] prefix states to [B, L, H] for the latent head."""
        return self.leave(states.transpose(1, 2)).transpose(1, 2)
