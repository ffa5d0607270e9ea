"""The text cycle, y -> z' -> y: a latent is read from a text, and the text is written from it.

    z' = x0 prediction of the t2l pass on clean y                         L = l2t loss of y given z'

    mean      z' itself: from pure noise it is E[z | y], of which p(y | z') knows more than any latent of the data would tell
    sampled   z' + s (z - z'), s random signs: a draw from p(z | y) wherever that is symmetric about its mean in each dimension

so through `mean` the loss may fall below H(Y | Z), by a short cut that no sampled latent offers. Both are measured, one is trained.
Neither needs a reverse process: the draw takes the deviation that the data's own latent shows.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.diffusion.times import TIME_POLICIES, Clean
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import MODES, DenoisingObjective, Mode, Weights
from lgdlm.objectives.frozen import encoder_side, frozen
from lgdlm.objectives.objective import LossReport, Totals
from lgdlm.rng import Rng

THROUGH = ("mean", "sampled")
UPDATES = ("shared", "decoder_only")


@dataclass(frozen=True)
class TextCycle:
    """How the cycle is closed.

    through         which latent the decoder is trained on
    t_mode          latent time of the reading: `full` from pure noise, so that z' says what the text says and nothing of the data's latent;
                    `random` as the t2l pass is trained, where z_t still tells of z
    stop_gradient   z' is data to the decoder; otherwise the loss reaches the reading as well
    update          `shared`: all that the decoder uses moves, the backbone that the encoder shares with it included; `decoder_only`: what
                    the encoder reads with is held still, and the decoder's own parameters move
    text_t_mode     text times of the writing, as in l2t
    length_weight   weight of the length's nats
    """

    through: str = "mean"
    t_mode: str = "full"
    stop_gradient: bool = True
    update: str = "shared"
    text_t_mode: str = "random"
    length_weight: float = 1.0

    def __post_init__(self) -> None:
        assert self.through in THROUGH
        assert self.update in UPDATES
        assert self.stop_gradient or self.update == "shared", "the gradient of z' would move the encoder"

    def read(self, model: TextLatentDiffusion, batch: Batch, z0: Tensor, rng: Rng) -> Tensor:
        """z' of every text, standardised [B, L, D], for latents z0 of the data."""
        row = DenoisingObjective(Mode(Clean(), TIME_POLICIES[self.t_mode], ("latent",)))
        pair = row.question(model, batch, z0, rng)
        return model.x0_latent(model(pair), pair)

    def write(self, model: TextLatentDiffusion, batch: Batch, latent: Tensor, rng: Rng, totals: Totals) -> LossReport:
        """The loss of the texts given `latent`, with the gradients that the policy allows."""
        mode = Mode(TIME_POLICIES[self.text_t_mode], MODES["l2t"].latent, ("text",))
        row = DenoisingObjective(mode, Weights(length=self.length_weight))
        latent = latent.detach() if self.stop_gradient else latent
        with frozen(encoder_side(model)) if self.update == "decoder_only" else nullcontext():
            return row.of_latent(model, batch, latent, rng, totals)


def sampled_latent(mean: Tensor, z0: Tensor, rng: Rng) -> Tensor:
    """mean + s (z0 - mean) with independent random signs s, [B, L, D]; the deviation is held fixed, so the gradient is that of `mean`.

    Where `mean` is E[z | y] and z is symmetric about it in each dimension, this is distributed as z given y. Over a batch its second
    moments are those of the data exactly if `mean` and the deviation are uncorrelated, as they are for a perfect encoder.
    """
    signs = torch.where(rng.uniform("residual sign", *mean.shape[1:]) < 0.5, -1.0, 1.0)
    return mean + signs.to(mean.dtype) * (z0 - mean).detach()
