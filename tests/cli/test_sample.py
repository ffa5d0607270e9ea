"""`lgdlm sample` from outside: every mode, every way in, and errors that name the file."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lgdlm.cli.__main__ import main
from lgdlm.config import Config, TransformerModel
from lgdlm.data.projection import fit_projection
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.models.build import build_model
from lgdlm.sampling import SAMPLERS
from lgdlm.schema import to_yaml
from lgdlm.training.checkpoint import Snapshot, save_checkpoint
from lgdlm.training.weights import weights_of

DIM, WIDE = 4, 7


def checkpoint(folder: Path, length: str) -> Path:
    kind = TransformerModel(hidden_size=16, n_blocks=1, n_heads=2, max_seq_len=24, latent_dim=DIM, length=length)
    tokenizer = make_tokenizer("byte")
    mean, std = torch.full((DIM,), 0.2), torch.full((DIM,), 1.5)
    model = build_model(kind, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, latent_mean=mean, latent_std=std, seed=1)
    tokenizer.save(folder / "tokenizer")
    wide = np.random.default_rng(0).standard_normal((50, WIDE)).astype(np.float32)
    projection = fit_projection("pca", wide, DIM)
    projection.save(folder / "projection")
    weights, folders = weights_of(model), {name: folder / name for name in ("tokenizer", "projection")}
    averages = {name: p.detach() for name, p in model.named_parameters()}
    return save_checkpoint(folder, "step_00000001", Snapshot(1, weights, averages, {}, {}, to_yaml(Config(model=kind)), folders))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("predicted"), "predicted")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    (tmp_path / "z" / "sub").mkdir(parents=True)
    for name in ("a", "b c", "sub/ä"):
        np.save(tmp_path / "z" / f"{name}.npy", rng.standard_normal(DIM).astype(np.float16 if name == "a" else np.float32))
    np.save(tmp_path / "pair.npy", rng.standard_normal((2, DIM)))
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "text": "a small cat"}\n{"id": "b c", "text": "naïve"}\n', encoding="utf-8")
    return tmp_path


def lines(*words: str, capsys=None) -> list[dict]:
    steps = [] if any(word.startswith("num_steps=") for word in words) else ["num_steps=3"]
    assert main(["sample", *words, *steps, "--quiet"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refusal(*words: str, capsys) -> str:
    assert main(["sample", *words, "num_steps=3", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_a_canvas_wider_than_the_model_is_refused(tmp_path, here, capsys):
    run = checkpoint(tmp_path / "eos", "eos")
    assert "1 to 24 tokens" in refusal(str(run), "input=z", "seq_len=25", capsys=capsys)
    assert len(lines(str(run), "input=z", "seq_len=24", capsys=capsys)) == 3


def test_latents_become_texts_whatever_the_batch(trained, here, capsys):
    whole = lines(str(trained), "input=z", capsys=capsys)
    assert [line["id"] for line in whole] == ["a", "b c", "sub/ä"]
    assert all(set(line) == {"id", "text"} for line in whole)
    assert lines(str(trained), "input=z", "batch_size=1", capsys=capsys) == whole
    assert lines(str(trained), "input=z/b c.npy", capsys=capsys) == [whole[1]]
    assert lines(str(trained), "input=z", "seed=7", capsys=capsys) != whole
    best = lines(str(trained), "input=z", "best_of=3", "guidance_scale=2", "temperature=0.5", capsys=capsys)
    assert all(-1 <= line["score"] <= 1 for line in best)
    fixed = lines(str(trained), "input=pair.npy", "seq_len=5", "order=confidence", "top_p=0.9", capsys=capsys)
    assert [line["id"] for line in fixed] == ["pair-0", "pair-1"]


def test_texts_become_latents(trained, here, capsys, monkeypatch):
    whole = lines(str(trained), "mode=t2l", "prompts=texts.jsonl", capsys=capsys)
    assert [line["id"] for line in whole] == ["a", "b c"]
    assert np.array([line["latent"] for line in whole]).shape == (2, DIM)
    found = [
        lines(str(trained), "mode=t2l", "prompts=texts.jsonl", "num_steps=6", f"latent_sampler={name}", capsys=capsys)[0]["latent"]
        for name in SAMPLERS
    ]
    assert len({tuple(latent) for latent in found}) == len(SAMPLERS)
    points = lines(str(trained), "mode=t2l", "prompts=texts.jsonl", "average=0", capsys=capsys)
    alone = lines(str(trained), "mode=t2l", "prompts=texts.jsonl", "average=0", "batch_size=1", capsys=capsys)
    np.testing.assert_allclose([line["latent"] for line in alone], [line["latent"] for line in points], rtol=1e-4, atol=1e-5)
    assert lines(str(trained), "mode=t2l", "prompt=hello there", capsys=capsys)[0]["id"] == "prompt"
    given = io.TextIOWrapper(io.BytesIO((here / "texts.jsonl").read_bytes()))
    monkeypatch.setattr(sys, "stdin", given)
    piped = lines(str(trained), "mode=t2l", "prompts=-", capsys=capsys)
    assert piped == whole
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one text\r\n\r\nanother\n")))
    assert len(lines(str(trained), "mode=t2l", "prompts=-", capsys=capsys)) == 2


def test_pairs_paths_holes_and_edits(trained, here, capsys):
    pairs = lines(str(trained), "mode=joint", "num_samples=5", "batch_size=2", capsys=capsys)
    other = lines(str(trained), "mode=joint", "num_samples=5", "batch_size=5", capsys=capsys)
    assert [line["text"] for line in pairs] == [line["text"] for line in other]
    np.testing.assert_allclose([line["latent"] for line in pairs], [line["latent"] for line in other], rtol=1e-4, atol=1e-5)
    assert [line["id"] for line in pairs] == ["0", "1", "2", "3", "4"]
    assert all(len(line["latent"]) == DIM for line in pairs)
    path = lines(str(trained), "mode=interpolate", "input=pair.npy", "num_samples=4", capsys=capsys)
    ends = np.load(here / "pair.npy")
    np.testing.assert_allclose([path[0]["latent"], path[-1]["latent"]], ends, rtol=1e-4, atol=1e-5)
    filled = [
        lines(str(trained), "mode=infill", "prompt=the [MASK:3] sat[MASK]", f"seed={seed}", *more, capsys=capsys)[0]["text"]
        for seed in (2, 3)  # untrained: another seed may draw an end of text into a hole
        for more in ([], ["input=z/a.npy"])
    ]
    assert all(text.startswith("the ") and " sat" in text[4:] for text in filled)
    assert len(set(filled)) >= 2
    same = lines(str(trained), "mode=edit", "prompts=texts.jsonl", "input=z", "share=0", capsys=capsys)
    assert [line["text"] for line in same] == ["a small cat", "naïve"]
    other = lines(str(trained), "mode=edit", "prompts=texts.jsonl", "input=z", "share=1", capsys=capsys)
    assert [line["text"] for line in other] != ["a small cat", "naïve"]


def test_a_model_that_ends_its_texts_has_room(here, tmp_path_factory, capsys):
    model = checkpoint(tmp_path_factory.mktemp("eos"), "eos")
    assert len(lines(str(model), "input=z", capsys=capsys)) == 3
    assert len(lines(str(model), "mode=t2l", "prompts=texts.jsonl", capsys=capsys)) == 2
    assert len(lines(str(model), "mode=joint", "num_samples=2", "seq_len=9", capsys=capsys)) == 2


def test_latents_of_the_encoder_are_projected_on_demand(trained, here, capsys):
    np.save(here / "wide.npy", np.ones(WIDE, np.float32))
    line = refusal(str(trained), "input=wide.npy", capsys=capsys)
    assert line.startswith("error: E_LATENT_DIM wide.npy latent: expected 4 dimensions, got 7;")
    assert "sampling.project=true" in line
    assert len(lines(str(trained), "input=wide.npy", "project=true", capsys=capsys)) == 1
    np.save(here / "odd.npy", np.ones(1024, np.float32))
    assert "lgdlm prepare" in refusal(str(trained), "input=odd.npy", capsys=capsys)


def test_a_file_appears_whole_or_not_at_all(trained, here, capsys):
    assert main(["sample", str(trained), "input=z", "out=deep/er/texts.jsonl", "num_steps=2", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    written = (here / "deep/er/texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in written] == ["a", "b c", "sub/ä"]
    before = sorted(here.rglob("*"))
    np.save(here / "z" / "bad.npy", np.array([1, 2, np.nan, 4], np.float32))
    refusal(str(trained), "input=z", "out=other.jsonl", capsys=capsys)
    assert sorted(here.rglob("*")) == sorted([*before, here / "z" / "bad.npy"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["input=nowhere.npy"], "E_MISSING_FILE nowhere.npy"),
        ([], "sampling.input: mode=l2t needs latents"),
        (["mode=t2l"], "sampling.prompts: either"),
        (["mode=t2l", "prompt=a", "prompts=texts.jsonl"], "got both"),
        (["mode=t2l", "prompts=none.jsonl"], "E_MISSING_FILE none.jsonl"),
        (["mode=t2l", "prompts=texts.csv"], "E_UNKNOWN_FORMAT texts.csv"),
        (["mode=t2l", "prompts=cut.jsonl"], "E_BAD_JSON cut.jsonl:2"),
        (["mode=t2l", "prompt=a text that is far longer than it may be"], "E_TOO_LONG"),
        (["mode=infill", "prompt=no hole"], "E_NO_HOLE"),
        (["mode=edit", "prompts=texts.jsonl", "input=pair.npy"], "E_MISSING_LATENT pair.npy a:"),
        (["mode=interpolate", "input=z"], "two latents are expected, got 3"),
        (["mode=t2l", "prompt=a", "best_of=2"], "sampling.best_of"),
        (["mode=t2l", "prompt=a", "rounds=2"], "sampling.rounds"),
        (["input=text.npy"], "E_BAD_NPY text.npy"),
        (["input=object.npy"], "E_BAD_DTYPE object.npy"),
        (["input=nan.npy"], "E_NAN_LATENT nan.npy#1"),
        (["input=cube.npy"], "E_BAD_SHAPE cube.npy"),
        (["input=empty"], "holds no .npy file"),
        (["input=pair.npy", "seq_len=99"], "seq_len"),
    ],
)
def test_bad_input_is_one_line_that_names_it(trained, here, capsys, words, expected):
    (here / "texts.csv").write_text("a,b\n")
    (here / "cut.jsonl").write_text('{"text": "ok"}\n{"text": "cu')
    (here / "text.npy").write_text("not an array")
    (here / "empty").mkdir()
    np.save(here / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(here / "nan.npy", np.array([[0, 0, 0, 0], [0, np.inf, 0, 0]], np.float32))
    np.save(here / "cube.npy", np.zeros((2, 3, DIM), np.float32))
    line = refusal(str(trained), *words, capsys=capsys)
    assert expected in line
    assert len(line.encode()) <= 300


def test_a_checkpoint_is_needed(here, capsys):
    assert "sampling.checkpoint" in refusal("input=z", capsys=capsys)
    assert main(["sample", "nowhere", "input=z", "--quiet"]) == 3
