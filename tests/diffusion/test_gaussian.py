"""Gaussian diffusion: one identity seen in three parameterisations, and the two ends of the clock."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import normal_draws

from lgdlm.diffusion.gaussian import LEAST_SIGNAL, PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.rng import Rng

SCHEDULES = list(LATENT_SCHEDULES)


def process(schedule: str = "cosine", predicts: str = "v_param") -> GaussianDiffusion:
    return GaussianDiffusion(LATENT_SCHEDULES[schedule](), predicts)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(3, step, torch.arange(rows))


def all_times(latent: GaussianDiffusion, count: int = 200) -> torch.Tensor:
    """From 1e-4 to where this parameterisation ends, both included."""
    return torch.linspace(1e-4, latent.latest_time, count, dtype=torch.float64)


# ---------------------------------------------------------------- one identity, three parameterisations


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_conversions_round_trip_at_all_times(schedule, predicts):
    latent = process(schedule, predicts)
    t = all_times(latent)
    z0, e = normal_draws(len(t), 1, 8), normal_draws(len(t), 1, 8, seed=1)
    z_t = latent.mix(z0, e, t)
    prediction = latent.target(z0, z_t, t)
    torch.testing.assert_close(latent.to_x0(prediction, z_t, t), z0, rtol=0, atol=1e-10)
    torch.testing.assert_close(latent.to_epsilon(prediction, z_t, t), e, rtol=0, atol=1e-9)
    torch.testing.assert_close(latent.from_x0(z0, z_t, t), prediction, rtol=0, atol=0)
    torch.testing.assert_close(latent.from_x0(latent.to_x0(prediction, z_t, t), z_t, t), prediction, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_targets_are_the_papers(schedule):
    """Salimans and Ho 2022: v = alpha e - sigma z_0."""
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    z0, e = normal_draws(50, 1, 4), normal_draws(50, 1, 4, seed=1)
    alpha, sigma = (part(t)[:, None, None] for part in (process(schedule).schedule.alpha, process(schedule).schedule.sigma))
    expected = {"v_param": alpha * e - sigma * z0, "epsilon": e, "x0": z0}
    for predicts, target in expected.items():
        latent = process(schedule, predicts)
        z_t = latent.mix(z0, e, t)
        torch.testing.assert_close(z_t, alpha * z0 + sigma * e, rtol=1e-14, atol=0)
        torch.testing.assert_close(latent.target(z0, z_t, t), target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("said", PARAMETERIZATIONS)
@pytest.mark.parametrize("read", PARAMETERIZATIONS)
def test_reading_one_parameterisation_as_another_is_noticed(said, read):
    """Trap: x0 and epsilon mixed up. Only the right reading gives the latent back."""
    t = torch.full((20,), 0.5, dtype=torch.float64)
    z0, e = normal_draws(20, 1, 16), normal_draws(20, 1, 16, seed=1)
    z_t = process().mix(z0, e, t)
    again = process(predicts=read).to_x0(process(predicts=said).target(z0, z_t, t), z_t, t)
    assert (float((again - z0).abs().max()) < 1e-10) == (said == read)


@given(t=st.floats(1e-4, 0.99), scale=st.floats(0.1, 100.0), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_conversions_are_linear_in_scale(t, scale, seed):
    """Trap: L2-normalised targets forget the magnitude. A latent ten times as long has a target ten times as long."""
    for predicts in PARAMETERIZATIONS:
        latent, clock = process(predicts=predicts), torch.tensor([t], dtype=torch.float64)
        z0, z_t = normal_draws(1, 1, 4, seed=seed), normal_draws(1, 1, 4, seed=seed + 1)
        torch.testing.assert_close(
            latent.target(scale * z0, scale * z_t, clock), scale * latent.target(z0, z_t, clock), rtol=1e-9, atol=1e-9
        )


def test_the_loss_sees_the_magnitude():
    """Trap: MSE of normalised vectors is 0 for a prediction of the right direction and twice the length."""
    latent, t = process(predicts="x0"), torch.tensor([0.5])
    z0 = normal_draws(1, 1, 8, dtype=torch.float32)
    assert float(latent.loss(z0, z0, z0, t)) == 0
    assert float(latent.loss(2 * z0, z0, z0, t)) == pytest.approx(float(z0.square().mean()), rel=1e-6)


def test_unknown_parameterisation_is_refused_with_the_list():
    with pytest.raises(ValueError, match="v_param, x0, epsilon"):
        GaussianDiffusion(predicts="noise")


# ---------------------------------------------------------------- the end of the clock


def test_the_default_target_at_the_prior_is_not_a_copy_of_the_input():
    """Trap: an epsilon target at t = 1 is solved by copying the input. The default's target there is -z_0, unknown to the input."""
    t = torch.ones(500)
    z0, e = normal_draws(500, 1, 8, dtype=torch.float32), normal_draws(500, 1, 8, seed=1, dtype=torch.float32)
    latent = GaussianDiffusion()
    assert latent.predicts == "v_param"
    z_t = latent.mix(z0, e, t)
    torch.testing.assert_close(latent.target(z0, z_t, t), -z0, rtol=0, atol=1e-5)
    assert float(latent.loss(z_t, z0, z_t, t).mean()) > 1.5, "copying the input does not pay"
    copying = process(predicts="epsilon").loss(z_t, z0, z_t, t)
    assert float(copying.max()) < 1e-10


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epsilon_is_refused_where_it_cannot_recover_the_latent(schedule):
    """Trap: the norm explodes to 1e5. One row at t = 1 is enough, and the error names the key to change."""
    latent = process(schedule, "epsilon")
    z_t = normal_draws(2, 1, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="latent_parameterization=v_param"):
        latent.to_x0(z_t, z_t, torch.tensor([0.5, 1.0]))
    last = latent.latest_time
    assert 0.9 < last < 1
    latest = torch.full((2,), last, dtype=torch.float32)
    x0 = latent.to_x0(z_t + 1e-3, z_t, latest)
    assert float((x0 - latent.to_x0(z_t, z_t, latest)).abs().max()) < 1e-3 / LEAST_SIGNAL * 1.01, "errors grow a hundredfold at most"


