"""q(z | y): the divergence in closed form, draws that have its moments, and encoders that read real tokens only."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.posterior import POOLS, Posterior, TextLatentEncoder, kl_by_dimension, kl_divergence, reparameterize
from lgdlm.rng import Rng

H, SIZE = 32, 6


def gaussians(rows: int = 5, size: int = 7) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.randn(rows, size, generator=g, dtype=torch.float64) * 2 for _ in range(4)]


def test_the_divergence_is_the_closed_form() -> None:
    mu_q, logvar_q, mu_p, logvar_p = gaussians()
    by_library = reference(Normal(mu_q, (logvar_q / 2).exp()), Normal(mu_p, (logvar_p / 2).exp()))
    torch.testing.assert_close(kl_by_dimension(mu_q, logvar_q, mu_p, logvar_p), by_library)
    torch.testing.assert_close(kl_divergence(mu_q, logvar_q, mu_p, logvar_p), by_library.sum(dim=1).mean())


def test_the_divergence_is_never_negative_and_0_only_at_equality() -> None:
    mu, logvar, *_ = gaussians(200, 50)
    near = kl_by_dimension(mu.float(), logvar.float(), mu.float(), (logvar + 1e-4).float())
    assert (near >= 0).all(), "also where float32 has few digits left"
    assert (kl_by_dimension(mu, logvar, mu, logvar) == 0).all()
    assert (kl_by_dimension(mu, logvar, mu + 0.1, logvar) > 0).all()
    assert (kl_by_dimension(mu, logvar, mu, logvar + 0.1) > 0).all()


def test_draws_have_the_posterior_s_moments_and_their_rows_randomness() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.0, -3.0, 2.0]])
    rows = 40_000
    q = Posterior(mean.expand(rows, 1, -1), log_variance.expand(rows, 1, -1))
    z = q.draw(Rng(0, 1, torch.arange(rows)))[:, 0]
    torch.testing.assert_close(z.mean(dim=0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(dim=0), log_variance[0].exp(), rtol=0.05, atol=0)
    some = Posterior(q.mean[5:9], q.log_variance[5:9]).draw(Rng(0, 1, torch.arange(5, 9)))
    torch.testing.assert_close(some[:, 0], z[5:9])


def test_reparameterisation_is_differentiable_in_both() -> None:
    mu, logvar, noise, _ = gaussians()
    inputs = mu.requires_grad_(), logvar.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: reparameterize(m, v, noise), inputs)
    assert reparameterize(mu, logvar).shape == mu.shape


@pytest.fixture(params=POOLS)
def encoder(request: pytest.FixtureRequest) -> TextLatentEncoder:
    torch.manual_seed(1)
    encoder = TextLatentEncoder(H, SIZE, kind=request.param)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return encoder.eval()


def test_padding_is_not_read(encoder: TextLatentEncoder) -> None:
    states = torch.randn(4, 9, H)
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None]
    one = encoder(states, mask)
    other = encoder(torch.where(mask[..., None], states, 100.0), mask)
    alone = [encoder(states[i : i + 1, : int(mask[i].sum())]) for i in range(4)]
    for k in range(2):
        assert one[k].shape == (4, SIZE)
        torch.testing.assert_close(one[k], other[k])
        torch.testing.assert_close(one[k], torch.cat([a[k] for a in alone]), atol=1e-5, rtol=1e-4)


def test_padding_may_stand_anywhere(encoder: TextLatentEncoder) -> None:
    states = torch.randn(1, 6, H)
    holes = torch.tensor([[False, True, True, False, True, False]])
    torch.testing.assert_close(encoder(states, holes)[0], encoder(states[:, holes[0]])[0], atol=1e-5, rtol=1e-4)


def test_every_parameter_learns_and_the_text_moves_both_heads(encoder: TextLatentEncoder) -> None:
    mu, logvar = encoder(torch.randn(3, 5, H))
    assert mu.std(dim=0).min() > 1e-4
    assert logvar.std(dim=0).min() > 1e-4
    (mu.square().sum() + logvar.square().sum()).backward()
    # the first layer of an RWKV stack defines the value residual, and its decay of the last token is never read
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_half_precision_stops_at_the_encoder(encoder: TextLatentEncoder) -> None:
    states = torch.randn(3, 5, H)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(states)
    for found, expected in zip(half, encoder(states), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


def test_pooled_states_are_taken_as_they_are() -> None:
    encoder, states = TextLatentEncoder(H, SIZE), torch.randn(3, 5, H)
    torch.testing.assert_close(encoder(states.mean(dim=1))[0], encoder(states)[0])
    with pytest.raises(ValueError, match="rwkv_pool"):
        TextLatentEncoder(H, SIZE, kind="cnn")


def test_q_starts_narrower_than_the_prior_with_texts_apart() -> None:
    torch.manual_seed(0)
    for kind in POOLS:
        mu, logvar = TextLatentEncoder(64, 32, kind=kind)(torch.randn(200, 12, 64))
        assert (logvar < -1).all()
        assert mu.var(dim=0).min() > 0.02, kind


def test_a_model_reads_q_from_the_text_alone(stage2_model: TextLatentDiffusion) -> None:
    """Not from the rows beside it, not from chance, and not from a latent."""
    text = torch.randint(1, 30, (4, 8), generator=torch.Generator().manual_seed(0))
    seen = torch.arange(8) < torch.tensor([8, 5, 8, 3])[:, None]
    q, states = stage2_model.read(text, seen)
    assert q.mean.shape == (4, *stage2_model.latent_shape)
    assert states.shape[:2] == (4, 8)
    torch.manual_seed(7)
    one, _ = stage2_model.read(text[1:2, :5], seen[1:2, :5])
    torch.testing.assert_close(one.mean, q.mean[1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.log_variance, q.log_variance[1:2], atol=1e-5, rtol=1e-4)
