"""A sample is a function of (seed, row, condition): not of its neighbours, their order, or how often one asks."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import Function, Lengths, model_around

from lgdlm.errors import InputError
from lgdlm.sampling import (
    REVEAL,
    SAMPLERS,
    best_of,
    edit,
    infill,
    interpolate,
    predict_latent,
    sample_joint,
    sample_latent_from_text,
    sample_text_from_latent,
    slerp,
)

ROWS = 6


def world(length: bool = True):
    model = model_around(Function(), Lengths(9) if length else None)
    make = torch.Generator().manual_seed(4)
    tokens = torch.randint(1, 11, (ROWS, 7), generator=make)
    seen = torch.arange(7) < torch.tensor([7, 3, 1, 5, 7, 2])[:, None]
    return model, tokens, seen, torch.randn(ROWS, 3, generator=make)


def draws(model, tokens, seen, latent, rows, **options):
    """Every way of sampling, for some of the rows, as a list of (tokens, mask) and latents per row."""
    index = torch.as_tensor(rows)
    keep = (torch.arange(7) % 3 == 0).expand(len(rows), 7)
    here = tokens[index], seen[index]
    texts = [
        sample_text_from_latent(model, latent[index], num_steps=8, rows=index, **options),
        sample_text_from_latent(model, latent[index], num_steps=8, rows=index, guidance_scale=1.7, remask=0.6, top_p=0.9, **options),
        best_of(model, latent[index], 3, 2, num_steps=5, rows=index, **options),
        infill(model, here[0], keep, latent[index], here[1], num_steps=5, rows=index, **options),
        infill(model, here[0], keep, None, here[1], num_steps=5, rows=index, **options),
        edit(model, here[0], 0.6, latent[index], here[1], num_steps=5, rows=index, **options),
        sample_joint(model, len(rows), num_steps=7, rows=index, **options),
    ]
    latents = [sample_latent_from_text(model, *here, num_steps=4, rows=index, sampler=s, guidance_scale=1.4) for s in SAMPLERS]
    latents += [predict_latent(model, *here, rows=index), texts[-1].latent]
    words = [[row[keep].tolist() for row, keep in zip(t.tokens, t.attention_mask, strict=True)] for t in texts]
    return [[w[r] for w in words] for r in range(len(rows))], [[z[r] for z in latents] for r in range(len(rows))]


@pytest.mark.parametrize("order", REVEAL)
def test_a_row_is_drawn_alike_in_any_company(order):
    world_ = world()
    words, latents = draws(*world_, rows=list(range(ROWS)), order=order)
    again = draws(*world_, rows=list(range(ROWS)), order=order)
    assert words == again[0]
    for company in ([0], [1], [2], [3], [4], [5], [5, 3, 0], [4, 1, 2, 0, 5, 3]):
        other_words, other_latents = draws(*world_, rows=company, order=order)
        for place, row in enumerate(company):
            assert other_words[place] == words[row]
            for found, expected in zip(other_latents[place], latents[row], strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_another_seed_or_row_draws_something_else():
    model, tokens, seen, latent = world()
    same = latent[:1].expand(40, 3)
    texts = sample_text_from_latent(model, same, seq_len=9).tokens
    assert len({tuple(row.tolist()) for row in texts}) > 30
    assert not (sample_text_from_latent(model, same, seq_len=9, seed=1).tokens == texts).all()
    z = sample_latent_from_text(model, tokens[:1].expand(5, 7), num_steps=3, sampler="ddpm")
    assert len({float(v) for v in z[:, 0, 0]}) == 5


def test_the_model_is_left_in_the_mode_it_was_in():
    model, tokens, seen, latent = world()
    for training in (True, False):
        model.train(training)
        sample_text_from_latent(model, latent, num_steps=2)
        assert model.training == training
    assert not sample_latent_from_text(model, tokens, seen, num_steps=2).requires_grad


@pytest.mark.parametrize("order", REVEAL)
@pytest.mark.parametrize("remask", [0.0, 1.0])
def test_no_mask_is_ever_emitted_and_nothing_is_left_masked(order, remask):
    model, tokens, seen, latent = world()
    for steps in (1, 2, 3, 17):
        sample = sample_text_from_latent(model, latent, num_steps=steps, order=order, remask=remask)
        assert (sample.tokens < model.mask_id).all()
        assert (sample.tokens >= 0).all()


def test_infilling_and_editing_keep_what_they_were_given():
    model, tokens, seen, latent = world()
    keep = torch.rand(ROWS, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    for options in ({}, {"remask": 1.0}, {"order": "confidence"}, {"guidance_scale": 3.0}):
        sample = infill(model, tokens, keep, latent, seen, num_steps=6, **options)
        assert (sample.tokens == tokens)[keep & seen].all()
        assert (sample.attention_mask == seen).all()
        assert not (sample.tokens == tokens)[~keep & seen].all()
    whole = torch.ones_like(keep)
    calls = model.denoiser.calls
    assert (infill(model, tokens, whole, latent, seen).tokens == tokens)[seen].all()
    assert (edit(model, tokens, 0.0, latent, seen).tokens == tokens)[seen].all()
    assert model.denoiser.calls == calls, "nothing to draw, nothing to ask"
    kept = [float((edit(model, tokens, share, latent, seen, seed=3).tokens == tokens)[seen].double().mean()) for share in (0.1, 0.5, 1.0)]
    assert kept[0] > kept[1] > kept[2]


def test_lengths_are_drawn_and_a_caller_may_fix_them():
    model, _, _, latent = world()
    many = latent[:1].expand(3000, 3)
    drawn = sample_text_from_latent(model, many, num_steps=1).lengths
    law = model.length(model.standardise(many[:1]), torch.zeros(1)).softmax(1)[0]
    counts = torch.bincount(drawn - 1, minlength=9)
    assert (counts / 3000 - law).abs().max() < 0.04
    assert (sample_text_from_latent(model, many[:20], num_steps=1, temperature=0.0).lengths == int(law.argmax()) + 1).all()
    assert sample_text_from_latent(model, latent, seq_len=4).tokens.shape == (ROWS, 4)
    assert sample_text_from_latent(model, latent, length=torch.arange(1, 7)).lengths.tolist() == [1, 2, 3, 4, 5, 6]
    assert sample_joint(model, 500, num_steps=1).lengths.unique().numel() == 9  # p(n) at pure noise is flat here


def test_interpolation_meets_its_ends_and_keeps_the_norm():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    arc = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(arc[0], a)
    torch.testing.assert_close(arc[-1], b)
    torch.testing.assert_close(arc.norm(dim=1), torch.linspace(3, 1, 5))
    torch.testing.assert_close(arc[2] / arc[2].norm(), torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))
    torch.testing.assert_close(slerp(a, 2 * a, torch.tensor([0.5]))[0], 1.5 * a)
    with pytest.raises(InputError, match="opposite"):
        slerp(a, -2 * a, torch.tensor([0.5]))
    model, _, _, latent = world()
    path = interpolate(model, latent[0], latent[1], count=4, num_steps=3, seq_len=6)
    torch.testing.assert_close(path.latent[[0, -1], 0], latent[:2])
    same = interpolate(model, latent[0], latent[0], count=4, num_steps=3)
    assert (same.tokens == same.tokens[:1]).all(), "only the latent differs along the path"


@pytest.mark.parametrize(
    ("code", "field", "call"),
    [
        ("LATENT_DIM", "latent", lambda m, t, s, z: sample_text_from_latent(m, torch.zeros(2, 1024))),
        ("NAN_LATENT", "latent", lambda m, t, s, z: sample_text_from_latent(m, z * torch.nan)),
        ("LATENT_DIM", "latent_dim", lambda m, t, s, z: sample_latent_from_text(m, t, latent_dim=32)),
        ("LATENT_DIM", "latent_dim", lambda m, t, s, z: sample_joint(m, 2, latent_dim=32)),
        ("EMPTY_TEXT", "input_ids", lambda m, t, s, z: sample_latent_from_text(m, t, s & False)),
        ("ARGUMENT", "input_ids", lambda m, t, s, z: sample_latent_from_text(m, t + 11)),
        ("ARGUMENT", "input_ids", lambda m, t, s, z: infill(m, t + 11, t > 0)),
        ("ARGUMENT", "seq_len", lambda m, t, s, z: sample_text_from_latent(m, z, seq_len=10)),
        ("ARGUMENT", "seq_len", lambda m, t, s, z: sample_text_from_latent(m, z, seq_len=3, length=3)),
        ("ARGUMENT", "seq_len", lambda m, t, s, z: sample_text_from_latent(world(length=False)[0], z)),
        ("ARGUMENT", "num_steps", lambda m, t, s, z: sample_text_from_latent(m, z, num_steps=0)),
        ("ARGUMENT", "order", lambda m, t, s, z: sample_text_from_latent(m, z, order="random")),
        ("ARGUMENT", "sampler", lambda m, t, s, z: sample_latent_from_text(m, t, sampler="euler")),
        ("ARGUMENT", "guidance_scale", lambda m, t, s, z: sample_joint(m, 1, guidance_scale=-1.0)),
        ("ARGUMENT", "remask", lambda m, t, s, z: sample_joint(m, 1, remask=2.0)),
        ("ARGUMENT", "share", lambda m, t, s, z: edit(m, t, 1.1, z)),
        ("ARGUMENT", "rows", lambda m, t, s, z: sample_text_from_latent(m, z, rows=[1, 2])),
        ("ARGUMENT", "keep_mask", lambda m, t, s, z: infill(m, t, s[:, :3])),
        ("ARGUMENT", "latent", lambda m, t, s, z: infill(m, t, s, z[:2])),
        ("ARGUMENT", "average", lambda m, t, s, z: sample_latent_from_text(m, t, average=0)),
        ("ARGUMENT", "candidates", lambda m, t, s, z: best_of(m, z, 0)),
        ("ARGUMENT", "rounds", lambda m, t, s, z: best_of(m, z, 1, -1)),
        ("ARGUMENT", "count", lambda m, t, s, z: interpolate(m, z[0], z[1], 1)),
    ],
)
def test_wrong_requests_are_refused_by_name(code, field, call):
    with pytest.raises(InputError) as refusal:
        call(*world())
    assert (refusal.value.code, refusal.value.field) == (code, field)


def test_no_row_is_longer_than_the_denoiser_can_read():
    """Where EOS ends the texts no length head bounds the canvas: the denoiser's own room does."""
    model, tokens, seen, latent = world(length=False)
    assert sample_text_from_latent(model, latent, seq_len=30, num_steps=1).tokens.shape == (ROWS, 30)
    model.denoiser.max_length = 9
    assert sample_text_from_latent(model, latent, seq_len=9, num_steps=1).tokens.shape == (ROWS, 9)
    for field, call in (
        ("seq_len", lambda: sample_text_from_latent(model, latent, seq_len=10)),
        ("seq_len", lambda: sample_joint(model, 2, seq_len=10)),
        ("input_ids", lambda: predict_latent(model, tokens.repeat(1, 2))),
    ):
        with pytest.raises(InputError, match="9 tokens") as refusal:
            call()
        assert refusal.value.field == field


