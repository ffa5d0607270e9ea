"""Noising and scoring of tokens: shares of masks, both ends of the clock, padding, precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgdlm.diffusion.masked import WEIGHTINGS, MaskedDiffusion
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.rng import Rng


def process(eps: float = 0.0, weighting: str = "elbo") -> MaskedDiffusion:
    return MaskedDiffusion(mask_id=3, schedule=LogLinear(eps), weighting=weighting)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(5, step, torch.arange(rows))


def clock(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def test_unknown_weighting_is_refused_with_the_list():
    with pytest.raises(ValueError, match="elbo, uniform"):
        MaskedDiffusion(mask_id=3, weighting="min-snr")


def test_the_share_of_masks_is_one_minus_alpha():
    rows, text = 20_000, process(eps=1e-2)
    for t in (0.01, 0.3, 0.9):
        x_t = text.noise(torch.zeros(rows, 4, dtype=torch.long), torch.full((rows,), t), rng(rows))
        share = (x_t == 3).double()
        expected = 1 - float(text.schedule.alpha(clock(t, dtype=torch.float64)))
        assert float(share.mean()) == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / rows / 4))
        both = (share[:, 0] * share[:, 1]).mean()
        assert float(both) == pytest.approx(expected**2, abs=5 * expected / math.sqrt(rows)), "positions are masked independently"


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_clock(eps, dtype):
    text = process(eps=eps)
    x0 = torch.zeros(500, 40, dtype=torch.long)
    assert torch.equal(text.noise(x0, torch.zeros(500, dtype=dtype), rng(500)), x0)
    assert torch.equal(text.noise(x0, torch.ones(500, dtype=dtype), rng(500)), text.prior((500, 40), rng(500)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_loss_is_finite_at_both_ends_and_costs_nothing_when_clean(dtype, weighting):
    """Row 0 is clean at t = 0, where the weight is infinite; row 1 happened to keep all its tokens; row 2 is at the prior."""
    text = process(eps=1e-4, weighting=weighting)
    x0 = torch.tensor([[0, 1, 2]] * 3)
    x_t = torch.tensor([[0, 1, 2], [0, 1, 2], [3, 3, 3]])
    logits = torch.randn(3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    loss = text.loss(logits, x0, x_t, clock(0.0, 1e-12, 1.0, dtype=dtype))
    assert loss.isfinite().all()
    assert loss[:2].tolist() == [0.0, 0.0]
    assert float(loss.detach()[2]) > 0
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    nothing = text.loss(torch.empty(0, 3, dtype=dtype), x0[:2], x_t[:2], clock(0.0, 0.5, dtype=dtype))
    assert nothing.tolist() == [0.0, 0.0]


def test_float32_loss_keeps_the_weight_at_small_times():
    text = process(eps=1e-4)
    x0, x_t = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 1, 2]])
    for t in (1e-3, 1e-6, 1e-9):
        loss = text.loss(torch.zeros(1, 3), x0, x_t, clock(t))
        assert float(loss) * t == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_logits_are_scored_in_float32(dtype):
    text = process()
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    x0, x_t = torch.tensor([[0, 1, 2]]), torch.full((1, 3), 3)
    loss = text.loss(logits, x0, x_t, clock(0.37))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, text.loss(logits.float(), x0, x_t, clock(0.37)))


def test_the_gradient_is_that_of_the_plain_definition():
    """The gradient of a row's nats is weight (softmax - one hot), in float32 as in float64, and nothing for a row without masks."""
    text = process()
    x0, x_t = torch.tensor([[0, 1, 2], [2, 0, 1]]), torch.tensor([[3, 1, 3], [2, 0, 1]])
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = (logits.softmax(dim=1) - torch.nn.functional.one_hot(torch.tensor([0, 2]), 3)) / 0.25
    for dtype in (torch.float32, torch.float64):
        given_logits = logits.to(dtype).requires_grad_(True)
        text.loss(given_logits, x0, x_t, clock(0.25, 0.5)).sum().backward()
        assert torch.equal(given_logits.detach(), logits.to(dtype)), "logits are read, never written"
        assert given_logits.grad is not None
        torch.testing.assert_close(given_logits.grad.double(), expected, rtol=1e-5, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), t=st.floats(0.0, 1.0), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_padding_is_never_noised_scored_or_revealed(lengths, t, seed):
    """Trap: PAD counted as text. A padded batch gives each row what it gets alone, whatever stands in the padding, even the mask's id."""
    text, table_vocab, longest = MaskedDiffusion(mask_id=7), 7, max(lengths)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    x0 = torch.randint(0, 7, (len(lengths), longest), generator=generator)
    junk = torch.randint(0, 8, x0.shape, generator=generator)
    padded = torch.where(mask, x0, junk)
    logits = torch.randn(len(lengths), longest, table_vocab, generator=generator)
    source, times = Rng(seed, 0, torch.arange(len(lengths))), torch.full((len(lengths),), t)
    x_t = text.noise(padded, times, source, mask)
    assert torch.equal(x_t[~mask], junk[~mask])
    loss = text.loss(logits[text.masked(x_t, mask)], padded, x_t, times, mask)
    revealed = text.reveal(x_t, times, times / 2, source, mask)
    assert not revealed[~mask].any()
    for k, n in enumerate(lengths):
        one, alone = times[k : k + 1], source.select(torch.tensor([k]))
        y = text.noise(x0[k : k + 1, :n], one, alone)
        assert torch.equal(x_t[k, :n], y[0])
        assert torch.equal(revealed[k, :n], text.reveal(y, one, one / 2, alone)[0])
        torch.testing.assert_close(loss[k : k + 1], text.loss(logits[k : k + 1, :n][text.masked(y)], x0[k : k + 1, :n], y, one))


def test_visible_tokens_cost_nothing():
    """Trap: labels off by one. Only the logits at masked positions, in row order, meet the tokens at those positions."""
    text = MaskedDiffusion(mask_id=5)
    x0 = torch.tensor([[0, 1, 2], [3, 4, 0]])
    x_t = torch.tensor([[0, 5, 2], [5, 4, 5]])
    sure = torch.nn.functional.one_hot(x0[x_t == 5], 5).float() * 40
    assert float(text.loss(sure, x0, x_t, clock(0.5, 0.5)).max()) < 1e-6
    assert float(text.loss(sure.roll(1, dims=0), x0, x_t, clock(0.5, 0.5)).min()) > 10
    assert float(text.loss(sure, x0.roll(1, dims=1), x_t, clock(0.5, 0.5)).min()) > 10
