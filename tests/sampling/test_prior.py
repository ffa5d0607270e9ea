"""Texts from the prior and latents from the posterior: the right distribution, the row's own randomness, clear refusals."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import ExactGaussian

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.errors import InputError
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.length import LengthHead
from lgdlm.models.posterior import TextLatentEncoder
from lgdlm.models.prior import LatentPrior, build_prior
from lgdlm.sampling import read_posterior, sample_latent_from_prior, sample_text_from_latent, sample_text_from_prior

MEAN, STD, VOCAB = 0.7, 0.4, 2
UNITS = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])


def model(kind: str) -> TextLatentDiffusion:
    denoiser = ExactGaussian(MEAN, STD, 2, GaussianDiffusion())
    torch.manual_seed(0)
    posterior, length = TextLatentEncoder(4, 2), LengthHead(1, 2, 6)
    prior = build_prior(kind, 2)
    if kind == "learned_gaussian":
        assert isinstance(prior, LatentPrior)
        with torch.no_grad():
            prior.mean.fill_(MEAN)
            prior.log_variance.fill_(2 * torch.tensor(STD).log().item())
    process = denoiser.process
    return TextLatentDiffusion(denoiser, MaskedDiffusion(VOCAB), process, length, *UNITS, 0, posterior=posterior, prior=prior)


@pytest.mark.parametrize("kind", ["fixed_gaussian", "learned_gaussian", "diffusion"])
def test_latents_have_the_prior_s_distribution_in_the_encoder_s_units(kind: str) -> None:
    mean, std = (0.0, 1.0) if kind == "fixed_gaussian" else (MEAN, STD)
    z = sample_latent_from_prior(model(kind), 4000, num_steps=60, sampler="ddpm")
    assert z.shape == (4000, 1, 2)
    for d in range(2):
        offset, scale = float(UNITS[0][d]), float(UNITS[1][d])
        assert float(z[:, 0, d].mean()) == pytest.approx(offset + scale * mean, abs=0.08 * scale)
        assert float(z[:, 0, d].std()) == pytest.approx(scale * std, rel=0.08)


def test_the_diffusion_is_asked_with_no_text_in_sight() -> None:
    """One mask in every question: neither a token nor a length can leak into p(z)."""
    one = model("diffusion")
    sample_latent_from_prior(one, 3, num_steps=5)
    questions = one.denoiser.questions
    assert len(questions) == 5
    assert all(q.text.tolist() == [[VOCAB]] * 3 and bool((q.t_text == 1).all()) for q in questions)
    assert one.denoiser.logits_computed == 0


@pytest.mark.parametrize("kind", ["fixed_gaussian", "learned_gaussian", "diffusion"])
def test_a_row_s_draw_is_its_own(kind: str) -> None:
    one = model(kind)
    many = sample_text_from_prior(one, 6, num_steps=4, seed=3)
    some = sample_text_from_prior(one, 2, num_steps=4, seed=3, rows=[4, 1])
    torch.testing.assert_close(some.latent, many.latent[[4, 1]])
    width = some.tokens.shape[1]
    assert torch.equal(some.tokens[some.attention_mask], many.tokens[[4, 1], :width][some.attention_mask])
    other = sample_text_from_prior(one, 6, num_steps=4, seed=4)
    assert not torch.equal(other.latent, many.latent)


def test_the_text_is_that_of_its_latent() -> None:
    one = model("fixed_gaussian")
    found = sample_text_from_prior(one, 5, num_steps=4, temperature=0.5)
    again = sample_text_from_latent(one, found.latent, num_steps=4, temperature=0.5)
    assert torch.equal(found.tokens, again.tokens)


def test_a_model_of_stage_1_has_neither(joint_model: TextLatentDiffusion) -> None:
    with pytest.raises(InputError, match="NO_PRIOR.*stage2_variational"):
        sample_text_from_prior(joint_model, 2)
    with pytest.raises(InputError, match="NO_POSTERIOR.*t2l"):
        read_posterior(joint_model, torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(InputError, match="batch_size"):
        sample_latent_from_prior(model("fixed_gaussian"), 0)


def test_texts_are_read_as_the_model_reads_them(stage2_model: TextLatentDiffusion) -> None:
    text = torch.randint(1, 30, (3, 6), generator=torch.Generator().manual_seed(0))
    seen = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    stage2_model.train()
    q = read_posterior(stage2_model, text, seen)
    assert stage2_model.training, "the mode is left as it was"
    assert not q.mean.requires_grad
    torch.testing.assert_close(q.mean, stage2_model.eval().read(text, seen)[0].mean)
    with pytest.raises(InputError, match="EMPTY_TEXT"):
        read_posterior(stage2_model, text, torch.zeros_like(seen))
