"""The one contract of every denoiser: `NoisyPair -> Prediction`.

A denoiser is told a noised text and a noised latent, each with its own time, and answers what both were before the
noise. It knows nothing of losses, samplers or schedules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lgdlm.models.block_causal import BlockMemory
    from lgdlm.models.embedding import TextHead, TokenEmbedding


@dataclass(frozen=True)
class NoisyPair:
    """A denoiser's question.

    text            int64 [B, N]     tokens; `V` (one beyond the vocabulary) is the mask. In embedding diffusion a noised text is
                                     float [B, N, E], rows with noise
    t_text          float32 [B]      the text's clock: 0 clean, 1 all masks
    latent          float [B, L, D]  the standardised latent after noising
    t_latent        float32 [B]      the latent's clock: 0 clean, 1 pure noise
    attention_mask  bool [B, N]      True at real positions
    logits_at       bool [B, N]      where logits are wanted (the vocabulary head dominates small models); None: everywhere
    context         int64 [B, N]     block diffusion: the clean text, of which each block is shown what lies before it; None: a block
                                     sees the others as they are in `text`
    estimate        float [B, N, E]  embedding diffusion: the clean rows as estimated before (self-conditioning); None: not yet
    soft            float [B, N, V]  what straight-through tokens were drawn from, for its gradient alone: it changes no value; None:
                                     tokens are data
    memory                           what a block-causal denoiser keeps of text before `text` (`remember`); None: there is none
    """

    text: Tensor
    t_text: Tensor
    latent: Tensor
    t_latent: Tensor
    attention_mask: Tensor
    logits_at: Tensor | None = None
    context: Tensor | None = None
    soft: Tensor | None = None
    estimate: Tensor | None = None
    memory: BlockMemory | None = None

    def __post_init__(self) -> None:
        assert self.t_text.dtype == self.t_latent.dtype == torch.float32, "a clock is float32 whatever the model's dtype"
        assert self.attention_mask.dtype == torch.bool

    @property
    def size(self) -> int:
        return self.text.shape[0]

    def at(self, **changes: Any) -> NoisyPair:
        """The same question with some parts exchanged."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Prediction:
    """A denoiser's answer.

    text_logits  float [B, N, V], or [M, V] for the M asked positions in row-major order when `logits_at` was given
    latent       float [B, L, D] in the latent process's parameterisation (epsilon, x0 or v)
    hidden       float [B, N, H] last text states
    embedding    float [B, N, E] embedding diffusion: the estimate of the clean rows, which `TextLatentDiffusion` reads from `hidden`
                 where a denoiser does not say it; None in masked diffusion
    """

    text_logits: Tensor
    latent: Tensor
    hidden: Tensor
    embedding: Tensor | None = None


class Denoiser(nn.Module, ABC):
    """A network with the sizes its callers need to know.

    `vocab_size` V counts the tokenizer's ids without the mask, which is id V; `latent_len` L and `latent_dim` D are the
    latent's shape; `hidden_size` H is the width of `Prediction.hidden`; `embedding` holds the token table and the mask's row,
    `text_head` the logits' bias; `max_length` is the widest row of text it can read (None: any).

    `block_diffusion` is K where texts are denoised block after block of K tokens, each with the clean text before it: its
    text questions carry a `context` or a `memory`. None: a text is denoised as a whole.
    """

    embedding: TokenEmbedding
    text_head: TextHead
    vocab_size: int
    latent_len: int
    latent_dim: int
    hidden_size: int
    max_length: int | None = None
    block_diffusion: int | None = None

    @abstractmethod
    def forward(self, pair: NoisyPair) -> Prediction: ...

    def remember(self, pair: NoisyPair) -> BlockMemory:
        """`pair.memory` after the clean text `pair.text`, which ends with a block; denoisers with `block_diffusion` have it."""
        raise NotImplementedError(f"{type(self).__name__} reads texts as a whole")
