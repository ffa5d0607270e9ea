"""The linear skip: the exact answer of a Gaussian belief in every parameterisation, and nothing where nothing is seen."""

from __future__ import annotations

import pytest
import torch

from lgdlm.config import TransformerModel
from lgdlm.diffusion.gaussian import PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.linear_reading import BUCKETS, LinearReading, features

V, D, B, N = 12, 4, 5, 7
TIMES = (0.0, 1e-4, 1e-2, 0.3, 0.7, 0.99, 1.0)


def fitted(reading: LinearReading, seed: int = 0) -> LinearReading:
    g = torch.Generator().manual_seed(seed)
    reading.fit(torch.randn(V + BUCKETS, D, generator=g), torch.randn(D, generator=g), torch.rand(D, generator=g) * 0.9 + 0.05)
    return reading


def pair(t_latent: float = 0.5, masked: torch.Tensor | None = None, lengths: tuple[int, ...] = (7, 3, 5, 1, 7), seed: int = 3) -> NoisyPair:
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(0, V, (B, N), generator=g)
    real = torch.arange(N) < torch.tensor(lengths)[:, None]
    text = text if masked is None else text.masked_fill(masked & real, V)
    return NoisyPair(text, torch.full((B,), 0.5), torch.randn(B, 1, D, generator=g), torch.full((B,), t_latent), real)


def joint(parameterization: str) -> TextLatentDiffusion:
    config = TransformerModel(
        hidden_size=16, n_blocks=1, n_heads=2, latent_dim=D, max_seq_len=N, latent_parameterization=parameterization, latent_skip="linear"
    )
    return build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.zeros(D), latent_std=torch.ones(D))


