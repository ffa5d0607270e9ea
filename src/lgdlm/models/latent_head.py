"""From text states and prefix states to the latent prediction.

    text    masked mean of the text states          prefix   the latent's own prefix states
    both    both, concatenated

`prefix` under a causal network cannot see the text, because the prefix comes first: the caller refuses it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SOURCES = ("text", "prefix", "both")


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over real positions, [B, N, H] and bool [B, N] to [B, H]; a row without any is refused by the collator."""
    weight = mask.to(states.dtype)
    return torch.einsum("bnh,bn->bh", states, weight) / weight.sum(dim=1, keepdim=True)


class LatentHead(nn.Module):
    """[B, N, H] text states and [B, L, H] prefix states to [B, L, D].

    Each source has a norm of its own: a mean over many tokens is small, and beside the prefix under one norm it would vanish.

    The last layer starts small rather than at zero: a zero matrix behind zero gates would never receive a gradient.
    """

    def __init__(self, hidden_size: int, latent_len: int, latent_dim: int, source: str = "both"):
        super().__init__()
        if source not in SOURCES:
            raise ValueError(f"latent_pred_from {source!r}: expected one of {', '.join(SOURCES)}")
        self.source, self.latent_len, self.latent_dim = source, latent_len, latent_dim
        width = hidden_size * (2 if source == "both" else 1)
        self.norm_text = nn.LayerNorm(hidden_size) if source != "prefix" else nn.Identity()
        self.norm_prefix = nn.LayerNorm(hidden_size) if source != "text" else nn.Identity()
        outputs = latent_len * latent_dim if source == "text" else latent_dim
        leave = nn.Linear(hidden_size, outputs)
        nn.init.normal_(leave.weight, std=0.02)
        nn.init.zeros_(leave.bias)
        self.mlp = nn.Sequential(nn.Linear(width, hidden_size), nn.GELU(), leave)

    def forward(self, text_states: Tensor, prefix_states: Tensor, attention_mask: Tensor) -> Tensor:
        if self.source == "prefix":
            return self.mlp(self.norm_prefix(prefix_states))
        pooled = self.norm_text(masked_mean(text_states, attention_mask))
        if self.source == "text":
            return self.mlp(pooled).unflatten(1, (self.latent_len, self.latent_dim))
        prefix = self.norm_prefix(prefix_states)
        return self.mlp(torch.cat([prefix, pooled[:, None].expand_as(prefix)], dim=-1))