@pytest.mark.parametrize("predicts", ["v_param", "x0"])
def test_the_others_reach_the_prior(predicts):
    assert process(predicts=predicts).latest_time == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_everything_is_finite_at_both_ends(schedule, predicts, dtype):
    latent = process(schedule, predicts)
    t = torch.tensor([0.0, 1e-12, 1e-4, latent.latest_time, 1.0], dtype=dtype)
    z0 = normal_draws(5, 1, 4, dtype=dtype)
    z_t = latent.noise(z0, t, rng(5))
    assert torch.equal(z_t[0], z0[0]), "t = 0 is clean"
    for value in (z_t, latent.target(z0, z_t, t), latent.to_epsilon(z0, z_t, t)):
        assert value.isfinite().all()
        assert value.dtype == dtype
    prediction = normal_draws(5, 1, 4, seed=2, dtype=dtype).requires_grad_(True)
    loss = latent.loss(prediction, z0, z_t, t)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    safe = slice(0, 4) if predicts == "epsilon" else slice(0, 5)
    assert latent.to_x0(prediction[safe], z_t[safe], t[safe]).isfinite().all()
    for eta in (0.0, 1.0):
        back = latent.step(z_t[safe], prediction[safe], t[safe], torch.zeros(5, dtype=dtype)[safe], rng(len(t[safe])), eta)
        assert back.isfinite().all()
        assert back.dtype == dtype
        assert torch.equal(back[0], z_t[0]), "a clean latent stays"
        torch.testing.assert_close(back[1:], latent.to_x0(prediction[safe], z_t[safe], t[safe])[1:], rtol=0, atol=0)


def test_a_clean_latent_has_no_noise_to_predict():
    """At t = 0 the mean of the noise given z_t is 0, so the least loss belongs to 0 for `epsilon` and `v_param`."""
    z0, t = normal_draws(3, 1, 4), torch.zeros(3, dtype=torch.float64)
    for predicts in ("v_param", "epsilon"):
        assert (process(predicts=predicts).target(z0, z0, t) == 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_float32_targets_keep_four_digits_at_the_least_trained_time(schedule, predicts):
    latent, t = process(schedule, predicts), torch.tensor([1e-4])
    z0, e = normal_draws(1, 1, 64), normal_draws(1, 1, 64, seed=1)
    exact = latent.target(z0, latent.mix(z0, e, t.double()), t.double())
    single = latent.target(z0.float(), latent.mix(z0.float(), e.float(), t), t)
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=5e-4)


def test_noise_belongs_to_the_row():
    latent, z0 = process(), normal_draws(6, 1, 8, dtype=torch.float32)
    t = torch.linspace(0.1, 0.9, 6)
    whole = latent.noise(z0, t, rng(6))
    for k in range(6):
        alone = Rng(3, 0, torch.tensor([k]))
        assert torch.equal(latent.noise(z0[k : k + 1], t[k : k + 1], alone), whole[k : k + 1])
    assert latent.prior((6, 1, 8), rng(6)).shape == (6, 1, 8)
    assert not torch.equal(latent.prior((6, 1, 8), rng(6)), rng(6).normal("latent noise", 1, 8))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_preserves_the_variance_of_standardised_latents(schedule):
    """Trap: latents that were not standardised. With unit variance in, every t has unit variance; at std 1/32 the noise drowns them."""
    latent, rows = process(schedule), 4000
    z0 = normal_draws(rows, 1, 8, seed=5)
    for t in (0.1, 0.5, 1.0):
        clock = torch.full((rows,), t)
        assert float(latent.noise(z0, clock, rng(rows)).var()) == pytest.approx(1, abs=5 * math.sqrt(2 / rows / 8))
    raw = latent.mix(z0 / 32, torch.zeros_like(z0), torch.full((rows,), 0.1))
    assert float(raw.var()) < 0.1 * float(latent.schedule.sigma(torch.tensor(0.1))) ** 2
