"""The whole evaluation on a small world: what it writes, what it must not depend on, and what it says when it cannot."""

import json
import math

import numpy as np
import pytest
import torch
from evaluation_world import BagEncoder, Words, project, tiny_model, world

from lgdlm.data.collate import Frame
from lgdlm.data.paired import PairedDataset
from lgdlm.data.synthetic import MemorySplit
from lgdlm.errors import InputError
from lgdlm.evaluation import METRICS, evaluate
from lgdlm.evaluation.documents import held_out, keys_of, read_documents
from lgdlm.evaluation.generation import Writing, read_latents, trace_texts, write_pairs, write_texts
from lgdlm.evaluation.likelihood import text_nelbo
from lgdlm.evaluation.ngram import width_nats
from lgdlm.sampling import sample_text_from_latent

QUICK = {"num_steps": 4, "bootstrap": 50, "likelihood_draws": 4, "latent_steps": 3, "joint_samples": 6}


@pytest.fixture(scope="module")
def small():
    train, validation = world(train=80, validation=24)
    return train, validation, tiny_model(train)


def measured(small, encoder=None, projection=None, **options):
    train, validation, model = small
    return evaluate(model, Words(), train, validation, encoder, projection, **{"num_samples": 12, **QUICK, **options})


@pytest.fixture(scope="module")
def full(small):
    return measured(small, BagEncoder(), project)


def test_every_number_is_a_metric_within_its_interval_beside_its_baselines(full):
    pytest.importorskip("sacrebleu")
    names = [entry["name"] for entry in full.numbers]
    apart = {name for name, metric in METRICS.items() if metric.group in ("judge", "retention", "stage2", "embedding")}  # of other models
    assert set(METRICS) - set(names) == apart
    assert names == sorted(names, key=list(METRICS).index)
    for entry in full.numbers:
        metric = METRICS[entry["name"]]
        assert (entry["better"], entry["label"], entry["unit"]) == (metric.better, metric.label, metric.unit)
        assert math.isfinite(entry["value"])
        assert (entry["low"] is not None) == metric.resampled
        assert entry["low"] is None or entry["low"] <= entry["value"] <= entry["high"]
        assert entry["baselines"] or entry["name"] == "nelbo_latent_gain"


