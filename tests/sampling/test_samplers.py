"""Latent steps agree with an independent implementation on the same table; orders pick what they say."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import Function

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.schedule import Linear, Sigmoid
from lgdlm.rng import Rng
from lgdlm.sampling import REVEAL, SAMPLERS
from lgdlm.sampling.samplers import most_certain

diffusers = pytest.importorskip("diffusers")


def betas(schedule, steps: int = 1000) -> torch.Tensor:
    abar = schedule.table(steps)
    return 1 - abar / torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])


def trajectory(sampler: str, schedule, times: list[float], z: torch.Tensor, guess) -> torch.Tensor:
    process = GaussianDiffusion(schedule)
    mover, rng = SAMPLERS[sampler](process), Rng(0, 0, torch.arange(len(z)))
    for now, then in zip(times, times[1:], strict=False):
        t, s = torch.full((len(z),), now), torch.full((len(z),), then)
        z = mover.step(z, guess(z, round(now * 1000) - 1), t, s, rng)
    return z


def guess(z: torch.Tensor, step: int) -> torch.Tensor:
    """Some smooth estimate of z_0."""
    return torch.tanh(z * (1.3 - step / 1000)) + 0.2


def peer(scheduler, z: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    for k in scheduler.timesteps:
        z = scheduler.step(guess(z, int(k)), int(k), z).prev_sample
    return z, [(int(k) + 1) / 1000 for k in scheduler.timesteps] + [0.0]


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("schedule", [Linear(), Sigmoid()], ids=["linear", "sigmoid"])
def test_ddim_agrees_with_diffusers(schedule, steps):
    theirs = diffusers.DDIMScheduler(trained_betas=betas(schedule).numpy(), prediction_type="sample", clip_sample=False)
    theirs.set_timesteps(steps)
    z = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0))
    expected, times = peer(theirs, z)
    torch.testing.assert_close(trajectory("ddim", schedule, times, z, guess), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize(
    ("schedule", "spacing"), [(Linear(), "linspace"), (Linear(1e-3, 0.01), "leading"), (Sigmoid(), "leading")], ids=str
)
def test_dpmpp_agrees_with_diffusers(schedule, spacing, steps):
    theirs = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(schedule).numpy(), prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2,
        lower_order_final=False, final_sigmas_type="zero", timestep_spacing=spacing,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    z = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0))
    expected, times = peer(theirs, z)
    torch.testing.assert_close(trajectory("dpmpp", schedule, times, z, guess), expected, rtol=1e-4, atol=1e-4)


def test_dpmpp_is_of_second_order():
    """Halving the step divides the error by about four; DDIM's by about two."""
    z = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = Linear()

    def end(sampler: str, steps: int) -> torch.Tensor:
        return trajectory(sampler, schedule, [0.9 - 0.8 * i / steps for i in range(steps + 1)], z, lambda z, step: torch.tanh(z) * 0.8)

    truth = end("dpmpp", 3200)
    rate = {name: float((end(name, 50) - truth).abs().mean() / (end(name, 100) - truth).abs().mean()) for name in ("ddim", "dpmpp")}
    assert 1.7 < rate["ddim"] < 2.4
    assert rate["dpmpp"] > 3.2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.999, 1e-4, 0.0], [0.3, 0.2, 0.1, 0.0]])
def test_every_sampler_is_finite_from_end_to_end(sampler, times):
    process = GaussianDiffusion()
    mover, rng = SAMPLERS[sampler](process), Rng(0, 0, torch.arange(2))
    z = torch.randn(2, 1, 5)
    for now, then in zip(times, times[1:], strict=False):
        z = mover.step(z, torch.full_like(z, 0.3), torch.full((2,), now), torch.full((2,), then), rng)
        assert torch.isfinite(z).all()
    torch.testing.assert_close(z, torch.full_like(z, 0.3))


def test_orders_prefer_what_they_say():
    sharp, flat, drawn_badly = [4.0, 0, 0], [0.5, 0, 0], [4.0, 0, 0]
    logits, tokens = torch.tensor([flat, sharp, drawn_badly]), torch.tensor([0, 0, 2])
    p = logits.double().softmax(1)
    confidence, entropy = REVEAL["confidence"](logits, tokens), REVEAL["entropy"](logits, tokens)
    torch.testing.assert_close(confidence.double(), p.gather(1, tokens[:, None])[:, 0].log(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), (p * p.log()).sum(1), rtol=1e-5, atol=1e-5)
    assert confidence.argsort(descending=True).tolist() == [1, 0, 2]
    assert entropy.argsort(descending=True)[-1] == 0
    assert torch.isfinite(REVEAL["entropy"](torch.tensor([[0.0, -torch.inf]]), torch.tensor([0]))).all()


def test_most_certain_takes_the_best_candidates_only():
    score = torch.tensor([[1.0, 3.0, -torch.inf, 2.0], [5.0, -torch.inf, -torch.inf, 5.0]])
    assert most_certain(score, torch.tensor([2, 3])).tolist() == [[False, True, False, True], [True, False, False, True]]
    assert most_certain(score, torch.tensor([0, 1])).tolist() == [[False] * 4, [True, False, False, False]]


def test_a_sampler_never_shares_its_memory():
    one, other = (SAMPLERS["dpmpp"](Function().process) for _ in range(2))
    z, t = torch.randn(2, 1, 3), torch.full((2,), 0.8)
    rng = Rng(0, 0, torch.arange(2))
    one.step(z, z + 1, t, t - 0.2, rng)
    fresh = SAMPLERS["dpmpp"](Function().process).step(z, z, t, t - 0.3, rng)
    torch.testing.assert_close(other.step(z, z, t, t - 0.3, rng), fresh)