def posterior(process: GaussianDiffusion, mean: torch.Tensor, variance: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[z_0 | z_t] by precision-weighted averaging: an independent form of Bayes' rule, for t strictly inside (0, 1)."""
    alpha, sigma = process.schedule.alpha(t)[:, None, None], process.schedule.sigma(t)[:, None, None]
    prior, evidence = 1 / variance, alpha**2 / sigma**2
    return (prior * mean + evidence * (z_t / alpha)) / (prior + evidence)


@pytest.mark.parametrize("schedule", LATENT_SCHEDULES)
@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_the_answer_is_the_exact_posterior_mean(predicts: str, schedule: str) -> None:
    process = GaussianDiffusion(LATENT_SCHEDULES[schedule](), predicts)
    g = torch.Generator().manual_seed(1)
    t = torch.linspace(0.001, 0.97, 60, dtype=torch.float64)
    mean, variance = torch.randn(60, 1, D, generator=g).double(), torch.rand(60, 1, D, generator=g).double() + 0.01
    z_t = torch.randn(60, 1, D, generator=g).double() * 3
    answer = process.answer_of_gaussian(mean, variance, z_t, t)
    expected = posterior(process, mean, variance, z_t, t)
    torch.testing.assert_close(answer, process.from_x0(expected, z_t, t), atol=1e-8, rtol=1e-8)
    alpha = process.schedule.alpha(t).min()
    if predicts != "epsilon" or alpha > 0.01:
        torch.testing.assert_close(process.to_x0(answer, z_t, t), expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_the_ends_of_the_clock_are_finite_and_right(predicts: str) -> None:
    """At t = 0 the latent is known; at t = 1 the belief is all there is."""
    process = GaussianDiffusion(predicts=predicts)
    mean, variance, z = torch.randn(B, 1, D), torch.rand(B, 1, D) + 0.05, torch.randn(B, 1, D)
    at0, at1 = (process.answer_of_gaussian(mean, variance, z, torch.full((B,), t)) for t in (0.0, 1.0))
    expected = {"x0": (z, mean), "epsilon": (torch.zeros_like(z), z), "v_param": (torch.zeros_like(z), -mean)}[predicts]
    torch.testing.assert_close(at0, expected[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(at1, expected[1], atol=1e-4, rtol=1e-4)
    for t in TIMES:
        certain = process.answer_of_gaussian(mean, torch.full_like(variance, 1e-6), z, torch.full((B,), t))
        assert certain.isfinite().all()


def test_no_prediction_beats_it() -> None:
    """Monte Carlo: among scaled and shifted rivals the posterior mean has the least squared error."""
    process, g = GaussianDiffusion(), torch.Generator().manual_seed(0)
    n, mean, variance, t = 20_000, 0.7, 0.3, 0.4
    z0 = mean + variance**0.5 * torch.randn(n, 1, 1, generator=g)
    times = torch.full((n,), t)
    z_t = process.mix(z0, torch.randn(n, 1, 1, generator=g), times)
    target = process.target(z0, z_t, times)
    best = process.answer_of_gaussian(torch.full_like(z0, mean), torch.full_like(z0, variance), z_t, times)
    error = float((best - target).square().mean())
    for m, v in ((0.5, 0.3), (0.9, 0.3), (0.7, 0.2), (0.7, 0.45), (0.0, 1.0)):
        rival = process.answer_of_gaussian(torch.full_like(z0, m), torch.full_like(z0, v), z_t, times)
        assert float((rival - target).square().mean()) > error


def test_the_belief_is_the_regression_on_visible_tokens() -> None:
    reading = fitted(LinearReading(V, 1, D))
    question = pair(masked=torch.rand(B, N, generator=torch.Generator().manual_seed(9)) < 0.5)
    mean, variance = reading(question)
    for b in range(B):
        tokens = [int(i) for i, real in zip(question.text[b], question.attention_mask[b], strict=True) if real]
        pairs = [V + (i * 1_000_003 + j) % BUCKETS for i, j in zip(tokens, tokens[1:], strict=False) if i != V and j != V]
        seen = [i for i in tokens if i != V] + pairs
        total = 2 * len(tokens) - 1
        share = len(seen) / total
        expected = sum((reading.table[i] for i in seen), torch.zeros(D)) / total**0.5 + share * reading.offset
        torch.testing.assert_close(mean[b, 0], expected)
        torch.testing.assert_close(variance[b, 0], 1 - share * (1 - reading.residual))


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("t", TIMES)
def test_before_any_fit_the_answer_is_that_of_the_standard_normal(predicts: str, t: float) -> None:
    """Nothing visible (or nothing fitted): a belief N(0, 1), whose v is zero, so the network starts from silence."""
    model = joint(predicts)
    plain = model.latent_process.answer_of_gaussian(torch.zeros(B, 1, D), torch.ones(B, 1, D), pair().latent, torch.full((B,), t))
    blind = pair(t, masked=torch.ones(B, N, dtype=torch.bool))
    for question in (blind, pair(t)):
        torch.testing.assert_close(model(question).latent, model.denoiser(question).latent + plain)
    fitted(model.reading)
    torch.testing.assert_close(model(blind).latent, model.denoiser(blind).latent + plain)
    if predicts == "v_param":
        torch.testing.assert_close(model(blind).latent, model.denoiser(blind).latent, atol=1e-6, rtol=0)
    assert not torch.allclose(model(pair(0.5)).latent, model.denoiser(pair(0.5)).latent, atol=1e-3)


def test_what_is_masked_or_padding_does_not_enter() -> None:
    reading, masked = fitted(LinearReading(V, 1, D)), torch.arange(N).expand(B, N) % 2 == 0
    question = pair(masked=masked)
    other = torch.where(question.attention_mask, question.text, (question.text + 1) % V)
    assert not torch.equal(other, question.text)
    for a, b in zip(reading(question), reading(question.at(text=other)), strict=True):
        assert torch.equal(a, b)
    visible = question.attention_mask & ~masked
    changed = torch.where(visible, (question.text + 1) % V, question.text)
    assert not torch.allclose(reading(question)[0], reading(question.at(text=changed))[0])


def test_the_fit_is_saved_and_never_trained() -> None:
    reading = LinearReading(V, 1, D)
    assert not list(reading.parameters())
    assert set(reading.state_dict()) == {"table", "offset", "residual"}


def test_a_regression_worse_than_the_mean_reads_no_certainty() -> None:
    reading = LinearReading(V, 1, D)
    reading.fit(torch.zeros(V + BUCKETS, D), torch.zeros(D), torch.tensor([0.5, 1.0, 1.7, 9.0]))
    assert reading.residual.tolist() == [0.5, 1.0, 1.0, 1.0]
    with pytest.raises(AssertionError):
        reading.fit(torch.zeros(V + BUCKETS, D), torch.zeros(D), torch.zeros(D))


def test_the_fit_and_the_network_see_the_same_features() -> None:
    """The regression's bags and the module's ids are one definition: a clean text reads as its bag does."""
    reading = fitted(LinearReading(V, 1, D))
    question = pair(masked=torch.zeros(B, N, dtype=torch.bool))
    mean, _ = reading(question)
    for b in range(B):
        bag = features(question.text[b][question.attention_mask[b]].numpy(), V)
        torch.testing.assert_close(mean[b, 0], reading.table[torch.from_numpy(bag)].sum(dim=0) / len(bag) ** 0.5 + reading.offset)
