"""Embedding diffusion as a process: where tokens lie, what noise says of them, and what a perfect prediction costs."""

from __future__ import annotations

import pytest
import torch

from lgdlm.diffusion.embedding import MOST_SNR, EmbeddingDiffusion, on_sphere
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
from lgdlm.rng import Rng

V, E, B, N = 17, 6, 5, 9


def table(seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(V, E, generator=g, dtype=torch.float64) * torch.rand(V, 1, generator=g, dtype=torch.float64)


def process(rows: torch.Tensor | None = None, **options: object) -> EmbeddingDiffusion:
    rows = table() if rows is None else rows
    return EmbeddingDiffusion(V, lambda: rows, **options)


def rng(rows: int = B, step: int = 3) -> Rng:
    return Rng(7, step, torch.arange(rows))


def texts(seed: int = 1) -> torch.Tensor:
    return torch.randint(0, V, (B, N), generator=torch.Generator().manual_seed(seed))


def test_every_token_lies_on_the_sphere_and_is_read_off_where_it_lies():
    p, y = process(), texts()
    x = p.embed(y)
    torch.testing.assert_close(x.square().mean(dim=-1), torch.ones(B, N, dtype=torch.float64))
    tokens, distance = p.nearest(x)
    assert torch.equal(tokens, y)
    assert float(distance.max()) < 1e-6
    assert torch.equal(p.embed(torch.tensor([V])), torch.zeros(1, E, dtype=torch.float64)), "an unknown token lies at the centre"
    assert p.nearest(torch.zeros(2, 0, E))[0].shape == (2, 0)


def test_rows_count_by_direction_alone():
    rows = table()
    one, other = process(rows), process(rows * torch.linspace(0.01, 30, V, dtype=torch.float64)[:, None])
    torch.testing.assert_close(one.embed(texts()), other.embed(texts()))


def test_the_nearest_token_is_the_nearest_by_distance():
    x = torch.randn(40, E, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    tokens, distance = process().nearest(x)
    apart = torch.cdist(x, process().rows())
    assert torch.equal(tokens, apart.argmin(dim=1))
    torch.testing.assert_close(distance, apart.min(dim=1).values / E**0.5)


@pytest.mark.parametrize("name", LATENT_SCHEDULES)
def test_noise_starts_at_the_tokens_and_ends_at_nothing(name: str):
    p = process(schedule=LATENT_SCHEDULES[name]())
    clean = p.noise(texts(), torch.zeros(B), rng())
    torch.testing.assert_close(clean, p.embed(texts()))
    lost = p.noise(texts(), torch.ones(B), rng()), p.noise(texts(2), torch.ones(B), rng())
    torch.testing.assert_close(*lost, atol=0.08, rtol=0)  # the linear schedule keeps alpha(1) = 0.6 %


def test_noise_has_the_moments_of_its_equation():
    p, t = process(), torch.full((4000,), 0.4)
    y = torch.full((4000, 1), 3)
    x = p.noise(y, t, rng(4000))[:, 0]
    alpha, sigma = float(p.gaussian.schedule.alpha(t[0].double())), float(p.gaussian.schedule.sigma(t[0].double()))
    torch.testing.assert_close(x.mean(dim=0), alpha * p.rows()[3], atol=5 * sigma / 4000**0.5, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), sigma**2 * torch.eye(E, dtype=torch.float64), atol=0.06, rtol=0)


def test_a_row_is_noised_alike_however_far_it_is_padded_and_whatever_stands_beside_it():
    p, y, t = process(), texts(), torch.linspace(0.1, 0.9, B)
    whole = p.noise(y, t, rng())
    assert torch.equal(p.noise(y[:, :4], t, rng()), whole[:, :4])
    assert torch.equal(p.noise(y[2:3], t[2:3], Rng(7, 3, torch.tensor([2]))), whole[2:3])
    assert torch.equal(p.prior((B, 4), rng()), p.prior((B, N), rng())[:, :4])


def test_padding_is_left_clean_and_not_scored():
    p, y, t = process(), texts(), torch.full((B,), 0.7)
    seen = torch.arange(N) < torch.tensor([9, 1, 4, 7, 2])[:, None]
    x = p.noise(y, t, rng(), seen)
    assert torch.equal(x[~seen], p.embed(y)[~seen])
    assert torch.equal(p.masked(x, seen), seen)
    prediction = p.embed(y)[seen] + 1.0
    torch.testing.assert_close(p.loss(prediction, y, x, t, seen), seen.sum(dim=1).double())


def test_epsilon_weighs_an_error_as_the_noise_it_implies_up_to_its_limit():
    p, y, t = process(weighting="epsilon"), texts(), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    x_t = p.noise(y, t, rng())
    x0_hat = p.embed(y) + torch.randn(B, N, E, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise_error = (p.gaussian.noise_in(x_t, x0_hat, t) - p.gaussian.noise_in(x_t, p.embed(y), t)).square().mean(dim=2).sum(dim=1)
    x0_error = (x0_hat - p.embed(y)).square().mean(dim=2).sum(dim=1)
    found = p.loss(x0_hat.flatten(0, 1), y, x_t, t)
    limited = noise_error > MOST_SNR * x0_error
    assert 0 < int(limited.sum()) < B
    # times and weights are float32
    torch.testing.assert_close(found, torch.where(limited, MOST_SNR * x0_error, noise_error), rtol=1e-4, atol=0)


def test_the_best_prediction_costs_the_posterior_variance_and_nothing_costs_less():
    """x0_hat = E[e | x_t] = sum p e: its expected error is 1 - |x0_hat|^2 / E, since every |e|^2 is E."""
    p, t = process(), torch.tensor([0.55])
    prior = torch.softmax(torch.randn(V, generator=torch.Generator().manual_seed(8), dtype=torch.float64), dim=0)
    alpha, sigma = p.gaussian.schedule.alpha(t.double()), p.gaussian.schedule.sigma(t.double())
    for step in range(5):
        x_t = p.noise(torch.tensor([[step]]), t, Rng(0, step, torch.arange(1)))[0]
        law = torch.softmax(prior.log() - (x_t - alpha * p.rows()).square().sum(dim=1) / (2 * sigma**2), dim=0)
        mean = law @ p.rows()
        every = torch.arange(V)[:, None]

        def expected(x0_hat: torch.Tensor, law: torch.Tensor = law, every: torch.Tensor = every) -> torch.Tensor:
            return law @ p.loss(x0_hat.expand(V, E), every, p.embed(every), t.expand(V))

        torch.testing.assert_close(expected(mean), 1 - mean.square().mean())
        moved = [mean + 0.05 * torch.randn(E, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(20)]
        assert all(expected(x) > expected(mean) for x in moved)


def test_the_target_is_held_still_and_the_noised_text_is_not():
    """No gradient asks tokens to become easy to predict by becoming equal; what they are told apart by has one."""
    rows = table().requires_grad_()
    p, t = process(rows), torch.full((B,), 0.5)
    x_t = p.noise(texts(), t, rng())
    given = torch.randn(B * N, E, dtype=torch.float64)
    assert not p.loss(given, texts(), x_t, t).requires_grad
    loss = p.loss((0.5 * x_t).flatten(0, 1), texts(), x_t, t).sum()
    (gradient,) = torch.autograd.grad(loss, rows)
    seen = torch.zeros(V, dtype=torch.bool).index_fill(0, texts().unique(), True)
    assert bool((gradient[seen].abs().sum(dim=1) > 0).all())
    assert not gradient[~seen].any()
    # the radial part is gone: a row can turn and not shrink
    assert float((gradient * rows.detach()).sum(dim=1).abs().max()) < 1e-9 * float(gradient.abs().max())


def test_crowding_tells_spread_directions_from_one():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(300, 64, generator=generator)
    assert abs(EmbeddingDiffusion(300, lambda: spread).crowding()) < 0.01
    one = torch.ones(300, 64) + 0.01 * spread
    assert EmbeddingDiffusion(300, lambda: one).crowding() > 0.99
    torch.testing.assert_close(on_sphere(one).square().sum(dim=1), torch.full((300,), 64.0))


def test_a_step_to_zero_is_the_estimate():
    p, t = process(), torch.full((B,), 0.8)
    x_t, x0 = p.noise(texts(), t, rng()), p.embed(texts(4))
    for eta in (0.0, 1.0):
        torch.testing.assert_close(p.step(x_t, x0, t, torch.zeros(B), rng(), eta), x0)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="uniform, epsilon"):
        process(weighting="elbo")