@pytest.mark.parametrize("length", [True, False], ids=["predicted", "eos"])
def test_best_of_keeps_the_candidate_nearest_by_the_model_s_own_estimate(length):
    """A known text has a known end: the estimate is shown the text and its EOS, never the filling behind it."""
    model, _, _, latent = world(length)
    options = {"num_steps": 4, "seed": 2, "seq_len": None if length else 20}
    best = best_of(model, latent, 5, **options)
    candidates = [sample_text_from_latent(model, latent, draw=draw, **options) for draw in range(5)]
    assert length or any(bool(one.fill_mask.any()) for one in candidates)
    scores = []
    for one in candidates:
        predicted = predict_latent(model, one.tokens, one.attention_mask, seed=2)
        scores.append(torch.cosine_similarity(predicted.flatten(1), latent, dim=1))
    top = torch.stack(scores).max(dim=0)
    torch.testing.assert_close(best.score, top.values)
    assert len(set(top.indices.tolist())) > 1, "not always the same candidate"
    for row, which in enumerate(top.indices.tolist()):
        winner = candidates[which]
        assert best.tokens[row][best.attention_mask[row]].tolist() == winner.tokens[row][winner.attention_mask[row]].tolist()


@pytest.mark.parametrize("length", [True, False], ids=["predicted", "eos"])
def test_rounds_of_edits_never_lose_and_sometimes_win(length):
    model, _, _, latent = world(length)
    options = {"num_steps": 4, "seed": 2, "seq_len": None if length else 9}
    start, moved = best_of(model, latent, 2, **options), best_of(model, latent, 2, rounds=6, **options)
    assert bool((moved.score >= start.score).all())
    assert bool((moved.score > start.score).any())
    predicted = predict_latent(model, moved.tokens, moved.attention_mask, seed=2)
    torch.testing.assert_close(moved.score, torch.cosine_similarity(predicted.flatten(1), latent, dim=1))
    if length:
        assert moved.lengths.tolist() == start.lengths.tolist(), "an edit keeps its text's canvas"