def test_the_file_is_one_strict_json_object_that_says_what_was_done(full, tmp_path):
    full.write(tmp_path / "deep" / "results.json")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    read = json.loads((tmp_path / "deep" / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert next(iter(read)) == "schema"
    assert set(read) == {"schema", "model", "data", "seed", "settings", "numbers", "samples", "trajectory", "latent_map", "not_run"}
    assert read["settings"]["num_steps"] == 4
    assert read["data"]["evaluated"] == 12
    assert read["not_run"] == [{"what": "judge perplexity", "reason": "no judge was given"}]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]


def test_samples_trajectory_and_map_are_there_to_be_drawn(full):
    assert {name: len(rows) for name, rows in full.samples.items()} == {"l2t": 12, "t2l": 12, "joint": 6}
    assert set(full.samples["l2t"][0]["cosines"]) == {"encoder", "projected", "nearest_encoder", "nearest_projected"}
    for trace in full.trajectory:
        clocks = [step["clock"] for step in trace["steps"]]
        assert clocks == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert all(trace["steps"][0]["masked"])
        assert not any(trace["steps"][-1]["masked"])
        for before, after in zip(trace["steps"], trace["steps"][1:], strict=False):
            kept = [(a, b) for a, b, hidden in zip(before["tokens"], after["tokens"], before["masked"], strict=True) if not hidden]
            assert all(a == b for a, b in kept), "what is revealed stays"
    kinds = [point["kind"] for point in full.latent_map["points"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"validation": 24, "t2l": 12, "l2t": 12, "joint": 6}
    assert 0 < sum(full.latent_map["explained"]) <= 1


def test_the_same_seed_gives_the_same_file_and_the_order_of_the_data_does_not_matter(small, full):
    train, validation, model = small
    assert measured(small, BagEncoder(), project).to_dict() == full.to_dict()
    order = np.random.default_rng(1).permutation(len(validation))
    texts, ids = validation.texts, validation.ids
    store = MemorySplit(
        [ids[i] for i in order], [texts[i] for i in order], [validation.tokens(i) for i in order], validation.latents(order)[:, 0]
    )
    moved = PairedDataset(store, validation.manifest, "validation")
    again = evaluate(model, Words(), train, moved, BagEncoder(), project, num_samples=12, **QUICK)
    assert [(n["name"], n["value"]) for n in again.numbers] == [(n["name"], pytest.approx(n["value"], abs=1e-9)) for n in full.numbers]
    assert again.samples == full.samples
    assert measured(small, BagEncoder(), project, seed=7).samples != full.samples


def test_without_an_encoder_the_rest_is_measured_and_the_reason_is_written(small, full):
    found = measured(small, absent={"encoder": "package x is not installed"})
    assert {"what": "meaning of generated texts (cosines, retrieval)", "reason": "package x is not installed"} in found.not_run
    gone = {entry["name"] for entry in full.numbers} - {entry["name"] for entry in found.numbers}
    assert gone == {name for name in METRICS if name.startswith(("l2t_cosine", "l2t_r1", "l2t_rank", "joint_cosine"))}
    same = {entry["name"]: entry["value"] for entry in full.numbers}
    assert all(entry["value"] == same[entry["name"]] for entry in found.numbers)
    assert found.samples["l2t"][0]["cosines"] == {}


def test_a_strange_encoder_is_not_compared_in_the_latents_space(small):
    found = measured(small, BagEncoder(seed=5), project)
    assert any("do not give the stored latents" in entry["reason"] for entry in found.not_run)
    names = {entry["name"] for entry in found.numbers}
    assert "l2t_cosine_encoder" in names
    assert "l2t_cosine_projected" not in names


def test_a_model_that_ends_texts_with_eos_is_measured_too(small):
    train, validation, _ = small
    model = tiny_model(train, length="eos")
    frame = Frame(eos_id=0, multiple=4, max_length=16)
    found = evaluate(model, Words(), train, validation, BagEncoder(), project, num_samples=8, frame=frame, **QUICK)
    assert found.model["length"] == "eos"
    assert not any(entry["name"].startswith("length_nats") for entry in found.numbers)
    # an untrained model pays about log V for every token and for the EOS
    tokens = found.data["tokens"]
    chosen = read_documents(validation, held_out(validation.texts, 8, 42), 0)
    row = width_nats(train.lengths, chosen.lengths, frame)
    assert row.min() > 0, "its width tells something"
    nats = text_nelbo(model, chosen, draws=4, seed=42, frame=frame).nats + row
    assert found.number("nelbo_given_latent")["value"] == pytest.approx(nats.sum() / tokens, rel=1e-9)
    assert found.number("nelbo_given_latent")["value"] == pytest.approx(math.log(32) * (tokens + 8) / tokens, rel=0.2)


def test_one_text_is_measured_as_far_as_it_goes(small):
    found = measured(small, num_samples=1, bootstrap=0)
    assert {"what": "NELBO given another text's z", "reason": "it needs at least two texts"} in found.not_run
    assert found.number("nelbo_given_latent")["low"] is None


def test_generated_texts_do_not_depend_on_their_company(small):
    train, validation, model = small
    documents = read_documents(validation, np.arange(10))
    keys, writing = keys_of(documents), Writing(num_steps=3, guidance_scale=2.0)
    whole = write_texts(model, Words(), documents.latents, keys, writing)
    part = write_texts(model, Words(), documents.latents[3:5], keys[3:5], writing)
    assert whole.texts[3:5] == part.texts
    latents = torch.from_numpy(documents.latents)
    direct = sample_text_from_latent(model, latents, num_steps=3, guidance_scale=2.0, rows=torch.from_numpy(keys))
    assert direct.texts(Words()) == whole.texts
    traces = trace_texts(model, Words(), documents.latents, keys, writing)
    final = [[int(word[1:]) for word in trace[-1]["tokens"]] for trace in traces]
    assert [ids.tolist() for ids in whole.tokens] == final


def test_joint_samples_and_texts_do_not_depend_on_the_batch(small, monkeypatch):
    train, validation, model = small
    documents = read_documents(validation, np.arange(6))
    keys, writing = keys_of(documents), Writing(num_steps=3)
    texts, (pairs, latents) = write_texts(model, Words(), documents.latents, keys, writing), write_pairs(model, Words(), 5, writing)
    monkeypatch.setattr("lgdlm.evaluation.generation.BATCH_TOKENS", 33)
    assert write_texts(model, Words(), documents.latents, keys, writing).texts == texts.texts
    again, moved = write_pairs(model, Words(), 5, writing)
    assert again.texts == pairs.texts
    np.testing.assert_allclose(moved, latents, atol=1e-5)


def test_generated_latents_do_not_depend_on_their_company(small):
    _, validation, model = small
    documents = read_documents(validation, np.arange(10))
    keys = keys_of(documents)
    for options in ({}, {"num_steps": 3}, {"num_steps": 2, "average": 2}):
        whole = read_latents(model, documents.tokens, keys, **options)
        part = read_latents(model, documents.tokens[7:9], keys[7:9], **options)
        np.testing.assert_allclose(whole[7:9], part, atol=1e-5)


def test_the_choice_of_texts_is_by_content():
    texts = [f"text {i}" for i in range(50)]
    few, more = held_out(texts, 5, seed=1), held_out(texts, 20, seed=1)
    assert list(more[:5]) == list(few)
    assert {texts[i] for i in few} == {texts[::-1][i] for i in held_out(texts[::-1], 5, seed=1)}
    assert set(held_out(texts, 5, seed=2)) != set(few)
    assert len(held_out(["a", "a", "b"], 10, seed=0)) == 2


def test_data_without_latents_and_a_zero_latent_are_refused_by_name(small):
    _, validation, _ = small
    bare = PairedDataset(validation.store, validation.manifest, "validation", with_latents=False)
    with pytest.raises(InputError, match="NO_LATENTS"):
        read_documents(bare, np.arange(2))
    zero = PairedDataset(MemorySplit(["x"], ["t"], [np.array([1])], np.zeros((1, 4), np.float32)), validation.manifest, "validation")
    with pytest.raises(InputError, match=r"ZERO_LATENT.*x"):
        read_documents(zero, np.arange(1))
