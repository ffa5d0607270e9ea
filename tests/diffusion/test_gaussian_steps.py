"""Reverse steps: exact marginals for every eta (Song et al. 2021), the probability flow, and the steps of diffusers."""

from __future__ import annotations

import pytest
import torch
from oracles import Silence, gaussian_denoiser, normal_draws

from lgdlm.diffusion.gaussian import PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.rng import Rng

SCHEDULES = list(LATENT_SCHEDULES)
THEIRS = {"v_param": "v_prediction", "epsilon": "epsilon", "x0": "sample"}
MEAN, STD = 0.7, 1.6  # the Gaussian target


def process(schedule: str = "cosine", predicts: str = "v_param") -> GaussianDiffusion:
    return GaussianDiffusion(LATENT_SCHEDULES[schedule](), predicts)


def rng(rows: int, step: int = 0) -> Rng:
    return Rng(3, step, torch.arange(rows))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_an_oracle_is_followed_home(schedule, steps, eta):
    for predicts in PARAMETERIZATIONS:
        latent = process(schedule, predicts)
        z0 = normal_draws(3, 1, 4)
        z_t = latent.prior((3, 1, 4), rng(3)).double()
        clock = [latent.latest_time * k / steps for k in range(steps, -1, -1)]
        for k, (t, s) in enumerate(zip(clock, clock[1:], strict=False)):
            times = torch.full((3,), t, dtype=torch.float64)
            z_t = latent.step(z_t, latent.from_x0(z0, z_t, times), times, torch.full((3,), s, dtype=torch.float64), rng(3).fold(k), eta)
        torch.testing.assert_close(z_t, z0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_keeps_the_marginal(schedule, eta):
    """Song et al. 2021: given z_0 every eta has the marginal N(alpha_s z_0, sigma_s^2). Exact in mean and variance."""
    latent = process(schedule)
    z0, e = torch.tensor([[[1.3]]], dtype=torch.float64), torch.tensor([[[1.0]]], dtype=torch.float64)
    for t, s in ((0.9, 0.4), (0.5, 0.49), (0.02, 0.01), (1.0, 0.999)):
        late, early = torch.tensor([t], dtype=torch.float64), torch.tensor([s], dtype=torch.float64)
        alpha, sigma = latent.scales(early, z0)

        def go(noise: float, fresh: float, late=late, early=early) -> torch.Tensor:
            return latent.step_from_x0(latent.mix(z0, noise * e, late), z0, late, early, Silence(fresh), eta)

        torch.testing.assert_close(go(0, 0), alpha * z0, rtol=1e-12, atol=0)
        variance = (go(1, 0) - go(0, 0)) ** 2 + (go(0, 1) - go(0, 0)) ** 2
        torch.testing.assert_close(variance, sigma**2, rtol=1e-9, atol=0)
        assert (float((go(0, 1) - go(0, 0)).abs()) > 0) == (eta > 0)


def test_exact_deterministic_steps_carry_the_prior_to_the_target():
    """Many DDIM steps with the optimal denoiser of N(mean, std^2) are its probability flow: affine, onto the target."""
    latent, steps = process(), 400
    z_t = torch.tensor([-1.5, 0.0, 1.5], dtype=torch.float64)[:, None, None]
    start = z_t.clone()
    for k in range(steps, 0, -1):
        t, s = (torch.full((3,), x / steps, dtype=torch.float64) for x in (k, k - 1))
        x0 = gaussian_denoiser(z_t, *latent.scales(t, z_t), MEAN, STD)
        z_t = latent.step(z_t, latent.from_x0(x0, z_t, t), t, s, rng(3), eta=0.0)
    torch.testing.assert_close(z_t, MEAN + STD * start, rtol=0, atol=0.02)


def test_exact_ancestral_steps_give_the_variance_of_the_target():
    latent, steps, rows = process(), 100, 20_000
    z_t = latent.prior((rows, 1, 1), rng(rows)).double()
    for k in range(steps, 0, -1):
        t, s = (torch.full((rows,), x / steps, dtype=torch.float64) for x in (k, k - 1))
        x0 = gaussian_denoiser(z_t, *latent.scales(t, z_t), MEAN, STD)
        z_t = latent.step_from_x0(z_t, x0, t, s, rng(rows).fold(k), eta=1.0)
    assert float(z_t.mean()) == pytest.approx(MEAN, abs=5 * STD / rows**0.5 + 0.01)
    assert float(z_t.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float32_steps_keep_their_noise(schedule):
    """Neighbouring alphas of a thousand steps differ by 1e-5: in float32 the noise of a step would be off in its third digit."""
    latent = process(schedule)
    k = torch.arange(2, 1000, 7, dtype=torch.float64) / 1000
    zero = torch.zeros(len(k), 1, 1)
    single = latent.step_from_x0(zero, zero, k.float(), (k - 1e-3).float(), Silence(1.0), 1.0).double()
    exact = latent.step_from_x0(zero.double(), zero.double(), k.float().double(), (k - 1e-3).float().double(), Silence(1.0), 1.0)
    torch.testing.assert_close(single, exact, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- diffusers


def betas(schedule: str) -> torch.Tensor:
    """The discrete betas whose running product of 1 - beta is `table(1000)`."""
    table = LATENT_SCHEDULES[schedule]().table(1000)
    return 1 - table / torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])


def peer(kind: type, schedule: str, predicts: str, steps: int, **options: object):
    scheduler = kind(
        trained_betas=betas(schedule).numpy(), prediction_type=THEIRS[predicts], clip_sample=False, timestep_spacing="trailing", **options
    )
    # made from float32 betas; the same table in float64, so that the comparison is of equations and not of rounding
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), LATENT_SCHEDULES[schedule]().table(1000), rtol=2e-4, atol=1e-9)
    scheduler.alphas_cumprod = LATENT_SCHEDULES[schedule]().table(1000)
    for name in ("final_alpha_cumprod", "one"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, torch.ones((), dtype=torch.float64))
    scheduler.set_timesteps(steps)
    return scheduler


