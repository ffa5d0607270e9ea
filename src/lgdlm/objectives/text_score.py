"""What a text prediction costs at each asked position, and what is reported of it.

    masked      (w(t) + c) -log p(y | y_t)                                reported: nats of the bound, of a masked token, accuracy
    embedding   m w(t) |x0_hat - e(y)|^2 / E + c -log p(y | x0_hat)       reported: both terms, and the share of tokens read off rightly

`c` is the auxiliary cross entropy's weight. The bound of masked diffusion has no counterpart in a weighted squared error, so
embedding diffusion reports none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.diffusion.cross_entropy import token_nats
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.objectives.objective import Ratio


@dataclass(frozen=True)
class TextScore:
    """`loss` float [M], differentiable, of each asked position; `bound`: nats of the texts without their lengths, None where there is no
    bound; `parts`: metrics over the positions that count as text."""

    loss: Tensor
    bound: Tensor | None
    parts: dict[str, Ratio]


def text_score(
    process: MaskedDiffusion | EmbeddingDiffusion,
    batch: Batch,
    pair: NoisyPair,
    answer: Prediction,
    cross_entropy: float = 0.0,
    squared_error: float = 1.0,
) -> TextScore:
    """The score of an answer at `pair.logits_at`. `cross_entropy`: the auxiliary weight; `squared_error`: embedding diffusion's own."""
    asked = pair.logits_at
    assert asked is not None
    nats, right = token_nats(answer.text_logits, batch.input_ids[asked])
    row, text = asked.nonzero()[:, 0], batch.text_mask[asked]
    count = float(text.sum())
    parts = {
        "text_cross_entropy": Ratio(float(nats.detach()[text].sum()), count),
        "text_accuracy": Ratio(float((right & text).sum()), count),
    }
    if isinstance(process, MaskedDiffusion):
        weight = process.weight(pair.t_text)[row]
        loss = nats * (weight + cross_entropy if cross_entropy else weight)
        bound = (nats.detach() * process.schedule.weight(pair.t_text)[row])[text].sum()
        return TextScore(loss, bound, {"text_loss": Ratio(float(bound), batch.tokens), **parts})
    assert answer.embedding is not None, "embedding diffusion is scored by its estimates"
    squared = process.squared_error(answer.embedding[asked], batch.input_ids[asked])
    loss = squared_error * squared * process.weight(pair.t_text)[row] + cross_entropy * nats
    with torch.no_grad():
        whole, errors = float(loss[text].sum()), Ratio(float(squared[text].sum()), count)
    return TextScore(loss, None, {"text_loss": Ratio(whole, batch.tokens), "text_squared_error": errors, **parts})
