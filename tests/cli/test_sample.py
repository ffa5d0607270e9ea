"""`lgdlm sample` from outside: every mode, every way in, and errors that name the file."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lgdlm.cli.__main__ import main
from lgdlm.config import Config, Data, TransformerModel
from lgdlm.data.manifest import Manifest
from lgdlm.data.projection import fit_projection
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.models.build import build_model
from lgdlm.sampling import SAMPLERS
from lgdlm.schema import to_yaml
from lgdlm.training.checkpoint import Snapshot, save_checkpoint
from lgdlm.training.restore import restore
from lgdlm.training.weights import weights_of

DIM, WIDE = 4, 7


def checkpoint(folder: Path, length: str, wide: int = WIDE, data: str = "") -> Path:
    kind = TransformerModel(hidden_size=16, n_blocks=1, n_heads=2, max_seq_len=24, latent_dim=DIM, length=length)
    tokenizer = make_tokenizer("byte")
    mean, std = torch.full((DIM,), 0.2), torch.full((DIM,), 1.5)
    model = build_model(kind, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, latent_mean=mean, latent_std=std, seed=1)
    tokenizer.save(folder / "tokenizer")
    projection = fit_projection("pca", np.random.default_rng(0).standard_normal((50, wide)).astype(np.float32), DIM)
    projection.save(folder / "projection")
    weights, folders = weights_of(model), {name: folder / name for name in ("tokenizer", "projection")}
    averages = {name: p.detach() for name, p in model.named_parameters()}
    config = to_yaml(Config(model=kind, data=Data(latent_dir=data)))
    return save_checkpoint(folder, "step_00000001", Snapshot(1, weights, averages, {}, {}, config, folders))


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
    line = refusal(str(trained), "input=odd.npy", capsys=capsys)
    assert "give the model's own 4" in line
    assert "encoder's 7 with sampling.project=true" in line


def test_where_the_width_does_not_say_whose_latents_they_are_the_user_does(tmp_path, here, capsys):
    """A PCA that keeps the width turns the space: latents of before it are none of the model's."""
    run = checkpoint(tmp_path / "square", "predicted", wide=DIM)
    assert "project=true (the encoder's) or project=false (the model's own)" in refusal(str(run), "input=z", capsys=capsys)
    own, projected = (lines(str(run), "input=z", f"project={said}", "temperature=0", capsys=capsys) for said in ("false", "true"))
    assert len(own) == len(projected) == 3
    write = lines(str(run), "mode=t2l", "prompts=texts.jsonl", capsys=capsys)
    (here / "z.jsonl").write_text("".join(json.dumps(line) + "\n" for line in write))
    assert len(lines(str(run), "input=z.jsonl", capsys=capsys)) == 2, "lines are the model's own"


