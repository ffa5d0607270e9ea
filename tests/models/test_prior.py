"""p(z): Gaussians in closed form; the diffusion's bound is exact for a denoiser that is, and above the truth for one that is not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracles import gaussian_denoiser

from lgdlm.diffusion.gaussian import PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.posterior import Posterior, kl_by_dimension
from lgdlm.models.prior import LOG_SNR, DiffusionPrior, LatentPrior, build_prior
from lgdlm.rng import Rng

D = 3


def posterior(rows: int, dtype: torch.dtype = torch.float64) -> Posterior:
    mean, log_variance = torch.tensor([0.8, -0.3, 1.5], dtype=dtype), torch.tensor([-1.0, 0.2, -3.0], dtype=dtype)
    return Posterior(mean.expand(rows, 1, D), log_variance.expand(rows, 1, D))


class Oracle:
    """The answers of the exact denoiser of N(mean, std^2), as a model gives them; `error` is added to its noise."""

    def __init__(self, schedule: str, predicts: str, mean: float, std: float, error: float = 0.0):
        self.latent_process = GaussianDiffusion(LATENT_SCHEDULES[schedule](), predicts)
        self.mean, self.std, self.error = mean, std, error
        self.asked: list[NoisyPair] = []

    def alone(self, latent: torch.Tensor, t_latent: torch.Tensor) -> Any:
        return SimpleNamespace(latent=latent, t_latent=t_latent)

    def __call__(self, pair: Any) -> Any:
        process, z_t, t = self.latent_process, pair.latent, pair.t_latent
        alpha, sigma = process.scales(t, z_t)
        x0 = gaussian_denoiser(z_t, alpha, sigma, self.mean, self.std)
        noise = process.noise_in(z_t, x0, t) + self.error
        x0 = (z_t - sigma * noise) / alpha
        return SimpleNamespace(latent=process.from_x0(x0, z_t, t))


def divergence(oracle: Oracle, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over rows of the estimate by dimension, and its standard error."""
    q, rng = posterior(rows), Rng(2, 1, torch.arange(rows))
    found = DiffusionPrior().divergence(oracle, q, q.draw(rng), rng)[:, 0]  # type: ignore[arg-type]
    return found.mean(dim=0), found.std(dim=0) / rows**0.5


def exact(mean: float, std: float) -> torch.Tensor:
    q = posterior(1)
    return kl_by_dimension(q.mean, q.log_variance, torch.tensor(mean).double(), torch.tensor(2 * math.log(std)).double())[0, 0]


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", LATENT_SCHEDULES)
def test_a_network_that_knows_nothing_is_the_standard_normal_exactly(schedule: str, predicts: str) -> None:
    """Every row, without any spread: only what a network knows beyond is estimated."""
    found, spread = divergence(Oracle(schedule, predicts, 0.0, 1.0), 50)
    torch.testing.assert_close(found, exact(0.0, 1.0), atol=1e-5, rtol=1e-5)
    assert spread.max() < 1e-5


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.5), (-0.4, 1.4)])
@pytest.mark.parametrize("schedule", LATENT_SCHEDULES)
def test_an_exact_denoiser_gives_the_divergence_to_what_it_denoises(schedule: str, mean: float, std: float) -> None:
    found, error = divergence(Oracle(schedule, "v_param", mean, std), 60_000)
    assert error.max() < 0.05
    assert ((found - exact(mean, std)).abs() < 4 * error + 0.01).all(), "0.01: what lies outside the range of log-SNR"


def test_a_denoiser_that_errs_is_further_away_by_its_error() -> None:
    """range / 2 times the squared error of its noise, in every dimension: errors to either side cancel in all but that."""
    right, low, high = (divergence(Oracle("cosine", "v_param", 0.7, 0.5, error=e), 4000)[0] for e in (0.0, -0.3, 0.3))
    expected = (LOG_SNR[1] - LOG_SNR[0]) / 2 * 0.3**2
    torch.testing.assert_close((low + high) / 2 - right, torch.full_like(right, expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["fixed_gaussian", "learned_gaussian"])
def test_gaussians_say_what_they_are(kind: str) -> None:
    prior = LatentPrior(D, kind)
    mu, logvar = prior(4, "cpu")
    assert mu.shape == logvar.shape == (4, D)
    assert not mu.any()
    assert not logvar.any()
    learned = kind == "learned_gaussian"
    assert {name for name, _ in prior.named_parameters()} == ({"mean", "log_variance"} if learned else set())
    assert bool(prior.state_dict()) == learned, "what is fixed needs no room in a checkpoint"


def test_a_learned_gaussian_fits_the_aggregate() -> None:
    """Its divergence is least where its moments are those of all posteriors together: by gradient descent on the mean of the KL."""
    g = torch.Generator().manual_seed(0)
    q = Posterior(torch.randn(200, 1, D, generator=g) * 0.5 + 1, torch.full((200, 1, D), -2.0))
    prior = build_prior("learned_gaussian", D)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        prior.divergence(None, q, q.mean, Rng(0, 0, torch.arange(200))).sum(dim=2).mean().backward()  # type: ignore[arg-type]
        optimizer.step()
    mu, logvar = prior(1, "cpu")  # type: ignore[operator]
    torch.testing.assert_close(mu[0], q.mean.mean(dim=(0, 1)), atol=1e-2, rtol=0)
    whole = q.mean.var(dim=(0, 1), unbiased=False) + q.log_variance[0, 0].exp()
    torch.testing.assert_close(logvar[0].exp(), whole, atol=1e-2, rtol=0.02)


def test_words_that_name_no_prior_are_refused() -> None:
    with pytest.raises(ValueError, match="learned_gaussian"):
        build_prior("uniform", D)


def test_the_question_without_a_text_says_nothing_of_one(stage2_model: TextLatentDiffusion) -> None:
    """One mask, all clocks of the text at 1: a longer row would tell the text's length."""
    latent, t = torch.randn(3, *stage2_model.latent_shape), torch.tensor([0.1, 0.5, 1.0])
    pair = stage2_model.alone(latent, t)
    assert pair.text.tolist() == [[stage2_model.mask_id]] * 3
    assert (pair.t_text == 1).all()
    assert pair.attention_mask.all()
    answer = stage2_model(pair)
    assert isinstance(answer, Prediction)
    assert answer.latent.shape == latent.shape
    assert len(answer.text_logits) == 0


def test_gradients_of_the_diffusion_reach_q_and_the_latent_denoiser(stage2_model: TextLatentDiffusion) -> None:
    q = Posterior(torch.randn(4, 1, 4, requires_grad=True), torch.zeros(4, 1, 4, requires_grad=True))
    rng = Rng(0, 1, torch.arange(4))
    DiffusionPrior().divergence(stage2_model, q, q.draw(rng), rng).sum().backward()
    assert q.mean.grad is not None
    assert q.mean.grad.any()
    assert q.log_variance.grad is not None
    assert q.log_variance.grad.any()
    touched = {name for name, p in stage2_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("latent_head" in name for name in touched)
    assert not any("text_head.project" in name or name.startswith(("posterior", "length")) for name in touched)
