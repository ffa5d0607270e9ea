"""Schedules against the papers' formulas, their own derivatives, and their two ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import cosine_abar, linear_abar, sigmoid_abar

from lgdlm.diffusion.schedule import LATENT_SCHEDULES, LogLinear

LATENT = list(LATENT_SCHEDULES)
INNER = torch.linspace(0.001, 0.999, 499, dtype=torch.float64)
DTYPES = (torch.float32, torch.float64)
times = st.floats(1e-6, 1.0)


def column(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def derivative(f, t: torch.Tensor) -> torch.Tensor:
    t = t.clone().requires_grad_(True)
    return torch.autograd.grad(f(t).sum(), t)[0]


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("eps", [0.0, 1e-4, 1e-2])
def test_token_schedule_runs_from_data_to_masks(eps):
    schedule = LogLinear(eps)
    assert schedule.alpha(column(0.0, 0.5, 1.0)).tolist() == pytest.approx([1.0, 0.5 + eps / 2, eps], abs=1e-15)
    assert (schedule.alpha(INNER).diff() < 0).all()


@pytest.mark.parametrize("eps", [0.0, 1e-4, 1e-2])
def test_token_weight_is_the_hazard_of_alpha(eps):
    schedule = LogLinear(eps)
    hazard = -derivative(schedule.alpha, INNER) / (1 - schedule.alpha(INNER))
    torch.testing.assert_close(schedule.weight(INNER), hazard, rtol=1e-12, atol=0)


@pytest.mark.parametrize("eps", [0.0, 1e-4, 1e-2])
def test_reveal_share_is_bayes_rule(eps):
    """q(clean at s | masked at t) from the forward marginals, which `alpha` alone decides."""
    schedule = LogLinear(eps)
    t, s = INNER[1:], INNER[:-1]
    bayes = (schedule.alpha(s) - schedule.alpha(t)) / (1 - schedule.alpha(t))
    torch.testing.assert_close(schedule.reveal_share(t, s), bayes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-4, 1e-2])
def test_loss_weight_and_reverse_step_read_the_same_schedule(eps):
    """In continuous time the rate of revealing is the weight of the loss: reveal_share(t, t - dt) / dt tends to weight(t)."""
    schedule = LogLinear(eps)
    errors = []
    for dt in (1e-4, 1e-5, 1e-6):
        rate = schedule.reveal_share(INNER, INNER - dt) / dt
        errors.append(float((rate / schedule.weight(INNER) - 1).abs().max()))
    assert errors[0] < 1e-6 + 1e-4
    assert max(errors) < 1e-6


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@given(a=times, b=times, c=times)
@settings(max_examples=100, deadline=None)
def test_two_reveal_steps_make_one(eps, a, b, c):
    """(1 - share(t, s)) (1 - share(s, r)) = 1 - share(t, r): staying masked does not depend on how the way is cut."""
    r, s, t = sorted((a, b, c))
    share = LogLinear(eps).reveal_share
    stay = float((1 - share(column(t), column(s))) * (1 - share(column(s), column(r))))
    assert stay == pytest.approx(float(1 - share(column(t), column(r))), abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_the_last_reveal_leaves_nothing(eps, dtype):
    share = LogLinear(eps).reveal_share
    for t in (1.0, 0.3, 1e-7, 0.0):
        assert float(share(column(t, dtype=dtype), column(0.0, dtype=dtype))) == 1.0


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_float32_weight_keeps_its_digits_at_small_times(eps):
    """1 - alpha(t) computed in float32 has lost every digit at t = 1e-8, and a weight made from it is infinite."""
    t = torch.logspace(-12, 0, 60, dtype=torch.float64).float()
    exact = 1 / t.double()
    torch.testing.assert_close(LogLinear(eps).weight(t).double(), exact, rtol=1e-6, atol=0)
    s = t * 0.75
    torch.testing.assert_close(LogLinear(eps).reveal_share(t, s).double(), torch.full_like(exact, 0.25), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- latents


def test_cosine_and_sigmoid_are_the_published_formulas():
    for name, abar in (("cosine", cosine_abar), ("sigmoid", sigmoid_abar)):
        schedule = LATENT_SCHEDULES[name]()
        ours = schedule.alpha(INNER).square()
        torch.testing.assert_close(ours, column(*(abar(float(t)) for t in INNER)), rtol=1e-9, atol=1e-14)


def test_linear_is_the_limit_of_the_thousand_step_product():
    """prod(1 - beta_i) against exp(-sum): apart by sum(beta^2) / 2 and by the ends of the sum, under 10 % where abar is 4e-5."""
    table = LATENT_SCHEDULES["linear"]().table(1000)
    for index in (10, 100, 500, 1000):
        assert math.log(float(table[index - 1])) == pytest.approx(math.log(linear_abar(1000, index)), rel=0.011, abs=1e-3), index


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_latent_schedules_run_from_data_to_prior(name, dtype):
    schedule = LATENT_SCHEDULES[name]()
    t = torch.linspace(0, 1, 1001, dtype=dtype)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha.dtype == sigma.dtype == dtype
    assert alpha.isfinite().all()
    assert sigma.isfinite().all()
    assert (float(alpha[0]), float(sigma[0])) == (1.0, 0.0)
    assert float(alpha[-1]) < 0.01
    assert float(sigma[-1]) > 0.9999
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() >= 0).all()
    assert (sigma[:900].diff() > 0).all()
    tolerance = 1e-14 if dtype == torch.float64 else 2e-7
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", LATENT)
def test_float32_times_are_computed_in_float64(name):
    """Near t = 0 a float32 sqrt(1 - alpha^2) would be zero or wrong in its first digit."""
    schedule = LATENT_SCHEDULES[name]()
    t = torch.logspace(-6, 0, 100).clamp_max(1.0)
    for part in (schedule.alpha, schedule.sigma):
        torch.testing.assert_close(part(t), part(t.double()).float(), rtol=0, atol=0)
    assert (schedule.sigma(t) > 0).all()


@pytest.mark.parametrize("name", LATENT)
def test_rate_is_the_derivative_of_log_alpha(name):
    schedule = LATENT_SCHEDULES[name]()
    torch.testing.assert_close(schedule.rate(INNER), -derivative(schedule.log_alpha, INNER), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LATENT)
def test_log_snr_and_its_inverse(name):
    schedule = LATENT_SCHEDULES[name]()
    expected = 2 * (schedule.alpha(INNER).log() - schedule.sigma(INNER).log())
    torch.testing.assert_close(schedule.log_snr(INNER), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(INNER)), INNER, rtol=0, atol=1e-10)
    assert not schedule.log_snr(column(0.0, 1.0)).isnan().any()


@pytest.mark.parametrize("name", LATENT)
def test_vlb_weight_is_half_the_fall_of_the_snr(name):
    schedule = LATENT_SCHEDULES[name]()
    fall = -derivative(lambda t: schedule.log_snr(t).exp(), INNER) / 2
    torch.testing.assert_close(schedule.vlb_weight(INNER), fall, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LATENT)
def test_table_is_the_schedule_at_the_ends_of_its_steps(name):
    schedule = LATENT_SCHEDULES[name]()
    for steps in (1, 10, 1000):
        table = schedule.table(steps)
        assert table.shape == (steps,)
        assert table.dtype == torch.float64
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        torch.testing.assert_close(table, schedule.alpha(t) ** 2, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(schedule.table(1000)[99::100], schedule.table(10), rtol=1e-12, atol=1e-300)
