"""With the exact posterior as denoiser, samples follow the exact law."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import ExactGaussian, ExactText, chi_square_bound, model_around

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.sampling import SAMPLERS, infill, sample_latent_from_text, sample_text_from_latent

COUNT = 4000


def toy() -> torch.Tensor:
    """p over 3^3 sequences with strong dependence between the positions."""
    logits = 1.2 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return logits.flatten().softmax(0).view(3, 3, 3)


def counted(tokens: torch.Tensor) -> torch.Tensor:
    return torch.bincount(tokens[:, 0] * 9 + tokens[:, 1] * 3 + tokens[:, 2], minlength=27).double()


@pytest.mark.parametrize("remask", [0.0, 0.5])
def test_ancestral_samples_follow_the_joint_law(remask):
    p = toy()
    model = model_around(ExactText(p), eos_id=2)
    model.length = type("Three", (torch.nn.Module,), {"max_length": 3})()
    sample = sample_text_from_latent(model, torch.zeros(COUNT, 1), seq_len=3, num_steps=80, remask=remask, seed=3)
    counts = counted(sample.tokens)
    law = p.flatten()
    assert 0.5 * (counts / COUNT - law).abs().sum() < 0.05
    assert ((counts - law * COUNT) ** 2 / (law * COUNT)).sum() < chi_square_bound(27)
    # and the test can tell: the product of the marginals, which one big step would give, is far away
    marginals = torch.einsum("i,j,k->ijk", p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))).flatten()
    assert ((counts - marginals * COUNT) ** 2 / (marginals * COUNT)).sum() > 3 * chi_square_bound(27)


def test_one_step_draws_from_the_product_of_the_marginals():
    p = toy()
    model = model_around(ExactText(p), eos_id=2)
    model.length = type("Three", (torch.nn.Module,), {"max_length": 3})()
    counts = counted(sample_text_from_latent(model, torch.zeros(COUNT, 1), seq_len=3, num_steps=1).tokens)
    marginals = torch.einsum("i,j,k->ijk", p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))).flatten()
    assert ((counts - marginals * COUNT) ** 2 / (marginals * COUNT)).sum() < chi_square_bound(27)


def test_infilling_follows_the_conditional_law():
    p = toy()
    model = model_around(ExactText(p), eos_id=2)
    model.length = type("Three", (torch.nn.Module,), {"max_length": 3})()
    given = torch.tensor([[0, 1, 0]]).expand(COUNT, 3)
    keep = torch.tensor([[False, True, False]]).expand(COUNT, 3)
    tokens = infill(model, given, keep, num_steps=100).tokens
    assert (tokens[:, 1] == 1).all()
    law = p[:, 1].flatten() / p[:, 1].sum()
    counts = torch.bincount(tokens[:, 0] * 3 + tokens[:, 2], minlength=9).double()
    assert ((counts - law * COUNT) ** 2 / (law * COUNT)).sum() < chi_square_bound(9)


def variance_after(steps: int, sampler: str, schedule, deviation: float) -> float:
    """Variance of the last z when every step is the linear map of its sampler: a recursion in closed form.

    ddpm: the posterior q(z_s | z_t, x0) of Kingma et al. 2021;  ddim: z_s = alpha_s x0 + sigma_s e
    """
    variance = 1.0
    for k in range(steps, 0, -1):
        t, s = (torch.tensor(i / steps, dtype=torch.float64) for i in (k, k - 1))
        (a_t, s_t), (a_s, s_s) = ((float(schedule.alpha(x)), float(schedule.sigma(x))) for x in (t, s))
        gain = a_t * deviation**2 / (a_t**2 * deviation**2 + s_t**2)
        between = s_t**2 - (a_t / a_s) ** 2 * s_s**2
        if sampler == "ddpm":
            slope, noise = a_t / a_s * s_s**2 / s_t**2 + a_s * between / s_t**2 * gain, between * s_s**2 / s_t**2
        else:
            slope, noise = s_s / s_t + (a_s - a_t * s_s / s_t) * gain, 0.0
        variance = slope**2 * variance + noise
    return variance


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", LATENT_SCHEDULES)
def test_latents_of_a_gaussian_have_its_mean_and_variance(sampler, schedule):
    mean, deviation, rows, width, steps = 0.7, 0.4, 500, 40, 100
    process = GaussianDiffusion(LATENT_SCHEDULES[schedule]())
    model = model_around(ExactGaussian(mean, deviation, width, process), scale=1.0, shift=0.0)
    z = sample_latent_from_text(model, torch.zeros(rows, 1), num_steps=steps, sampler=sampler).double()
    assert abs(float(z.mean()) - mean) < 5 * deviation / (rows * width) ** 0.5
    error = 5 * (2 / (rows * width)) ** 0.5  # five standard errors of a variance, relative
    if sampler == "dpmpp":  # of second order: a hundred steps are as good as infinitely many
        assert abs(float(z.var()) / deviation**2 - 1) < error + 0.01
    else:
        expected = variance_after(steps, sampler, process.schedule, deviation)
        assert abs(float(z.var()) / expected - 1) < error
        assert abs(variance_after(2000, sampler, process.schedule, deviation) / deviation**2 - 1) < 0.02


def test_the_average_of_several_draws_approaches_the_point_estimate():
    process = GaussianDiffusion()
    model = model_around(ExactGaussian(0.7, 0.4, 40, process), scale=1.0, shift=0.0)
    one = sample_latent_from_text(model, torch.zeros(50, 1), num_steps=20, sampler="ddpm")
    eight = sample_latent_from_text(model, torch.zeros(50, 1), num_steps=20, sampler="ddpm", average=8)
    ratio = (eight - 0.7).square().mean() / (one - 0.7).square().mean()
    assert 0.09 < float(ratio) < 0.16  # 1/8
