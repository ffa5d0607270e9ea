"""Embedded text on its way back: an exact posterior is followed home, a law is sampled, and what is given stays given."""

from __future__ import annotations

import itertools

import pytest
import torch
from oracles_embedding import ExactRows, embedded_model
from oracles_sampling import chi_square_bound

from lgdlm.diffusion.embedding import on_sphere
from lgdlm.errors import InputError
from lgdlm.rng import Rng
from lgdlm.sampling import SAMPLERS, Steering, edit, infill, reverse, sample_joint, sample_latent_from_text, sample_text_from_latent
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.rounding import ROUNDINGS

STEPS = [1, 2, 50]


def raw(vocab: int, width: int) -> torch.Tensor:
    return torch.randn(vocab, width, generator=torch.Generator().manual_seed(0))


def known(by_latent: bool = True):
    """Six texts of five tokens over 20; the latent's number names the text."""
    rows = raw(20, 12)
    texts = torch.randint(1, 20, (6, 5), generator=torch.Generator().manual_seed(1))
    net = ExactRows(texts, torch.zeros(6), on_sphere(rows), by_latent)
    return embedded_model(net, rows), texts


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_an_oracle_is_followed_home_from_pure_noise(steps: int, sampler: str, rounding: str):
    model, texts = known()
    z = torch.arange(6.0)[:, None]
    found = sample_text_from_latent(model, z, 5, steps, temperature=0.0, text_sampler=sampler, rounding=rounding)
    assert torch.equal(found.tokens, texts)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("start", [0.2, 0.5])
def test_the_posterior_mean_leads_a_noised_text_home(steps: int, rounding: str, start: float):
    """With independent tokens, whose posterior at these clocks is all but sure; the latent says nothing."""
    vocab, width, rows_ = 12, 24, 8
    rows = raw(vocab, width)
    every = torch.arange(vocab)[:, None]
    net = ExactRows(every, torch.zeros(vocab), on_sphere(rows))
    model = embedded_model(net, rows)
    y = torch.randint(0, vocab, (rows_, 1), generator=torch.Generator().manual_seed(2))
    rng = Rng(3, 0, torch.arange(rows_))
    t = torch.full((rows_,), start)
    noised = model.text_process.noise(y, t, rng)
    paths = descend(steps, rows_, start), hold(steps, rows_)
    tokens, _ = reverse(
        model, noised, torch.zeros(rows_, 1, 1), torch.ones_like(y, dtype=torch.bool), *paths, rng, Steering(rounding=rounding)
    )
    assert torch.equal(tokens, y)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_law_of_the_texts_is_sampled(sampler: str):
    """From noise alone and with dependent tokens: only a process whose steps are right ends with these frequencies."""
    count = 1500
    texts = 1 + torch.tensor(list(itertools.product(range(3), repeat=2)))  # 0 would end a text
    p = torch.tensor([0.25, 0.02, 0.03, 0.02, 0.30, 0.03, 0.05, 0.05, 0.25])
    rows = raw(4, 4)
    model = embedded_model(ExactRows(texts, p.log(), on_sphere(rows)), rows)
    found = sample_text_from_latent(model, torch.zeros(count, 1), 2, 40, text_sampler=sampler, seed=5).tokens
    observed = torch.bincount(3 * (found[:, 0] - 1) + found[:, 1] - 1, minlength=9)
    chi_square = float(((observed - count * p).square() / (count * p)).sum())
    assert chi_square < chi_square_bound(9)


def test_one_step_from_noise_forgets_how_tokens_depend_on_each_other():
    """The control of the test above: one step draws each token from its own marginal."""
    texts = torch.tensor([[1, 1], [2, 2]])
    rows = raw(3, 4)
    model = embedded_model(ExactRows(texts, torch.zeros(2), on_sphere(rows)), rows)
    one = sample_text_from_latent(model, torch.zeros(400, 1), 2, 1).tokens
    many = sample_text_from_latent(model, torch.zeros(400, 1), 2, 30).tokens
    assert 100 < int((one[:, 0] != one[:, 1]).sum()) < 300
    assert int((many[:, 0] != many[:, 1]).sum()) <= 4


