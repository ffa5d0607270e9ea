"""A denoiser that knows a distribution and answers block by block: what a perfect block diffusion would say.

In block j the law of a masked token is p(y_i | the clean blocks before j, what block j shows), later blocks summed out. Written from
that definition; a question without a context is read as it stands, noised blocks and all.
"""

from __future__ import annotations

import torch
from oracles import TextTable
from oracles_sampling import Watched
from torch import Tensor

from lgdlm.models.denoiser import NoisyPair


class ExactBlocks(Watched):
    """The posterior of `table` in blocks of `size` tokens; the latent says nothing."""

    def __init__(self, table: TextTable, size: int):
        super().__init__(table.vocab, 1, 1)
        self.table, self.block_diffusion = table, size

    def shown(self, pair: NoisyPair, start: int) -> Tensor:
        """[B, N of the table] as the block that begins at `start` sees the text: the mask where it knows nothing."""
        before = pair.text if pair.context is None else pair.context
        seen = torch.full((pair.size, self.table.length), self.vocab_size)
        seen[:, :start] = before[:, :start]
        block = slice(start, min(start + self.block_diffusion, pair.text.shape[1]))
        seen[:, block] = pair.text[:, block]
        return seen

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        width = pair.text.shape[1]
        law = torch.zeros(pair.size, width, self.vocab_size, dtype=torch.float64)
        for start in range(0, width, self.block_diffusion):
            distinct, which = self.shown(pair, start).unique(dim=0, return_inverse=True)
            block = slice(start, min(start + self.block_diffusion, width))
            law[:, block] = self.table.posterior(distinct)[which][:, block]
        return law.log(), torch.zeros(pair.size, 1, 1)
