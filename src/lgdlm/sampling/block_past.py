"""What stands before the block that is being sampled: kept as a memory of constant size, or as the tokens themselves.

    Kept     question = (block, memory)              memory <- remember(block, memory): one clean pass a block
    Reread   question = ([text so far, block])       everything is read again at every step

Both are the same question of the same denoiser, asked in two ways; guidance asks each twice, with and without the latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.models.block_causal import BlockMemory
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng


@dataclass(frozen=True)
class Past(ABC):
    """The text before a block, for the rows of `rng`: the requests' randomness, from which dropped latents are drawn.

    A dropped latent is the same noise at every step, or its memory could not be kept.
    """

    rng: Rng

    @abstractmethod
    def before(self, pair: NoisyPair, branch: int) -> NoisyPair:
        """The question about a block with what stands before it; branch 1 has its latent dropped."""

    @abstractmethod
    def then(self, model: TextLatentDiffusion, pair: NoisyPair, guided: bool) -> Past:
        """The past of the next block: `pair` holds the finished one."""

    @abstractmethod
    def rows(self, index: Tensor) -> Past:
        """The past of some rows, int64 [b]."""


@dataclass(frozen=True)
class Kept(Past):
    """One memory a branch; none before the first block."""

    memories: tuple[BlockMemory, ...] = ()

    def before(self, pair: NoisyPair, branch: int) -> NoisyPair:
        return pair.at(memory=self.memories[branch])

    def then(self, model: TextLatentDiffusion, pair: NoisyPair, guided: bool) -> Past:
        branches = [pair, model.without_latent(pair, self.rng)] if guided else [pair]
        known = [b.at(memory=self.memories[i] if self.memories else None) for i, b in enumerate(branches)]
        return replace(self, memories=tuple(model.denoiser.remember(b) for b in known))

    def rows(self, index: Tensor) -> Past:
        return replace(self, rng=self.rng.select(index), memories=tuple(m.rows(index) for m in self.memories))


@dataclass(frozen=True)
class Reread(Past):
    """The clean text so far, int64 [B, n] in whole blocks."""

    text: Tensor

    def before(self, pair: NoisyPair, branch: int) -> NoisyPair:
        n, text = self.text.shape[1], torch.cat([self.text, pair.text], dim=1)
        at = None if pair.logits_at is None else F.pad(pair.logits_at, (n, 0))
        return pair.at(text=text, context=text, logits_at=at, attention_mask=F.pad(pair.attention_mask, (n, 0), value=True))

    def then(self, model: TextLatentDiffusion, pair: NoisyPair, guided: bool) -> Past:
        return replace(self, text=torch.cat([self.text, pair.text], dim=1))

    def rows(self, index: Tensor) -> Past:
        return replace(self, rng=self.rng.select(index), text=self.text[index])
