"""RWKV-7 as a denoiser: the latent is read as tokens at the ends of the text.

    bidirectional   [z_1 .. z_P  y_1 .. y_N  z_1 .. z_P]        causal, block_causal   [z_1 .. z_P  y_1 .. y_N]

Reading left to right the first copy of the latent comes before all text, reading right to left the second one does: so
text states of both directions have the latent in memory from the first layer on. The copy that a direction meets last
has seen all text; the mean of the two copies' final states is the prefix state of the latent prediction. One copy alone
would leave either the text of one direction without the latent or the prefix without the text. In blocks the latent is
what the forward state holds before the first one.

Padding is moved behind the second copy before the first layer and back after the last one: to the recurrence each row
is its real tokens, whatever the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.models.block_causal import BlockCausalRWKV, BlockMemory
from lgdlm.models.conditioning import ClockEmbedding
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.embedding import TextHead, TokenEmbedding
from lgdlm.models.latent_head import LatentHead
from lgdlm.models.latent_prefix import LatentPrefix
from lgdlm.models.rwkv7 import RWKV7
from lgdlm.models.walk import WHOLE_ROW, in_place, ordered, padding_last

CAUSALITIES = ("bidirectional", "causal", "block_causal")
CONTEXTS = ("noisy", "clean")


class RWKVDenoiser(Denoiser):
    """See `Denoiser`. Raises ValueError for values that do not fit together.

    hidden_size, n_blocks, head_size  width (a multiple of head_size), depth, channels per WKV head
    ffn_ratio          channel mix width over hidden_size
    causality          `bidirectional`; `causal`: a token sees the latent and the text up to itself; `block_causal`: up to the end of
                       its block of `block_size` tokens
    block_context      how earlier blocks are seen: `noisy`, as they stand in the text; `clean`: block diffusion, where a text question
                       carries the clean text (`NoisyPair.context`) or what is left of it (`NoisyPair.memory`)
    fusion             how the two directions meet: a name of `FUSIONS`
    share_directions   both directions use the same time mix
    time_conditioning  a kind of `Conditioning`
    latent_pred_from   `text`, `prefix` or `both`. `prefix` goes with `bidirectional` only: another prefix never sees the text
    latent_prefix_len  tokens P of each copy of the latent
    kernel, chunk      see `wkv`
    embedding_dim      width of the token table; 0: hidden_size
    ranks              widths of the low-rank signals w, a, v, g; empty: `published_ranks`
    published_ends     token rows enter as they are, as in published weights; `use_rwkv_lm_head`: and so does the vocabulary head
    text_process       `embedding`: texts may come as noised rows, and with `self_conditioning_prob` above 0 estimates of the clean ones
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
        block_size: int = 64,
        block_context: str = "noisy",
        fusion: str = "concat",
        share_directions: bool = False,
        time_conditioning: str = "adaln_zero",
        latent_pred_from: str = "both",
        latent_prefix_len: int = 1,
        kernel: str = "auto",
        chunk: int = 32,
        embedding_dim: int = 0,
        tie_embeddings: bool = True,
        ranks: dict[str, int] | None = None,
        published_ends: bool = False,
        use_rwkv_lm_head: bool = False,
        text_process: str = "masked",
        self_conditioning_prob: float = 0.0,
    ):
        super().__init__()
        if causality not in CAUSALITIES:
            raise ValueError(f"causality {causality!r}: expected one of {', '.join(CAUSALITIES)}")
        if block_context not in CONTEXTS:
            raise ValueError(f"block_context {block_context!r}: expected one of {', '.join(CONTEXTS)}")
        if block_context == "clean" and causality != "block_causal":
            raise ValueError(f"block_context=clean is about blocks, and causality={causality} has none: use causality=block_causal")
        if causality != "bidirectional" and latent_pred_from == "prefix":
            raise ValueError(
                f"latent_pred_from=prefix cannot work with causality={causality}: the latent's tokens come before the text "
                "and never see it; use latent_pred_from=text or both, or causality=bidirectional"
            )
        if published_ends and embedding_dim not in (0, hidden_size):
            raise ValueError(f"embedding_dim {embedding_dim}: published token rows are as wide as the stack, {hidden_size}")
        sphere = text_process == "embedding"
        if sphere and (published_ends or block_context == "clean"):
            raise ValueError(
                "text_process=embedding needs token rows of its own and noises a text as a whole: leave out pretrained weights, and use"
                " block_context=noisy"
            )
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = vocab_size, latent_len, latent_dim, hidden_size
        self.both_ways = causality == "bidirectional"
        self.embedding = TokenEmbedding(
            vocab_size,
            hidden_size,
            embedding_dim,
            scale=1.0 if published_ends else None,
            sphere=sphere,
            self_conditioned=sphere and self_conditioning_prob > 0,
        )
        # the token type of text (the latent's is in `prefix`); published rows are text by themselves
        self.text_kind = nn.Parameter(torch.zeros(hidden_size) if published_ends else torch.randn(hidden_size) * 0.02)
        self.prefix = LatentPrefix(latent_len, latent_dim, hidden_size, latent_prefix_len, latent_pred_from != "text")
        self.clock = ClockEmbedding(hidden_size)
        options: dict[str, Any] = {
            "head_size": head_size,
            "ffn_size": round(ffn_ratio * hidden_size),
            "ranks": ranks or None,
            "fusion": None if causality == "causal" else fusion,
            "share": share_directions,
            "conditioning": time_conditioning,
            "dropout": dropout,
            "kernel": kernel,
            "chunk": chunk,
        }
        self.backbone: RWKV7
        if causality == "block_causal":
            self.backbone = BlockCausalRWKV(hidden_size, n_blocks, block_size=block_size, **options)
            self.block_diffusion = block_size if block_context == "clean" else None
        else:
            self.backbone = RWKV7(hidden_size, n_blocks, **options)
        self.text_head = TextHead(self.embedding, hidden_size, tie_embeddings, plain=published_ends and use_rwkv_lm_head)
        self.latent_head = LatentHead(hidden_size, latent_len, latent_dim, latent_pred_from)

    def forward(self, pair: NoisyPair) -> Prediction:
        """Padded positions change nothing; their own `hidden` is zero."""
        if isinstance(self.backbone, BlockCausalRWKV):
            return self._in_blocks(self.backbone, pair)
        latent, text = self.prefix(pair.latent), self.embedding(pair.text, pair.soft, pair.estimate) + self.text_kind
        P, N = latent.shape[1], text.shape[1]
        x = torch.cat([latent, text, latent] if self.both_ways else [latent, text], dim=1)
        order, mask = padding_last(pair.attention_mask, P, P if self.both_ways else 0)
        x, _ = self.backbone(ordered(x, order), cond=self._condition(pair, pair.t_text), mask=mask, keep_state=False)
        x = in_place(x, order)

        hidden = x[:, P : P + N]
        hidden = hidden if order is None else hidden * pair.attention_mask[..., None].to(hidden.dtype)
        prefix = (x[:, :P] + x[:, -P:]) / 2 if self.both_ways else x[:, :P]
        return Prediction(self.text_head(hidden, pair), self.latent_head(hidden, self.prefix.back(prefix), pair.attention_mask), hidden)

    def _in_blocks(self, backbone: BlockCausalRWKV, pair: NoisyPair) -> Prediction:
        """Blocks are counted in real tokens. The latent's prediction reads what the last block's question shows: that block, and the
        text before it as it was shown."""
        order, mask = padding_last(pair.attention_mask)
        text = ordered(self.embedding(pair.text, pair.soft, pair.estimate) + self.text_kind, order)
        cond = self._condition(pair, pair.t_text)
        if pair.context is None:
            memory = pair.memory or self._begin(pair, cond)
            hidden, _ = backbone(text, memory.state, cond=cond, mask=mask, keep_state=False)
            seen = hidden
        else:
            clean = self._condition(pair, torch.zeros_like(pair.t_text))
            memory = pair.memory or self._begin(pair, clean)
            n = backbone.in_front(text.shape[1])
            context = self.embedding(ordered(pair.context, order)[:, :n]) + self.text_kind
            before, borders = backbone.borders(context, memory.state, cond=clean, mask=None if mask is None else mask[:, :n])
            hidden = backbone.from_borders(text, borders, cond=cond, mask=mask)
            block = torch.arange(n, device=text.device) // backbone.block_size
            last = (pair.attention_mask.sum(dim=1, keepdim=True) - 1) // backbone.block_size
            seen = torch.cat([torch.where((block < last)[..., None], before, hidden[:, :n]), hidden[:, n:]], dim=1)
        # the mean of earlier states weighs as many tokens as it was taken over
        weights = torch.ones(seen.shape[:2], device=seen.device) if mask is None else mask.float()
        seen, weights = torch.cat([memory.mean[:, None], seen], dim=1), torch.cat([memory.count[:, None], weights], dim=1)
        latent = self.latent_head(seen, self.prefix.back(memory.prefix), weights)
        hidden = in_place(hidden, order)
        hidden = hidden if order is None else hidden * pair.attention_mask[..., None].to(hidden.dtype)
        return Prediction(self.text_head(hidden, pair), latent, hidden)

    def remember(self, pair: NoisyPair) -> BlockMemory:
        """The memory behind `pair.text`, clean, whatever `pair.t_text` says; of an empty text, the latent alone."""
        assert isinstance(self.backbone, BlockCausalRWKV), "only a text in blocks is remembered"
        cond = self._condition(pair, torch.zeros_like(pair.t_text))
        memory = pair.memory or self._begin(pair, cond)
        if not pair.text.shape[1]:
            return memory
        order, mask = padding_last(pair.attention_mask)
        text = ordered(self.embedding(pair.text) + self.text_kind, order)
        hidden, state = self.backbone(text, memory.state, cond=cond, mask=mask)
        assert state is not None
        count = memory.count + pair.attention_mask.sum(dim=1)
        total = memory.mean * memory.count[:, None] + (hidden if mask is None else hidden * mask[..., None]).sum(dim=1)
        return BlockMemory(state, memory.prefix, total / count.clamp_min(1)[:, None], count)

    def _begin(self, pair: NoisyPair, cond: Tensor) -> BlockMemory:
        """The memory before any text: the latent's tokens have been read."""
        prefix, state = self.backbone(self.prefix(pair.latent), cond=cond, walk=WHOLE_ROW)
        assert state is not None
        return BlockMemory(state, prefix, torch.zeros_like(prefix[:, 0]), prefix.new_zeros(len(prefix), dtype=torch.float32))

    def _condition(self, pair: NoisyPair, t_text: Tensor) -> Tensor:
        return self.clock(t_text, pair.t_latent) + self.prefix.summary(pair.latent)