@pytest.mark.parametrize("steps", STEPS)
def test_what_is_given_stays_and_says_what_is_missing(steps: int):
    """The given tokens, noised as far as the clock, tell the oracle which text it is."""
    model, texts = known(by_latent=False)
    keep = torch.tensor([True, False, True, True, False]).expand_as(texts)
    found = infill(model, torch.where(keep, texts, 0), keep, num_steps=steps, temperature=0.0).tokens
    assert torch.equal(found[keep], texts[keep])
    if steps == 50:
        assert torch.equal(found, texts)
    whole = infill(model, texts, torch.ones_like(keep), num_steps=steps).tokens
    assert torch.equal(whole, texts)


def test_an_edit_of_nothing_is_nothing_and_one_of_all_is_another_text():
    model, texts = known()
    z = torch.arange(6.0)[:, None]
    assert torch.equal(edit(model, texts, 0.0, z, num_steps=4).tokens, texts)
    assert torch.equal(edit(model, texts, 1.0, z.flip(0), num_steps=8).tokens, texts.flip(0))


def test_a_sample_depends_on_its_own_row_alone():
    model, _ = known(by_latent=False)
    options = {"num_steps": 6, "temperature": 1.0, "text_sampler": "ddpm", "seed": 4}
    sizes = torch.tensor([2, 5, 1, 4])
    whole = sample_text_from_latent(model, torch.zeros(4, 1), length=sizes, rows=[8, 2, 5, 9], **options)
    for i, row in enumerate([8, 2, 5, 9]):
        alone = sample_text_from_latent(model, torch.zeros(1, 1), length=sizes[i : i + 1], rows=[row], **options)
        assert torch.equal(alone.tokens[0], whole.tokens[i, : int(sizes[i])])


def test_a_callback_sees_tokens_and_changes_nothing():
    model, texts = known()
    moments: list = []
    plain = sample_joint(model, 4, 5, num_steps=5, seed=3)
    shown = sample_joint(model, 4, 5, num_steps=5, seed=3, callback=moments.append)
    assert torch.equal(plain.tokens, shown.tokens)
    assert len(moments) == 6
    assert all(bool((moment.text < 20).all()) and bool((moment.text_estimate <= 20).all()) for moment in moments)
    assert torch.equal(moments[-1].text, shown.tokens)


def test_logits_are_asked_for_behind_the_last_step_alone():
    model, _ = known()
    sample_text_from_latent(model, torch.zeros(2, 1), 5, 4)
    assert [int(q.logits_at.sum()) for q in model.denoiser.questions] == [0, 0, 0, 10]


def test_a_known_text_is_shown_as_its_own_rows():
    model, texts = known()
    sample_latent_from_text(model, texts, num_steps=2)
    for question in model.denoiser.questions:
        torch.testing.assert_close(question.text, model.text_process.embed(texts))


def test_guidance_moves_rows_as_it_moves_logits():
    """w = 0 leaves the unconditional answer: another text than w = 1 finds."""
    model, texts = known()
    z = torch.arange(6.0)[:, None]
    guided = sample_text_from_latent(model, z, 5, 20, guidance_scale=1.5, temperature=0.0).tokens
    free = sample_text_from_latent(model, z, 5, 20, guidance_scale=0.0, temperature=0.0).tokens
    assert torch.equal(guided, texts)
    assert not torch.equal(free, texts)
    assert all(bool((text == texts).all(dim=1).any()) for text in free), "and yet it is a text of the law"


@pytest.mark.parametrize("steering", [{"order": "confidence"}, {"remask": 0.5}])
def test_what_only_masks_have_is_refused(steering: dict):
    model, _ = known()
    with pytest.raises(InputError, match="embedding diffusion"):
        sample_text_from_latent(model, torch.zeros(1, 1), 5, 2, **steering)


@pytest.mark.parametrize("steering", [{"rounding": "nearest"}, {"text_sampler": "ddpm"}])
def test_what_only_rows_have_is_refused(joint_model, steering: dict):
    with pytest.raises(InputError, match="masks its texts"):
        sample_text_from_latent(joint_model, torch.zeros(1, 4), 5, 2, **steering)


@pytest.mark.parametrize("steering", [{"rounding": "none"}, {"text_sampler": "euler"}])
def test_unknown_words_are_refused(steering: dict):
    with pytest.raises(InputError, match="is not one of"):
        Steering(**steering)
