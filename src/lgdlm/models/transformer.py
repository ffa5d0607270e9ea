"""Transformer denoiser: one stream of latent prefix and text under plain bidirectional attention.

    x = [W z_t + type_1, E[y_t] + pos + type_0]
    x = x + gate * Attention(norm(x) (1 + scale) + shift);  x = x + gate * FeedForward(...)

The honest baseline: the same conditioning, heads and losses as the other denoisers, and nothing clever.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.models.attention import FeedForward, Projections, TextPositions, attend
from lgdlm.models.conditioning import ClockEmbedding, Conditioning
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.embedding import TextHead, TokenEmbedding
from lgdlm.models.latent_head import LatentHead
from lgdlm.models.latent_prefix import LatentPrefix


class Block(nn.Module):
    """Attention and feed-forward, each behind its modulated norm."""

    def __init__(self, hidden_size: int, n_heads: int, ffn_ratio: float, dropout: float, qk_rmsnorm: bool, time_conditioning: str):
        super().__init__()
        self.conditioning = Conditioning(hidden_size, time_conditioning)
        self.attention = Projections(hidden_size, n_heads, qk_rmsnorm)
        self.ffn = FeedForward(hidden_size, ffn_ratio, dropout)

    def forward(self, x: Tensor, cond: Tensor, key_mask: Tensor | None) -> Tensor:
        mix, feed = self.conditioning(cond)
        width = x.shape[-1:]
        q, k, v = self.attention.heads(mix.before(F.layer_norm(x, width)))
        x = mix.after(x, self.attention.merge(attend(q, k, v, key_mask)))
        return feed.after(x, self.ffn(feed.before(F.layer_norm(x, width))))


class TransformerDenoiser(Denoiser):
    """See `Denoiser`; `latent_prefix_len` prefix tokens carry the latent."""

    def __init__(
        self,
        *,
        vocab_size: int,
        latent_dim: int,
        latent_len: int = 1,
        hidden_size: int = 256,
        n_blocks: int = 6,
        n_heads: int = 0,
        ffn_ratio: float = 4.0,
        dropout: float = 0.0,
        max_seq_len: int = 512,
        embedding_dim: int = 0,
        tie_embeddings: bool = True,
        time_conditioning: str = "adaln_zero",
        latent_pred_from: str = "both",
        latent_prefix_len: int = 1,
        qk_rmsnorm: bool = True,
        text_process: str = "masked",
        self_conditioning_prob: float = 0.0,
    ):
        super().__init__()
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = vocab_size, latent_len, latent_dim, hidden_size
        self.max_length = max_seq_len
        n_heads = n_heads or max(1, hidden_size // 64)
        sphere = text_process == "embedding"
        self.embedding = TokenEmbedding(
            vocab_size, hidden_size, embedding_dim, sphere=sphere, self_conditioned=sphere and self_conditioning_prob > 0
        )
        self.positions = TextPositions(max_seq_len, hidden_size)
        self.prefix = LatentPrefix(latent_len, latent_dim, hidden_size, latent_prefix_len, latent_pred_from != "text")
        self.clock = ClockEmbedding(hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, n_heads, ffn_ratio, dropout, qk_rmsnorm, time_conditioning) for _ in range(n_blocks))
        self.text_head = TextHead(self.embedding, hidden_size, tie_embeddings)
        self.latent_head = LatentHead(hidden_size, latent_len, latent_dim, latent_pred_from)

    def forward(self, pair: NoisyPair) -> Prediction:
        text = self.embedding(pair.text, pair.soft, pair.estimate) + self.positions(pair.attention_mask)
        prefix = self.prefix(pair.latent)
        cond = self.clock(pair.t_text, pair.t_latent) + self.prefix.summary(pair.latent)
        x = torch.cat([prefix, text], dim=1)
        seen = torch.cat([pair.attention_mask.new_ones(x.shape[0], prefix.shape[1]), pair.attention_mask], dim=1)
        key_mask = None if bool(seen.all()) else seen
        for block in self.blocks:
            x = block(x, cond, key_mask)
        prefix, hidden = x[:, : prefix.shape[1]], x[:, prefix.shape[1] :]
        latent = self.latent_head(hidden, self.prefix.back(prefix), pair.attention_mask)
        return Prediction(self.text_head(hidden, pair), latent, hidden)