def clocks(scheduler, latent: GaussianDiffusion, steps: int) -> list[tuple[int, float, float]]:
    """diffusers' index k stands for t = (k + 1) / 1000."""
    pairs = [(int(k), (int(k) + 1) / 1000, (int(k) + 1 - 1000 // steps) / 1000) for k in scheduler.timesteps]
    return [(k, t, s) for k, t, s in pairs if t <= latent.latest_time]


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_steps_agree_with_diffusers_ddim(schedule, predicts, eta):
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    latent, steps = process(schedule, predicts), 20
    scheduler = peer(scheduling.DDIMScheduler, schedule, predicts, steps)
    z = normal_draws(2, 1, 4, seed=9)
    walked = 0
    for k, t, s in clocks(scheduler, latent, steps):
        prediction, fresh = normal_draws(2, 1, 4, seed=k), normal_draws(1, 1, 1, seed=k + 5000)
        theirs = scheduler.step(prediction, k, z, eta=eta, variance_noise=fresh.expand(2, 1, 4)).prev_sample
        t_row, s_row = torch.full((2,), t, dtype=torch.float64), torch.full((2,), s, dtype=torch.float64)
        ours = latent.step(z, prediction, t_row, s_row, Silence(float(fresh)), eta)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        z, walked = ours / ours.std(), walked + 1
    assert walked >= 18


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ancestral_steps_agree_with_diffusers_ddpm_in_mean_and_variance(schedule, predicts, monkeypatch):
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    latent, steps = process(schedule, predicts), 20
    scheduler = peer(scheduling.DDPMScheduler, schedule, predicts, steps)
    z = normal_draws(2, 1, 4, seed=9)
    walked = 0
    for k, t, s in clocks(scheduler, latent, steps):
        prediction = normal_draws(2, 1, 4, seed=k)
        t_row, s_row = torch.full((2,), t, dtype=torch.float64), torch.full((2,), s, dtype=torch.float64)
        for fresh in (0.0, 1.0):  # the mean, and the mean plus one standard deviation
            monkeypatch.setattr(
                scheduling, "randn_tensor", lambda shape, fresh=fresh, **_: torch.full(tuple(shape), fresh, dtype=torch.float64)
            )
            theirs = scheduler.step(prediction, k, z).prev_sample
            ours = latent.step(z, prediction, t_row, s_row, Silence(fresh), 1.0)
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        z, walked = ours / ours.std(), walked + 1
    assert walked >= 18
