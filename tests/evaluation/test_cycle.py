"""The numbers of both cycles are those of their definitions, on a model whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_world import Words, tiny_model, world

from lgdlm.data.collate import Frame
from lgdlm.evaluation import evaluate
from lgdlm.evaluation.cycle import Cycles
from lgdlm.evaluation.documents import held_out, read_documents
from lgdlm.evaluation.generation import Texts, read_latents
from lgdlm.evaluation.likelihood import text_nelbo
from lgdlm.evaluation.metric import moment_distance

QUICK = {"num_samples": 10, "num_steps": 3, "bootstrap": 20, "likelihood_draws": 4, "latent_steps": 3, "joint_samples": 4}


@pytest.fixture(scope="module")
def small():
    train, validation = world(train=60, validation=20)
    return train, validation, tiny_model(train)


@pytest.fixture(scope="module")
def found(small):
    train, validation, model = small
    return evaluate(model, Words(), train, validation, **QUICK)


def test_the_text_cycle_is_the_nelbo_given_what_the_model_reads(small, found):
    train, validation, model = small
    documents = read_documents(validation, held_out(validation.texts, 10, 42))
    keys = Cycles(model, documents, found, None, 42, {}).keys
    for name, options in (("mean", {}), ("sample", {"num_steps": 3})):
        latents = read_latents(model, documents.tokens, keys, seed=42, **options)
        given = type(documents)(documents.ids, documents.texts, documents.tokens, latents)
        nats = text_nelbo(model, given, draws=4, seed=42).nats.sum() / documents.lengths.sum()
        assert found.number(f"cycle_text_nelbo_{name}")["value"] == pytest.approx(nats, rel=1e-6)
        assert "without z" in found.number(f"cycle_text_nelbo_{name}")["baselines"]


def test_the_latent_cycle_of_the_source_texts_is_the_one_step_error(found):
    entry = found.number("cycle_latent_mse")
    assert entry["baselines"]["read from the source text"] == pytest.approx(found.number("t2l_mse_one_step")["value"], rel=1e-6)
    assert entry["baselines"]["training mean"] == pytest.approx(found.number("t2l_mse_one_step")["baselines"]["training mean"])


def test_a_decoder_that_gives_the_source_back_closes_the_latent_cycle(small, found):
    """Texts as a sampler leaves them: the source itself makes the error that of T2L."""
    train, validation, model = small
    documents = read_documents(validation, held_out(validation.texts, 10, 42))

    class Kept:
        def __init__(self):
            self.entries = {}

        def add(self, name, statistics, bootstrap, baselines):
            self.entries[name] = statistics, baselines

    kept = Kept()
    cycles = Cycles(model, documents, kept, None, 42, {})
    cycles.latents(Texts(list(documents.texts), list(documents.tokens)), documents.latents)
    own, beside = kept.entries["cycle_latent_mse"]
    np.testing.assert_allclose(own, beside["read from the source text"], rtol=1e-6)
    assert moment_distance(kept.entries["t2l_moments_sample"][0].sum(axis=0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("full", [False, True])
def test_a_text_that_fills_its_canvas_is_read_as_it_is(small, full):
    """Where texts end with EOS a sampled one has its EOS already, or had no room for it."""
    train, _, _ = small
    model = tiny_model(train, length="eos")
    ids = np.arange(1, 17) if full else np.array([5, 6, 0])
    latent = read_latents(model, [ids], np.array([3]), sampled=True)
    if not full:
        np.testing.assert_allclose(latent, read_latents(model, [ids[:-1]], np.array([3])), rtol=1e-6)
    assert np.isfinite(latent).all()


def test_a_model_that_ends_texts_with_eos_has_its_cycles_measured(small):
    train, validation, _ = small
    model = tiny_model(train, length="eos")
    with torch.no_grad():
        model.denoiser.text_head.decode.bias[0] = -20.0  # hardly ever an end: canvases are filled
    found = evaluate(model, Words(), train, validation, frame=Frame(eos_id=0, multiple=4, max_length=16), **QUICK)
    assert {"cycle_text_nelbo_mean", "cycle_text_nelbo_sample", "cycle_latent_mse", "t2l_moments_sample"} <= {
        n["name"] for n in found.numbers
    }


def test_moments_are_compared_dimension_by_dimension():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 3))
    for a, expected in ((z + [0.5, 0, 0], (0.25 + 0.25**2 / 2) / 3), (z * [1, 2, 1], (3**2 / 2) / 3)):
        sums = np.concatenate([a - z, a**2 - z**2, np.ones((len(a), 1))], axis=1).sum(axis=0)
        assert moment_distance(sums) == pytest.approx(expected, rel=0.12)
