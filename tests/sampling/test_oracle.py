"""An oracle is followed home: by every order and sampler, in any number of steps, from every start."""

from __future__ import annotations

import pytest
import torch
from oracles_sampling import Lengths, Oracle, model_around

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES
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
)

VOCAB, ROWS, WIDTH = 300, 5, 9  # 300: not a multiple of a block of the draw
STEPS = [1, 2, 50]


def known(length: bool = True, **process):
    make = torch.Generator().manual_seed(0)
    sizes = torch.tensor([WIDTH, 1, 4, 7, 2])
    tokens = torch.randint(1, VOCAB, (ROWS, WIDTH), generator=make)
    tokens = torch.where(torch.arange(WIDTH) < sizes[:, None], tokens, 0)
    latents = torch.randn(ROWS, 2, 3, generator=make)
    denoiser = Oracle(VOCAB, tokens, latents, GaussianDiffusion(**process))
    head = Lengths(12, latents, sizes) if length else None
    return model_around(denoiser, head), tokens, latents * 2 + 0.5, sizes


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", REVEAL)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"guidance_scale": 2.0}, {"top_k": 3, "top_p": 0.9}, {"remask": 1.0}], ids=str
)
def test_latent_to_text(order, steps, options):
    model, tokens, latents, sizes = known()
    sample = sample_text_from_latent(model, latents, num_steps=steps, order=order, **options)
    assert (sample.lengths == sizes).all()
    assert (sample.tokens == tokens).all()
    torch.testing.assert_close(sample.latent, latents)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("predicts", ["v_param", "x0", "epsilon"])
@pytest.mark.parametrize("schedule", LATENT_SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_text_to_latent(sampler, schedule, predicts, steps, guidance_scale):
    model, tokens, latents, sizes = known(schedule=LATENT_SCHEDULES[schedule](), predicts=predicts)
    seen = torch.arange(WIDTH) < sizes[:, None]
    model.denoiser.latents = model.denoiser.latents[:1].expand(ROWS, 2, 3) if guidance_scale != 1 else model.denoiser.latents
    answer = model.unstandardise(model.denoiser.latents)
    found = sample_latent_from_text(model, tokens, seen, 3, num_steps=steps, sampler=sampler, guidance_scale=guidance_scale)
    tolerance = 2e-4 if predicts == "epsilon" else 2e-5  # float32, divided by an alpha of 0.01 at the start
    torch.testing.assert_close(found, answer, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("order", REVEAL)
def test_joint(order, sampler, steps):
    model, tokens, latents, sizes = known()
    sample = sample_joint(model, 3, num_steps=steps, order=order, sampler=sampler)
    assert (sample.lengths == sizes[0]).all()
    assert (sample.tokens == tokens[:1]).all()
    torch.testing.assert_close(sample.latent, latents[:1].expand(3, 2, 3), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", REVEAL)
def test_infill_and_edit(order, steps):
    model, tokens, latents, sizes = known()
    seen = torch.arange(WIDTH) < sizes[:, None]
    keep = torch.arange(WIDTH) % 2 == 0
    holes = torch.where(keep, tokens, 7)
    assert (infill(model, holes, keep.expand_as(tokens), latents, seen, num_steps=steps, order=order).tokens == tokens).all()
    other = torch.where(seen, torch.randint(0, VOCAB, tokens.shape), 0)
    assert (edit(model, other, 1.0, latents, seen, num_steps=steps, order=order).tokens == tokens).all()


def test_point_estimate_and_best_of_and_interpolation():
    model, tokens, latents, sizes = known()
    seen = torch.arange(WIDTH) < sizes[:, None]
    torch.testing.assert_close(predict_latent(model, tokens, seen), latents)
    torch.testing.assert_close(sample_latent_from_text(model, tokens, seen, num_steps=3, average=3), latents, rtol=2e-5, atol=2e-5)
    best = best_of(model, latents, candidates=2, num_steps=4)
    assert (best.tokens == tokens).all()
    torch.testing.assert_close(best.score, torch.ones(ROWS))
    path = interpolate(model, latents[0], latents[3], count=5, num_steps=4)
    assert (path.tokens[0] == tokens[0]).all()
    assert (path.tokens[-1, :7] == tokens[3, :7]).all()


def test_a_text_that_ends_with_eos_is_cut_there():
    model, tokens, latents, sizes = known(length=False)
    sample = sample_text_from_latent(model, latents, seq_len=WIDTH, num_steps=3)
    assert (sample.lengths == (sizes + 1).clamp_max(WIDTH)).all()  # the first EOS counts, where there is room for one
    assert (sample.tokens == tokens).all()
    assert sample.seen_mask.all()
