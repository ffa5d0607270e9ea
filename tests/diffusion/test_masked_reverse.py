"""The way back: exact reverse chains reproduce the data, and what is visible stays."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import TextTable

from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.rng import Rng

SMALL = TextTable.random(3, 3, seed=6)


def process(eps: float = 0.0, weighting: str = "elbo") -> MaskedDiffusion:
    return MaskedDiffusion(mask_id=SMALL.vocab, schedule=LogLinear(eps), weighting=weighting)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(5, step, torch.arange(rows))


def clock(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def path(steps: int) -> list[tuple[float, float]]:
    return [((k + 1) / steps, k / steps) for k in range(steps)][::-1]


def test_the_reverse_chain_tends_to_the_data():
    """Tokens that appear in one step are drawn independently: the chain's distribution is off by O(1 / steps), and by nothing else."""
    schedule, table = process().schedule, SMALL
    distances = []
    for steps in (8, 16, 32, 64):
        shares = [float(schedule.reveal_share(clock(t, dtype=torch.float64), clock(s, dtype=torch.float64))) for t, s in path(steps)]
        distances.append(float((table.chain(shares) - table.probability).abs().sum()) / 2)
    for coarse, fine in zip(distances, distances[1:], strict=False):
        assert 1.8 < coarse / fine < 2.2
    assert distances[-1] < 0.02


@pytest.mark.parametrize("steps", [1, 5, 60])
def test_reveal_with_draws_from_the_joint_posterior_reproduces_the_data(steps):
    """With the joint posterior of the masked tokens any number of steps is exact: only the places come from `reveal`."""
    table, text, rows = SMALL, process(), 20_000
    x_t, draws = text.prior((rows, table.length), rng(rows)), torch.Generator().manual_seed(0)
    for k, (t, s) in enumerate(path(steps)):
        whole = table.sequences[torch.multinomial(table.given(x_t), 1, generator=draws)[:, 0]]
        x_t = text.step(x_t, whole, torch.full((rows,), t), torch.full((rows,), s), rng(rows).fold(k))
    assert (x_t < table.vocab).all(), "trap: no mask is left at the end"
    counts = torch.bincount(table.index(x_t), minlength=len(table.sequences)).double()
    expected = table.probability * rows
    kept = expected > 5
    chi2 = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert chi2 < float(kept.sum()) + 5 * math.sqrt(2 * float(kept.sum()))


def test_ancestral_steps_with_the_oracles_own_draws_reproduce_the_data():
    """The sampler as it runs, factorised draws at each of 60 steps, against the exact distribution of that very chain."""
    table, text, rows, steps = SMALL, process(), 20_000, 60
    x_t, draws = text.prior((rows, table.length), rng(rows)), torch.Generator().manual_seed(1)
    shares = []
    for k, (t, s) in enumerate(path(steps)):
        tokens = torch.multinomial(table.posterior(x_t).flatten(0, 1), 1, generator=draws).view(rows, -1)
        x_t = text.step(x_t, tokens, torch.full((rows,), t), torch.full((rows,), s), rng(rows).fold(k))
        shares.append(float(text.schedule.reveal_share(clock(t, dtype=torch.float64), clock(s, dtype=torch.float64))))
    counts = torch.bincount(table.index(x_t), minlength=len(table.sequences)).double()
    expected = table.chain(shares) * rows
    kept = expected > 5
    chi2 = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert chi2 < float(kept.sum()) + 5 * math.sqrt(2 * float(kept.sum()))


def test_the_reverse_marginal_of_masks_is_the_forward_one():
    """Trap: everything revealed in one step. Walking back to s leaves as many masks as noising to s makes."""
    rows, text = 4000, process()
    x_t = text.prior((rows, 10), rng(rows))
    for k, (t, s) in enumerate(path(10)[:-1]):
        x_t = text.step(x_t, torch.zeros_like(x_t), torch.full((rows,), t), torch.full((rows,), s), rng(rows).fold(k))
        assert float((x_t == 3).double().mean()) == pytest.approx(s, abs=5 * math.sqrt(s * (1 - s) / rows / 10))


@given(t=st.floats(0.01, 1.0), share=st.floats(0.0, 1.0), seed=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_step_carries_visible_tokens_over_and_invents_none(t, share, seed):
    text = MaskedDiffusion(mask_id=9)
    source = Rng(seed, 0, torch.arange(5))
    x0 = torch.randint(0, 9, (5, 8), generator=torch.Generator().manual_seed(seed))
    times = torch.full((5,), t)
    x_t = text.noise(x0, times, source)
    drawn = (x0 + 1) % 9
    x_s = text.step(x_t, drawn, times, times * share, source.fold(0))
    seen = x_t != 9
    assert torch.equal(x_s[seen], x_t[seen])
    assert torch.equal(x_s[~seen & (x_s != 9)], drawn[~seen & (x_s != 9)])
    if share == 0:
        assert torch.equal(x_s, torch.where(seen, x_t, drawn))
    if share == 1:
        assert torch.equal(x_s, x_t)


@pytest.mark.parametrize("remask", [0.0, 0.3, 1.0])
def test_remasking_keeps_the_marginal(remask):
    """Wang et al. 2025: tokens hidden again are made up for by others revealed, so x_s has the share of masks of q(x_s)."""
    rows, text = 6000, process(eps=1e-4)
    x0 = torch.zeros(rows, 10, dtype=torch.long)
    for t, s in ((0.9, 0.8), (0.5, 0.2), (0.3, 0.0)):
        late, early = torch.full((rows,), t), torch.full((rows,), s)
        x_t = text.noise(x0, late, rng(rows))
        revealed = text.reveal(x_t, late, early, rng(rows), remask=remask)
        hidden = text.hide(x_t, late, early, rng(rows), None, remask)
        assert not (revealed & hidden).any()
        assert bool(hidden.any()) == (remask > 0 and s > 0)
        share = float((((x_t == 3) & ~revealed) | hidden).double().mean())
        assert share == pytest.approx(s, abs=5 * math.sqrt(max(s * (1 - s), 1e-12) / rows / 10) + 1e-4)