def test_what_t2l_writes_l2t_reads(trained, here, capsys):
    written = lines(str(trained), "mode=t2l", "prompts=texts.jsonl", capsys=capsys)
    (here / "z.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written), encoding="utf-8")
    (here / "same").mkdir()
    for line in written:
        np.save(here / "same" / f"{line['id']}.npy", np.array(line["latent"], np.float32))
    texts = lines(str(trained), "input=z.jsonl", capsys=capsys)
    assert texts == lines(str(trained), "input=same", capsys=capsys)
    assert [line["id"] for line in texts] == ["a", "b c"]
    assert len(lines(str(trained), "mode=interpolate", "input=z.jsonl", "num_samples=3", capsys=capsys)) == 3
    assert len(lines(str(trained), "mode=edit", "prompts=texts.jsonl", "input=z.jsonl", capsys=capsys)) == 2


def test_texts_become_latents_by_the_encoder_of_the_training_data(here, capsys, monkeypatch):
    """l2t of prompts is l2t of the latents that this encoder and projection make of them."""

    class Known:
        def encode(self, texts):
            return np.array([[len(t), ord(t[0]), ord(t[-1]), 1, 2, 3, 4 + i] for i, t in enumerate(texts)], np.float32)

    (here / "data").mkdir()
    run = checkpoint(here / "run", "predicted", data="data")
    restored = restore(run)
    manifest = Manifest(
        layout="packed", vocab_size=256, tokenizer=restored.tokenizer.identity(), counts={},
        encoder={"name": "known"}, projection=restored.projection.identity(), latent_dim=DIM,
    )  # fmt: skip
    monkeypatch.setattr("lgdlm.cli.sampling_inputs.has_manifest", lambda folder: folder == Path("data"))
    monkeypatch.setattr("lgdlm.cli.sampling_inputs.read_manifest", lambda folder: manifest)
    monkeypatch.setattr("lgdlm.data.encoder.load_encoder", lambda identity: Known())
    texts = lines(str(run), "prompts=texts.jsonl", capsys=capsys)
    wide = Known().encode(["a small cat", "na\u00efve"])
    for name, row in zip(("a", "b c"), wide, strict=True):
        np.save(here / "z" / f"{name}.npy", row)
    (here / "z/sub/\u00e4.npy").unlink()
    assert lines(str(run), "input=z", "project=true", capsys=capsys) == texts
    assert "got both" in refusal(str(run), "input=z", "prompt=a", capsys=capsys)
    manifest = dataclasses.replace(manifest, encoder={"name": "given"})
    assert "no encoder is known" in refusal(str(run), "prompt=a", capsys=capsys)


def test_without_its_data_a_model_knows_no_encoder(trained, here, capsys):
    assert "sampling.prompts: the data that the model was trained on" in refusal(str(trained), "prompt=a", capsys=capsys)


def test_input_is_checked_before_a_model_is_loaded(trained, here, capsys, monkeypatch):
    def load(*words, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("lgdlm.cli.sample.restore", load)
    for words in ([], ["input=nowhere.npy"], ["mode=t2l"], ["mode=infill", "prompts=none.txt"], ["mode=edit", "prompt=a"]):
        refusal(str(trained), *words, capsys=capsys)


def test_a_damaged_checkpoint_is_passed_over_on_demand(trained, here, capsys):
    run = here / "run"
    shutil.copytree(trained, run / "step_00000001")
    shutil.copytree(trained, run / "step_00000002")
    (run / "step_00000002/model.safetensors").write_bytes(b"damage")
    (run / "latest").write_text("step_00000002")
    assert main(["sample", str(run), "input=z", "num_steps=2", "--quiet"]) == 3
    assert "(--fallback takes it)" in capsys.readouterr().err
    assert len(lines(str(run), "input=z", "--fallback", capsys=capsys)) == 3
    assert main(["check", str(run / "latest"), "--quiet"]) == 3
    assert "step_00000001: step 1" in capsys.readouterr().out, "RUN/latest is the run"


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
        (["mode=edit", "prompt=a", "input=pair.npy"], "E_MISSING_LATENT pair.npy prompt:"),
        (["input=words.jsonl"], "E_BAD_DTYPE words.jsonl:1"),
        (["input=short.jsonl"], "E_LATENT_DIM short.jsonl:2 latent: "),
        (["input=twice.jsonl"], "E_DUPLICATE_ID twice.jsonl:2"),
        (["mode=foo"], "'foo' is not one of l2t, t2l, joint, infill, edit, interpolate, prior, encode"),
        (["mode=t2l", "prompt=a", "best_of=2"], "sampling.best_of"),
        (["mode=t2l", "prompt=a", "rounds=2"], "sampling.rounds"),
        (["input=text.npy"], "E_BAD_NPY text.npy"),
        (["input=object.npy"], "E_BAD_DTYPE object.npy"),
        (["input=nan.npy"], "E_NAN_LATENT nan.npy#1"),
        (["input=cube.npy"], "E_BAD_SHAPE cube.npy"),
        (["input=empty"], "holds no .npy file"),
        (["input=pair.npy", "seq_len=99"], "1 to 24 tokens are expected, got 99"),
    ],
)
def test_bad_input_is_one_line_that_names_it(trained, here, capsys, words, expected):
    (here / "texts.csv").write_text("a,b\n")
    (here / "cut.jsonl").write_text('{"text": "ok"}\n{"text": "cu')
    (here / "text.npy").write_text("not an array")
    (here / "empty").mkdir()
    np.save(here / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(here / "nan.npy", np.array([[0, 0, 0, 0], [0, np.inf, 0, 0]], np.float32))
    (here / "words.jsonl").write_text('{"id": "a", "latent": "1 2 3 4"}\n')
    (here / "short.jsonl").write_text('{"id": "a", "latent": [1, 2, 3, 4]}\n{"id": "b", "latent": [1, 2, 3]}\n')
    (here / "twice.jsonl").write_text('{"id": "a", "latent": [1, 2, 3, 4]}\n{"id": "a", "latent": [1, 2, 3, 4]}\n')
    np.save(here / "cube.npy", np.zeros((2, 3, DIM), np.float32))
    line = refusal(str(trained), *words, capsys=capsys)
    assert expected in line
    assert line.count("interpolate, prior") <= 1, "choices are listed once"
    assert len(line.encode()) <= 300


def test_a_checkpoint_is_needed(here, capsys):
    assert "sampling.checkpoint" in refusal("input=z", capsys=capsys)
    assert main(["sample", "nowhere", "input=z", "--quiet"]) == 3
