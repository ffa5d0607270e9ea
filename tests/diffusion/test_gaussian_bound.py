"""The variational bound of a Gaussian target is its negative log density, by quadrature and by Monte Carlo (Kingma et al. 2021)."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import gauss_legendre, gaussian_denoiser, gaussian_diffusion_loss, gaussian_error, normal_draws, normal_kl, normal_nats

from lgdlm.diffusion.gaussian import PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.rng import Rng

SCHEDULES = list(LATENT_SCHEDULES)
MEAN, STD = 0.7, 1.6  # the Gaussian target


def process(schedule: str = "cosine", predicts: str = "v_param") -> GaussianDiffusion:
    return GaussianDiffusion(LATENT_SCHEDULES[schedule](), predicts)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(3, step, torch.arange(rows))


def loss_of_one(latent: GaussianDiffusion, z0: float, early: float, late: float) -> float:
    """int_early^late -SNR'/2 E|z_0 - x0_hat|^2 dt by quadrature of the code's weight, substituting t = early (late / early)^u."""
    u, w = gauss_legendre(200)
    span = math.log(late / early)
    t = early * (u * span).exp()
    snr = latent.schedule.log_snr(t).exp()
    return float((w * t * span * latent.schedule.vlb_weight(t) * gaussian_error(snr, z0, MEAN, STD)).sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("z0", [-3.0, 0.0, MEAN, 2.5])
def test_the_bound_is_the_log_density_of_every_point(schedule, z0):
    """Kingma et al. 2021: prior KL + diffusion loss + reconstruction = -log p(z_0) when the denoiser is exact."""
    latent, early, late = process(schedule), 1e-3, 0.999
    (a0, a1), (s0, s1) = (
        part(torch.tensor([early, late], dtype=torch.float64)).tolist() for part in (latent.schedule.alpha, latent.schedule.sigma)
    )
    prior = normal_kl(a1 * z0, s1**2, a1 * MEAN, a1**2 * STD**2 + s1**2)
    spread = 1 / (1 / STD**2 + a0**2 / s0**2)  # posterior variance of z_0 given z_early
    reconstruction = normal_nats(z0, z0, spread) + float(gaussian_error(torch.tensor(a0**2 / s0**2), z0, MEAN, STD)) / (2 * spread)
    total = prior + loss_of_one(latent, z0, early, late) + reconstruction
    assert total == pytest.approx(normal_nats(z0, MEAN, STD**2), abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_diffusion_loss_averaged_over_the_data_is_half_a_log_ratio(schedule):
    """The squared error averages to that of a point one standard deviation away."""
    latent, early, late = process(schedule), 1e-3, 0.999
    ends = latent.schedule.log_snr(torch.tensor([early, late], dtype=torch.float64)).exp().tolist()
    assert loss_of_one(latent, MEAN + STD, early, late) == pytest.approx(gaussian_diffusion_loss(*ends, STD), rel=1e-7)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_monte_carlo_through_noise_and_conversions_gives_the_closed_form(schedule, predicts):
    latent, rows, early, late = process(schedule, predicts), 40_000, 0.05, 0.9
    z0 = MEAN + STD * normal_draws(rows, 1, 1, seed=4)
    t = early * (late / early) ** rng(rows).stratified("latent time", 1)
    z_t = latent.noise(z0, t, rng(rows))
    alpha, sigma = latent.scales(t, z_t)
    answer = latent.from_x0(gaussian_denoiser(z_t, alpha, sigma, MEAN, STD), z_t, t)  # what the optimal network says
    error = (latent.to_x0(answer, z_t, t) - z0).square().flatten()
    nats = latent.schedule.vlb_weight(t) * error * t * math.log(late / early)
    ends = latent.schedule.log_snr(torch.tensor([early, late], dtype=torch.float64)).exp().tolist()
    spread = float(nats.std()) / rows**0.5
    expected = gaussian_diffusion_loss(*ends, STD)
    assert spread < 0.03 * expected
    assert float(nats.mean()) == pytest.approx(expected, abs=4 * spread)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_the_optimal_prediction_has_the_least_loss(predicts):
    """The training loss is minimised by the conversion of E[z_0 | z_t], so a network trained on it can be read back."""
    latent, rows = process(predicts=predicts), 20_000
    t = torch.full((rows,), 0.6, dtype=torch.float64)
    z0 = MEAN + STD * normal_draws(rows, 1, 1, seed=6)
    z_t = latent.noise(z0, t, rng(rows))
    best = latent.from_x0(gaussian_denoiser(z_t, *latent.scales(t, z_t), MEAN, STD), z_t, t)
    least = float(latent.loss(best, z0, z_t, t).mean())
    for other in (best + 0.1, best - 0.1, best * 1.1, best * 0.9):
        assert float(latent.loss(other, z0, z_t, t).mean()) > least
