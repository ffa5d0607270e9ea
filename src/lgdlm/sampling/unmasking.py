"""Masked text on its way back: masks are revealed, by chance or the surest first, and may be masked again.

ancestral    the positions are chosen before any logits: rows that reveal nothing are not asked
by order     as many masks stay as the schedule has at s; the most certain of the others are revealed
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.samplers import REVEAL, most_certain
from lgdlm.sampling.text_state import Answer, TextState


class Unmasking(TextState):
    """`text` int64 [B, N] with masks where tokens are wanted; `editable` bool [B, N]: where it may change; `start` [B]: its first clock.

    `whole`: every masked position is asked for at every step, so that a callback can be shown the whole estimate.
    """

    def __init__(
        self,
        process: MaskedDiffusion,
        text: Tensor,
        editable: Tensor,
        start: Tensor,
        draw: TokenDraw,
        order: str,
        remask: float,
        whole: bool,
    ):
        self.process, self.tokens, self.estimate, self.editable, self.start = process, text, text, editable, start
        self.draw, self.certainty, self.remask, self.whole = draw, REVEAL[order], remask, whole
        self.masks_at_start = process.masked(text, editable).sum(dim=1)
        self.hidden = self.chosen = torch.zeros_like(editable)
        self.count = torch.zeros_like(self.masks_at_start)

    @property
    def shown(self) -> Tensor:
        return self.tokens

    def plan(self, t: Tensor, s: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        process, text, editable = self.process, self.tokens, self.editable
        masked = process.masked(text, editable)
        self.hidden = process.hide(text, t, s, rng, editable, self.remask) if self.remask else torch.zeros_like(masked)
        if self.certainty is None:
            self.chosen = process.reveal(text, t, s, rng, editable, self.remask)
            wanted = self.chosen
        else:
            # as many masks stay as the schedule has at s: round(masks at the start * (1 - alpha(s)) / (1 - alpha(start)))
            share = process.schedule.reveal_share(self.start.double(), s.double())
            stay = (self.masks_at_start * (1 - share)).round().long()
            self.count = masked.sum(dim=1) + self.hidden.sum(dim=1) - stay
            wanted = masked & (self.count > 0)[:, None]
        wanted = masked if self.whole else wanted
        self.estimate = text
        return wanted, wanted.any(dim=1)

    def take(self, answer: Answer, index: Tensor, wanted: Tensor, rng: Rng) -> None:
        at = wanted[index]
        tokens = self.draw(answer.logits, rng.uniform("token draw", wanted.shape[1])[at])
        self.estimate = self.tokens.masked_scatter(wanted, tokens)
        if self.certainty is not None:
            score = torch.full(wanted.shape, -torch.inf, device=wanted.device)
            self.chosen = most_certain(score.masked_scatter(wanted, self.certainty(answer.logits, tokens)), self.count)
        self.tokens = torch.where(self.chosen, self.estimate, self.tokens)

    def settle(self) -> None:
        self.tokens = self.tokens.masked_fill(self.hidden, self.process.mask_id)

    def finished(self) -> Tensor:
        return self.tokens
