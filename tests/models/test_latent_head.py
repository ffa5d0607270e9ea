"""From states to the latent, and from the latent to the length: real positions only, and no layer that cannot learn."""

from __future__ import annotations

import math

import pytest
import torch

from lgdlm.models.latent_head import SOURCES, LatentHead, masked_mean
from lgdlm.models.length import LengthHead

H, D = 16, 5


def lengths_mask(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_the_mean_knows_only_real_positions():
    """Trap: mean pooling over PAD."""
    states, lengths = torch.randn(3, 6, H), [1, 4, 6]
    mean = masked_mean(states, lengths_mask(lengths, 6))
    for k, n in enumerate(lengths):
        torch.testing.assert_close(mean[k], states[k, :n].mean(dim=0))
    assert (mean[0] - states[0].mean(dim=0)).abs().max() > 0.1


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("latent_len", [1, 3])
def test_padding_changes_nothing(source, latent_len):
    torch.manual_seed(0)
    head = LatentHead(H, latent_len, D, source)
    text, prefix, lengths = torch.randn(3, 6, H), torch.randn(3, latent_len, H), [2, 3, 6]
    out = head(text, prefix, lengths_mask(lengths, 6))
    assert out.shape == (3, latent_len, D)
    for k, n in enumerate(lengths):
        alone = head(text[k : k + 1, :n], prefix[k : k + 1], torch.ones(1, n, dtype=torch.bool))
        torch.testing.assert_close(out[k : k + 1], alone, rtol=1e-5, atol=1e-5)
    junk = torch.where(lengths_mask(lengths, 6)[..., None], text, 1e4)
    torch.testing.assert_close(head(junk, prefix, lengths_mask(lengths, 6)), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("source", "from_text", "from_prefix"), [("text", True, False), ("prefix", False, True), ("both", True, True)])
def test_a_source_is_what_its_name_says(source, from_text, from_prefix):
    torch.manual_seed(0)
    head = LatentHead(H, 2, D, source)
    text, prefix = torch.randn(2, 4, H, requires_grad=True), torch.randn(2, 2, H, requires_grad=True)
    head(text, prefix, torch.ones(2, 4, dtype=torch.bool)).square().sum().backward()
    assert (text.grad is not None and bool(text.grad.any())) == from_text
    assert (prefix.grad is not None and bool(prefix.grad.any())) == from_prefix


@pytest.mark.parametrize("source", SOURCES)
def test_every_parameter_learns_from_the_first_step(source):
    """Trap: a zero matrix behind zero gates."""
    torch.manual_seed(0)
    head = LatentHead(H, 2, D, source)
    head(torch.randn(2, 4, H), torch.randn(2, 2, H), torch.ones(2, 4, dtype=torch.bool)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_magnitude_is_not_normalised_away():
    torch.manual_seed(0)
    head = LatentHead(H, 1, D, "text")
    states, mask = torch.randn(50, 4, H), torch.ones(50, 4, dtype=torch.bool)
    norms = head(states, states[:, :1], mask).detach().flatten(1).norm(dim=1)
    assert float(norms.std()) > 0.01 * float(norms.mean())


def test_unknown_source_is_refused_with_the_list():
    with pytest.raises(ValueError, match="text, prefix, both"):
        LatentHead(H, 1, D, "mean")


# ---------------------------------------------------------------- length


def test_length_logits_and_loss_are_one_distribution():
    torch.manual_seed(0)
    head, latent, t = LengthHead(2, D, max_length=9), torch.randn(4, 2, D), torch.tensor([0.0, 0.3, 0.9, 1.0])
    log_p = head(latent, t).log_softmax(-1)
    assert log_p.shape == (4, 9)
    total = sum(float((-head.loss(latent, t, torch.full((4,), n))).detach().exp().sum()) for n in range(1, 10))
    assert total == pytest.approx(4, abs=1e-5), "lengths 1 .. max are all there is"
    lengths = torch.tensor([1, 5, 9, 2])
    torch.testing.assert_close(head.loss(latent, t, lengths), -log_p[torch.arange(4), lengths - 1])


def test_a_new_length_head_costs_about_log_max_length():
    torch.manual_seed(0)
    head = LengthHead(1, D, max_length=40)
    loss = head.loss(torch.randn(100, 1, D), torch.rand(100), torch.randint(1, 41, (100,)))
    assert float(loss.detach().mean()) == pytest.approx(math.log(40), abs=0.2)


def test_length_reads_the_latent_and_its_clock():
    torch.manual_seed(0)
    head, latent = LengthHead(1, D, max_length=9), torch.randn(2, 1, D)
    here = head(latent, torch.tensor([0.2, 0.2]))
    assert (here - head(latent, torch.tensor([0.8, 0.8]))).abs().max() > 1e-4
    assert (here - head(latent + 1, torch.tensor([0.2, 0.2]))).abs().max() > 1e-4


@pytest.mark.parametrize("length", [0, 10])
def test_impossible_lengths_are_not_scored(length):
    with pytest.raises((AssertionError, IndexError)):
        LengthHead(1, D, max_length=9).loss(torch.randn(1, 1, D), torch.zeros(1), torch.tensor([length]))
