"""Block diffusion's bound: with a denoiser that knows everything, the sum over blocks is the negative log likelihood.

NELBO(y) = sum over blocks j of E_t [ 1/t sum over masked i in j of -log p(y_i | y_j at t, y_0 .. y_{j-1} clean) ]
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import TextTable, gauss_legendre
from oracles_block import ExactBlocks
from oracles_sampling import Lengths, model_around

from lgdlm.batch import Batch
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.likelihood import ESTIMATORS, text_nelbo
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.objective import Totals
from lgdlm.rng import Rng

TABLE = TextTable.random(3, 4, seed=11)


def model(size: int) -> TextLatentDiffusion:
    """Lengths cost nothing: all texts are as long as the table's."""
    certain = Lengths(TABLE.length, torch.zeros(1, 1, 1), torch.tensor([TABLE.length]))
    certain.loss = lambda latent, t_latent, lengths: torch.zeros(len(latent))
    return model_around(ExactBlocks(TABLE, size), certain, scale=1.0, shift=0.0)


def bound(size: int, with_context: bool = True, nodes: int = 8) -> torch.Tensor:
    """The bound of every sequence, float64 [S]: the question and the loss of the package over all mask patterns and the clock, eps = 0."""
    joint, text = model(size), MaskedDiffusion(TABLE.vocab, LogLinear(0.0))
    patterns = TABLE.patterns()
    t, w = gauss_legendre(nodes)
    hidden = patterns.sum(dim=1)
    chance = t[:, None] ** hidden * (1 - t)[:, None] ** (TABLE.length - hidden)  # [T, P]
    rows = len(TABLE.sequences) * len(patterns)
    x0 = TABLE.sequences[:, None].expand(-1, len(patterns), -1).flatten(0, 1)
    x_t = x0.masked_fill(patterns.repeat(len(TABLE.sequences), 1), TABLE.vocab)
    clean, seen = torch.zeros(rows), torch.ones_like(x_t, dtype=torch.bool)
    pair = NoisyPair(x_t, clean + 0.5, torch.zeros(rows, 1, 1), clean, seen, x_t == TABLE.vocab)
    logits = joint(joint.over(pair, x0) if with_context else pair).text_logits
    # the oracle does not look at the clock, so one answer serves every time
    loss = torch.stack([text.loss(logits, x0, x_t, time.expand(rows)) for time in t]).unflatten(1, (-1, len(patterns)))
    return torch.einsum("tsp,tp,t->s", loss, chance, w)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_bound_of_blocks_is_the_log_likelihood_of_every_sequence(size: int) -> None:
    torch.testing.assert_close(bound(size), -TABLE.log_p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blocks_that_see_each_other_noised_pay_more(size: int) -> None:
    """So the test above tells a clean context from a noised one. In one block there is nothing to see."""
    entropy = -float((TABLE.probability * TABLE.log_p).sum())
    assert float((TABLE.probability * bound(size, with_context=False)).sum()) > entropy + 0.05
    torch.testing.assert_close(bound(TABLE.length, with_context=False), -TABLE.log_p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["l2t", "unconditional"])
def test_the_objective_reports_that_bound(mode: str) -> None:
    """What training does: times and masks of its own, the context from the batch."""
    joint, count = model(2), 8000
    which = torch.multinomial(TABLE.probability, count, replacement=True, generator=torch.Generator().manual_seed(0))
    ids = TABLE.sequences[which]
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(count, 1, 1), torch.arange(count))
    expected = -float(TABLE.log_p[which].sum()) / batch.tokens
    found = [DenoisingObjective(MODES[mode])(joint, batch, Rng(0, k, batch.rows), Totals(batch.tokens, count)).metrics for k in range(6)]
    bounds = torch.tensor([metrics["text_loss"] for metrics in found])
    spread = float(bounds.std()) / len(bounds) ** 0.5
    assert spread < 0.01 * expected, "or the next line says nothing"
    assert float(bounds.mean()) == pytest.approx(expected, abs=5 * spread + 2e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_evaluation_reports_that_bound(estimator: str) -> None:
    texts = ["".join("abc"[i] for i in row) for row in TABLE.sequences]
    documents = Documents(texts, texts, list(TABLE.sequences.numpy()), np.zeros((len(texts), 1), np.float32))
    found = text_nelbo(model(2), documents, draws=256, seed=1, estimator=estimator)
    expected = -TABLE.log_p.numpy()
    error = np.sqrt(found.variance.sum())
    assert error < 0.03 * expected.sum(), "the tolerance must be able to fail"
    assert abs((found.text - expected).sum()) < 4 * error
