"""Embedded text on its way back: rows move from noise to an estimate of the clean ones, and are rounded to tokens at the end.

x_s = Gaussian step(x_t, x0_hat, t -> s)          known rows: alpha(s) e(y) + sigma(s) n, the noise of their clock

logits        y ~ softmax(x0_hat . e + b) of the last answer, with temperature, top-k and top-p
nearest       y = the token nearest to the last x0_hat
every_step    nearest, and at every step x0_hat is replaced by the row of its nearest token (Li et al. 2022)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.samplers import SAMPLERS
from lgdlm.sampling.text_state import Answer, TextState

ROUNDINGS = ("logits", "nearest", "every_step")
TEXT = 1  # counter of the text's own randomness in a step: a latent that moves with it draws from the same words


class Rounding(TextState):
    """`text`: a canvas int64 [B, N] with masks where tokens are wanted, or rows float [B, N, E] noised to the clock `start` [B].

    `editable` bool [B, N]: where tokens may change. In a canvas the tokens beside its masks are given; of rows all are drawn. `rng` is
    that of the whole process. `whole`: the text is read off at every step, for a callback.
    """

    def __init__(
        self,
        process: EmbeddingDiffusion,
        text: Tensor,
        editable: Tensor,
        start: Tensor,
        rng: Rng,
        draw: TokenDraw,
        rounding: str,
        sampler: str,
        whole: bool,
    ):
        self.process, self.draw, self.rounding, self.whole, self.rng = process, draw, rounding, whole, rng
        self.mover = SAMPLERS[sampler](process.gaussian)
        self.moving = editable & (start > 0)[:, None]
        if text.is_floating_point():
            self.x, self.given = text, process.nearest(text)[0]
        else:
            self.moving = self.moving & (text == process.mask_id)
            self.x, self.given = process.at_clock(text, self.moving, start, rng), text
        self.x = self.x.detach()
        self.known = ~self.moving & (start > 0)[:, None]
        self.x0 = torch.zeros_like(self.x)
        self.answered = False
        self.open = self.moving
        self.tokens = self.estimate = self._read()

    @property
    def shown(self) -> Tensor:
        return self.x

    @property
    def given_estimate(self) -> Tensor | None:
        return self.x0 if self.answered and self.process.self_conditioning > 0 else None

    def plan(self, t: Tensor, s: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Logits are computed where they will be drawn from: behind the last step, or for a callback."""
        self.t, self.s, self.now = t, s, rng
        goes = (s < t) & self.moving.any(dim=1)
        drawn = goes & ((s <= 0) | self.whole) if self.rounding == "logits" else torch.zeros_like(goes)
        self.estimate = self.tokens
        return self.moving & drawn[:, None], goes

    def take(self, answer: Answer, index: Tensor, wanted: Tensor, rng: Rng) -> None:
        assert answer.embedding is not None, "an embedded text moves by its estimate"
        self.x0 = self.x0.index_copy(0, index, answer.embedding.to(self.x0.dtype))
        self.answered = True
        goes = ((self.s < self.t)[:, None] & self.moving)[..., None]
        x0 = self.x0
        if self.rounding == "every_step":
            x0 = self.process.embed(self.process.nearest(x0)[0])
        moved = self.mover.step(self.x, x0, self.t, self.s, self.now.fold(TEXT))
        self.x = torch.where(goes, moved.to(self.x.dtype), self.x)
        if self.rounding == "logits":
            if bool(wanted.any()):
                tokens = self.draw(answer.logits, rng.uniform("token draw", wanted.shape[1])[wanted[index]])
                self.estimate = self.given.masked_scatter(wanted, tokens)
        elif self.whole or bool((self.s <= 0).any()):
            self.estimate = torch.where(goes[..., 0], self.process.nearest(x0)[0], self.given)
        arrived = goes[..., 0] & (self.s <= 0)[:, None]
        self.given, self.open = torch.where(arrived, self.estimate, self.given), self.open & ~arrived

    def settle(self) -> None:
        """Given tokens take the noise of the clock they are at now."""
        if bool(self.known.any()):
            noised = self.process.noise(self.given, self.s, self.now.fold(TEXT))
            self.x = torch.where(self.known[..., None], noised, self.x)
        self.tokens = self._read()

    def _read(self) -> Tensor:
        """What a callback is shown: given and drawn tokens, and of rows on their way the nearest token."""
        return torch.where(self.open, self.process.nearest(self.x)[0], self.given) if self.whole else self.given

    def finished(self) -> Tensor:
        return self.given
