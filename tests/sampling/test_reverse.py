"""What the loop asks of the network, and what it shows."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import Function, Lengths, Oracle, model_around

from lgdlm.errors import InputError
from lgdlm.models.denoiser import NoisyPair
from lgdlm.sampling import REVEAL, Moment, edit, infill, sample_joint, sample_latent_from_text, sample_text_from_latent

TOKENS = 6


def world(rows: int = 4):
    model = model_around(Function(), Lengths(9))
    return model, torch.randn(rows, 3, generator=torch.Generator().manual_seed(2))


def test_steps_that_reveal_nothing_ask_nothing():
    model, latent = world()
    sample_text_from_latent(model, latent, seq_len=TOKENS, num_steps=400)
    asked = model.denoiser
    assert asked.logits_computed == 4 * TOKENS, "each position's logits are computed once, when it is revealed"
    assert asked.calls <= 4 * TOKENS < 400
    assert all(bool(q.logits_at.any(dim=1).all()) for q in asked.questions), "rows that reveal nothing stay at home"


@pytest.mark.parametrize("order", ["confidence", "entropy"])
def test_certainty_orders_reveal_evenly_and_in_time(order):
    for steps in (1, 3, 6, 40):
        model, latent = world(1)
        moments: list[Moment] = []
        sample_text_from_latent(model, latent, seq_len=TOKENS, num_steps=steps, order=order, callback=moments.append)
        left = [int((m.text == model.mask_id).sum()) for m in moments]
        assert left == [round(TOKENS * (1 - i / steps)) for i in range(steps + 1)]
        quiet, _ = world(1)
        sample_text_from_latent(quiet, latent, seq_len=TOKENS, num_steps=steps, order=order)
        assert quiet.denoiser.calls == min(steps, TOKENS)


def test_the_clocks_told_are_those_of_the_path():
    model, latent = world()
    sample_text_from_latent(model, latent, seq_len=TOKENS, num_steps=8, order="confidence")
    assert all((q.t_latent == 0).all() for q in model.denoiser.questions)
    times = [float(q.t_text[0]) for q in model.denoiser.questions]
    assert times[0] == 1.0
    assert times == sorted(times, reverse=True)
    model, _ = world()
    sample_latent_from_text(model, torch.ones(2, 5), num_steps=4)
    assert [float(q.t_latent[0]) for q in model.denoiser.questions] == [1.0, 0.75, 0.5, 0.25]
    assert all((q.t_text == 0).all() and not q.logits_at.any() for q in model.denoiser.questions)
    model, _ = world()
    sample_joint(model, 2, num_steps=4, seq_len=3)
    assert [(float(q.t_text[0]), float(q.t_latent[0])) for q in model.denoiser.questions] == [(t, t) for t in (1.0, 0.75, 0.5, 0.25)]


def test_guidance_one_is_plain_and_costs_one_branch():
    plain, latent = world()
    guided, _ = world()
    options = {"seq_len": TOKENS, "num_steps": 10}
    one = sample_text_from_latent(plain, latent, **options)
    also = sample_text_from_latent(guided, latent, guidance_scale=1.0, **options)
    assert (one.tokens == also.tokens).all()
    assert guided.denoiser.logits_computed == 4 * TOKENS
    # a weight near 1 goes through both branches and ends near: the formula is continuous there
    near, _ = world()
    assert (sample_text_from_latent(near, latent, guidance_scale=1 + 1e-9, **options).tokens == one.tokens).all()
    assert near.denoiser.logits_computed == 2 * 4 * TOKENS
    z = sample_latent_from_text(plain, torch.ones(2, 5), num_steps=5)
    torch.testing.assert_close(sample_latent_from_text(plain, torch.ones(2, 5), num_steps=5, guidance_scale=1 + 1e-7), z)


def test_guidance_is_the_formula_on_one_step():
    """One step, temperature 0: the tokens are the argmax of uncond + w (cond - uncond), the latent is the same sum of clean latents."""
    model, latent = world(50)
    w = 3.0
    sample = sample_text_from_latent(model, latent, seq_len=TOKENS, num_steps=1, temperature=0.0, guidance_scale=w)
    question = model.denoiser.questions[0]
    assert question.size == 100
    assert (question.t_latent[:50] == 0).all()
    assert (question.t_latent[50:] == 1).all()
    logits, _ = model.denoiser.answer(question)
    assert (sample.tokens == (logits[50:] + w * (logits[:50] - logits[50:])).argmax(dim=2)).all()
    assert not (sample.tokens == logits[:50].argmax(dim=2)).all(), "guidance changes something here"

    model, _ = world()
    words = torch.randint(0, 11, (5, 4), generator=torch.Generator().manual_seed(0))
    z = model.standardise(sample_latent_from_text(model, words, num_steps=1, guidance_scale=w))
    question = model.denoiser.questions[0]
    assert (question.text[5:] == model.mask_id).all()
    assert (question.t_text == torch.tensor([0.0] * 5 + [1.0] * 5)).all()
    _, x0 = model.denoiser.answer(question)
    torch.testing.assert_close(z.double(), x0[5:] + w * (x0[:5] - x0[5:]), rtol=1e-4, atol=1e-4)


def test_guidance_pushes_the_joint_process_from_both_sides():
    model, _ = world()
    sample_joint(model, 2, num_steps=3, seq_len=3, guidance_scale=2.0)
    sizes = [q.size for q in model.denoiser.questions]
    assert sizes[0] == 2, "at t = 1 nothing is known that could guide"
    assert max(sizes[1:]) == 6
    for q in model.denoiser.questions[1:]:
        assert not q.logits_at[-2:].any(), "the branch without text answers for the latent only"


@pytest.mark.parametrize("order", REVEAL)
def test_callbacks_see_every_step_and_change_nothing(order):
    model, latent = world()
    moments: list[Moment] = []
    options = {"seq_len": TOKENS, "num_steps": 5, "order": order, "remask": 0.3}
    watched = sample_text_from_latent(model, latent, callback=moments.append, **options)
    assert (watched.tokens == sample_text_from_latent(model, latent, **options).tokens).all()
    assert [m.step for m in moments] == [0, 1, 2, 3, 4, 5]
    assert [float(m.t_text[0]) for m in moments] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert (moments[0].text == model.mask_id).all()
    assert (moments[-1].text == watched.tokens).all()
    for moment in moments[1:]:
        assert (moment.text_estimate < model.mask_id).all(), "the estimate is a whole text"
        visible = moment.text != model.mask_id
        assert (moment.text == moment.text_estimate)[visible].all()
        assert moment.latent_estimate is None
        torch.testing.assert_close(moment.latent[:, 0], latent)


def test_callbacks_show_latents_in_the_encoder_s_units():
    make = torch.Generator().manual_seed(0)
    tokens, z = torch.randint(1, 9, (1, 4), generator=make), torch.randn(1, 1, 3, generator=make)
    model = model_around(Oracle(9, tokens, z))
    moments: list[Moment] = []
    sample_latent_from_text(model, tokens, num_steps=3, callback=moments.append)
    for moment in moments[1:]:
        torch.testing.assert_close(moment.latent_estimate, z * 2 + 0.5, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments[-1].latent, z * 2 + 0.5, rtol=1e-4, atol=1e-4)


def test_remasking_hides_tokens_again_and_still_ends_clean():
    model, latent = world(40)
    moments: list[Moment] = []
    sample = sample_text_from_latent(model, latent, seq_len=TOKENS, num_steps=12, remask=1.0, callback=moments.append)
    states = torch.stack([m.text == model.mask_id for m in moments])
    assert (~states[:-1] & states[1:]).any(), "some token was masked again"
    assert not states[-1].any()
    assert (sample.tokens < model.mask_id).all()
    shares = states.double().mean(dim=(1, 2))
    clock = torch.tensor([float(m.t_text[0]) for m in moments], dtype=torch.float64)
    assert (shares - clock).abs().max() < 0.12, "the share of masks follows the clock: x_s keeps its marginal"


def test_a_text_clock_starts_where_the_share_of_masks_says():
    model, latent = world()
    tokens = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(6) >= torch.tensor([0, 1, 3, 6])[:, None]
    seen = torch.arange(6) < torch.tensor([6, 4, 6, 6])[:, None]
    infill(model, tokens, keep, latent, seen, num_steps=1)
    (question,) = model.denoiser.questions
    assert question.t_text.tolist() == pytest.approx([0.25, 0.5, 1.0])  # rows 1, 2, 3: the first has nothing to fill
    model, _ = world()
    edit(model, tokens, 0.75, latent, seen, num_steps=1)
    (question,) = model.denoiser.questions
    assert (question.t_text == 0.75).all()


@pytest.mark.parametrize("broken", ["logits", "latent"])
def test_a_network_that_answers_nan_is_refused(broken):
    model, latent = world()
    logits, x0 = model.denoiser.answer(
        NoisyPair(torch.zeros(1, 1).long(), torch.ones(1), latent[:1, None], torch.ones(1), torch.ones(1, 1).bool())
    )
    bad = (logits * torch.nan, x0) if broken == "logits" else (logits, x0 * torch.nan)
    model.denoiser.answer = lambda pair: tuple(x.expand(pair.size, *x.shape[1:]) for x in bad)
    with pytest.raises(InputError, match="NAN_LOGITS" if broken == "logits" else "NAN_LATENT"):
        sample_joint(model, 2, seq_len=1, num_steps=2)
