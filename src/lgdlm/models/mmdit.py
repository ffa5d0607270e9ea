"""MMDiT: two streams with their own weights and one joint attention (Esser et al. 2024).

    q, k, v of text and latent are computed by each stream's own matrices, concatenated, attended jointly, split again;
    every branch of every stream is AdaLN-Zero modulated by both clocks; q and k are RMS-normalised per head.

All flags do what they say: `n_heads` heads, `qk_rmsnorm` on or off, every block keeps both streams' feed-forward, gates
start at zero.
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


class Stream(nn.Module):
    """One modality's weights in a joint block."""

    def __init__(self, hidden_size: int, n_heads: int, ffn_ratio: float, dropout: float, qk_rmsnorm: bool, time_conditioning: str):
        super().__init__()
        self.conditioning = Conditioning(hidden_size, time_conditioning)
        self.attention = Projections(hidden_size, n_heads, qk_rmsnorm)
        self.ffn = FeedForward(hidden_size, ffn_ratio, dropout)


class JointBlock(nn.Module):
    """Text and latent, [B, N, H] and [B, P, H], through one attention over both."""

    def __init__(self, text: Stream, latent: Stream):
        super().__init__()
        self.text, self.latent = text, latent

    def forward(self, states: list[Tensor], cond: Tensor, key_mask: Tensor | None) -> list[Tensor]:
        width, streams = states[0].shape[-1:], (self.text, self.latent)
        modulations = [stream.conditioning(cond) for stream in streams]
        heads = [
            stream.attention.heads(mix.before(F.layer_norm(x, width)))
            for stream, (mix, _), x in zip(streams, modulations, states, strict=True)
        ]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))
        attended = attend(q, k, v, key_mask).split([x.shape[1] for x in states], dim=2)
        out = []
        for stream, (mix, feed), x, y in zip(streams, modulations, states, attended, strict=True):
            x = mix.after(x, stream.attention.merge(y))
            out.append(feed.after(x, stream.ffn(feed.before(F.layer_norm(x, width)))))
        return out


class MMDiTDenoiser(Denoiser):
    """See `Denoiser`."""

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
        sizes = (hidden_size, n_heads, ffn_ratio, dropout, qk_rmsnorm, time_conditioning)
        self.blocks = nn.ModuleList(JointBlock(Stream(*sizes), Stream(*sizes)) for _ in range(n_blocks))
        self.text_head = TextHead(self.embedding, hidden_size, tie_embeddings)
        self.latent_head = LatentHead(hidden_size, latent_len, latent_dim, latent_pred_from)

    def forward(self, pair: NoisyPair) -> Prediction:
        cond = self.clock(pair.t_text, pair.t_latent) + self.prefix.summary(pair.latent)
        states = [self.embedding(pair.text, pair.soft, pair.estimate) + self.positions(pair.attention_mask), self.prefix(pair.latent)]
        seen = torch.cat([pair.attention_mask, pair.attention_mask.new_ones(pair.size, states[1].shape[1])], dim=1)
        key_mask = None if bool(seen.all()) else seen
        for block in self.blocks:
            states = block(states, cond, key_mask)
        hidden, prefix = states
        latent = self.latent_head(hidden, self.prefix.back(prefix), pair.attention_mask)
        return Prediction(self.text_head(hidden, pair), latent, hidden)
