"""RWKV-7 as a denoiser: the latent is read as tokens at the ends of the text.

    bidirectional   [z_1 .. z_P  y_1 .. y_N  z_1 .. z_P]        causal   [z_1 .. z_P  y_1 .. y_N]

Reading left to right the first copy of the latent comes before all text, reading right to left the second one does: so
text states of both directions have the latent in memory from the first layer on. The copy that a direction meets last
has seen all text; the mean of the two copies' final states is the prefix state of the latent prediction. One copy alone
would leave either the text of one direction without the latent or the prefix without the text.

Padding is moved behind the second copy before the first layer and back after the last one: to the recurrence each row
is its real tokens, whatever the padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgdlm.models.conditioning import ClockEmbedding
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.embedding import TextHead, TokenEmbedding
from lgdlm.models.latent_head import LatentHead
from lgdlm.models.latent_prefix import LatentPrefix
from lgdlm.models.rwkv7 import RWKV7

CAUSALITIES = ("bidirectional", "causal")


class RWKVDenoiser(Denoiser):
    """See `Denoiser`. Raises ValueError for values that do not fit together.

    hidden_size, n_blocks, head_size  width (a multiple of head_size), depth, channels per WKV head
    ffn_ratio          channel mix width over hidden_size
    causality          `bidirectional`, or `causal`: a token sees the latent and the text up to itself
    fusion             how the two directions meet: a name of `FUSIONS`
    share_directions   both directions use the same time mix
    time_conditioning  a kind of `Conditioning`
    latent_pred_from   `text`, `prefix` or `both`. `prefix` with `causal` is refused: that prefix never sees the text
    latent_prefix_len  tokens P of each copy of the latent
    kernel, chunk      see `wkv`
    embedding_dim      width of the token table; 0: hidden_size
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        latent_dim: int,
        latent_len: int = 1,
        hidden_size: int = 256,
        n_blocks: int = 6,
        head_size: int = 64,
        ffn_ratio: float = 4.0,
        dropout: float = 0.0,
        causality: str = "bidirectional",
        fusion: str = "concat",
        share_directions: bool = False,
        time_conditioning: str = "adaln_zero",
        latent_pred_from: str = "both",
        latent_prefix_len: int = 1,
        kernel: str = "auto",
        chunk: int = 32,
        embedding_dim: int = 0,
        tie_embeddings: bool = True,
    ):
        super().__init__()
        if causality not in CAUSALITIES:
            raise ValueError(f"causality {causality!r}: expected one of {', '.join(CAUSALITIES)}")
        if causality == "causal" and latent_pred_from == "prefix":
            raise ValueError(
                "latent_pred_from=prefix cannot work with causality=causal: the latent's tokens come before the text "
                "and never see it; use latent_pred_from=text or both, or causality=bidirectional"
            )
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = vocab_size, latent_len, latent_dim, hidden_size
        self.both_ways = causality == "bidirectional"
        self.embedding = TokenEmbedding(vocab_size, hidden_size, embedding_dim)
        self.text_kind = nn.Parameter(torch.randn(hidden_size) * 0.02)  # the latent's token type is in `prefix`
        self.prefix = LatentPrefix(latent_len, latent_dim, hidden_size, latent_prefix_len, latent_pred_from != "text")
        self.clock = ClockEmbedding(hidden_size)
        self.backbone = RWKV7(
            hidden_size,
            n_blocks,
            head_size=head_size,
            ffn_size=round(ffn_ratio * hidden_size),
            fusion=fusion if self.both_ways else None,
            share=share_directions,
            conditioning=time_conditioning,
            dropout=dropout,
            kernel=kernel,
            chunk=chunk,
        )
        self.text_head = TextHead(self.embedding, hidden_size, tie_embeddings)
        self.latent_head = LatentHead(hidden_size, latent_len, latent_dim, latent_pred_from)

    def forward(self, pair: NoisyPair) -> Prediction:
        """Padded positions change nothing; their own `hidden` is zero."""
        latent, text = self.prefix(pair.latent), self.embedding(pair.text) + self.text_kind
        cond = self.clock(pair.t_text, pair.t_latent) + self.prefix.summary(pair.latent)
        P, N = latent.shape[1], text.shape[1]
        x = torch.cat([latent, text, latent] if self.both_ways else [latent, text], dim=1)
        order, mask = _padding_last(pair.attention_mask, P, P if self.both_ways else 0)
        x = x if order is None else torch.take_along_dim(x, order[..., None], dim=1)
        x, _ = self.backbone(x, cond=cond, mask=mask, keep_state=False)
        x = x if order is None else torch.take_along_dim(x, order.argsort(dim=1)[..., None], dim=1)

        hidden = x[:, P : P + N]
        hidden = hidden if order is None else hidden * pair.attention_mask[..., None].to(hidden.dtype)
        prefix = (x[:, :P] + x[:, -P:]) / 2 if self.both_ways else x[:, :P]
        return Prediction(self.text_head(hidden, pair), self.latent_head(hidden, self.prefix.back(prefix), pair.attention_mask), hidden)


def _padding_last(mask: Tensor, before: int, after: int) -> tuple[Tensor | None, Tensor | None]:
    """The order [B, before + N + after] that puts padding behind everything real, and what is real in that order.

    None and None where nothing is padding.
    """
    if bool(mask.all()):
        return None, None
    real = torch.cat([mask.new_ones(len(mask), before), mask, mask.new_ones(len(mask), after)], dim=1)
    order = (~real).long().argsort(dim=1, stable=True)
    return order, torch.take_along_dim(real, order, dim=1)
