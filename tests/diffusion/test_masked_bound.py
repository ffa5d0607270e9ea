"""With a denoiser that knows everything the bound of masked diffusion is the negative log likelihood of every sequence."""

from __future__ import annotations

import pytest
import torch
from oracles import TextTable, gauss_legendre

from lgdlm.diffusion.masked import WEIGHTINGS, MaskedDiffusion
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.diffusion.times import Uniform
from lgdlm.rng import Rng

TABLES = {(vocab, length): TextTable.random(vocab, length, seed=vocab + length) for vocab, length in ((3, 3), (4, 3), (3, 4))}
SMALL = TABLES[3, 3]


def process(table: TextTable = SMALL, eps: float = 0.0, weighting: str = "elbo") -> MaskedDiffusion:
    return MaskedDiffusion(mask_id=table.vocab, schedule=LogLinear(eps), weighting=weighting)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(5, step, torch.arange(rows))


def oracle_logits(table: TextTable, x_t: torch.Tensor) -> torch.Tensor:
    """[M, V] at the masked positions in row order; shifted, because logits are only defined up to a constant per position."""
    return table.posterior(x_t)[x_t == table.vocab].log() + 3.0


def bound(table: TextTable, eps: float, nodes: int = 8) -> torch.Tensor:
    """The NELBO of every sequence, float64 [S]: `MaskedDiffusion.loss` summed over all mask patterns and integrated over the clock.

    The chance of a pattern comes from the schedule's alpha. The integrand is a polynomial of degree N - 1 in t: no quadrature error.
    """
    text, patterns = process(table, eps), table.patterns()
    t, w = gauss_legendre(nodes)
    alpha = text.schedule.alpha(t)
    hidden = patterns.sum(dim=1)
    chance = (1 - alpha)[:, None] ** hidden * alpha[:, None] ** (table.length - hidden)  # [T, P]
    sequences, shape = table.sequences, (len(table.sequences), len(t), len(patterns))
    x0 = sequences[:, None, None].expand(*shape, -1).flatten(0, 2)
    x_t = x0.masked_fill(patterns.expand(*shape, -1).flatten(0, 2), table.vocab)
    times = t[None, :, None].expand(shape).flatten()
    distinct, which = x_t.unique(dim=0, return_inverse=True)
    logits = table.posterior(distinct).log()[which][x_t == table.vocab]
    loss = text.loss(logits, x0, x_t, times)
    assert loss.dtype == torch.float64
    return torch.einsum("stp,tp,t->s", loss.view(shape), chance, w)


@pytest.mark.parametrize("size", TABLES)
def test_the_bound_is_the_log_likelihood_of_every_sequence(size):
    table = TABLES[size]
    torch.testing.assert_close(bound(table, eps=0.0), -table.log_p, rtol=0, atol=1e-9)


def test_the_oracle_agrees_by_beta_integrals():
    """The same identity without any of the package's code, so that a mistake in the test above would show."""
    for row in range(len(SMALL.sequences)):
        assert SMALL.nelbo(row) == pytest.approx(-float(SMALL.log_p[row]), abs=1e-10)


@pytest.mark.parametrize("size", TABLES)
def test_what_eps_leaves_out(size):
    """The schedule never masks a share eps. The rest of the integral, from 1 - eps to 1 in the masked share, is missing from the bound:
    eps times the cross entropy of a fully masked row to first order, and never more than eps / (1 - eps) times the worst pattern's."""
    table, eps = TABLES[size], 1e-4
    missing = -table.log_p - bound(table, eps)
    nats = torch.stack([table.masked_nats(row) for row in range(len(table.sequences))])  # [S, P], the last pattern is all masks
    assert (missing > 0).all()
    assert (missing < eps / (1 - eps) * nats.max(dim=1).values).all()
    torch.testing.assert_close(missing, eps * nats[:, -1], rtol=1e-3, atol=1e-9)


def test_a_wrong_denoiser_costs_more():
    """Averaged over the data the bound exceeds the entropy unless the denoiser is right; a network that ignores its context is not."""
    table = SMALL
    entropy = -float((table.probability * table.log_p).sum())
    marginals = table.posterior(torch.full((1, table.length), table.vocab))[0]
    independent = -sum(float((marginals[i] * marginals[i].log()).sum()) for i in range(table.length))
    assert float((table.probability * bound(table, 0.0)).sum()) == pytest.approx(entropy, abs=1e-9)
    assert independent > entropy + 0.05


@pytest.mark.parametrize("row", [0, 13, 26])
def test_monte_carlo_agrees(row):
    """What training does: times from the policy, masks from `noise`, one `loss` a row."""
    table, text, rows = SMALL, process(eps=1e-4), 40_000
    x0 = table.sequences[row].expand(rows, -1)
    t = Uniform()(rng(rows), "text")
    x_t = text.noise(x0, t, rng(rows))
    loss = text.loss(oracle_logits(table, x_t).float(), x0, x_t, t)
    assert loss.dtype == torch.float32
    expected = -float(table.log_p[row])
    spread = float(loss.double().std()) / rows**0.5
    assert spread < 0.05 * expected, "or the next line says nothing"
    assert float(loss.double().mean()) == pytest.approx(expected, abs=4 * spread)


def test_monte_carlo_with_the_wrong_weight_does_not_agree():
    """Trap: the plain masked cross entropy is not a bound."""
    table, rows = SMALL, 40_000
    x0 = table.sequences[13].expand(rows, -1)
    t = Uniform()(rng(rows), "text")
    loss = {}
    for weighting in WEIGHTINGS:
        text = process(weighting=weighting)
        x_t = text.noise(x0, t, rng(rows))
        loss[weighting] = float(text.loss(oracle_logits(table, x_t), x0, x_t, t).mean())
    assert loss["uniform"] < 0.8 * loss["elbo"]


def test_uniform_weighting_is_the_plain_sum():
    table, text = SMALL, process(weighting="uniform")
    x0 = table.sequences[5].expand(7, -1)
    x_t = x0.masked_fill(table.patterns(), table.vocab)
    loss = text.loss(oracle_logits(table, x_t), x0, x_t, torch.linspace(0.1, 1, 7, dtype=torch.float64))
    torch.testing.assert_close(loss, table.masked_nats(5), rtol=1e-12, atol=0)
