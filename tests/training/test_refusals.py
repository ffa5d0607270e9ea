"""What cannot work is refused before anything is written: one line that names the place, an exit code, and no run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import per_sample, read_list, write_latent, write_list, write_tokens
from training_world import data_folder, log_of, train

from lgdlm.training.restore import restore


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def refused(code: int, data: Path, out: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal that left nothing behind."""
    capsys.readouterr()
    assert train(data, out, *words) == code
    told = capsys.readouterr()
    assert not told.out
    lines = told.err.splitlines()
    assert len(lines) == 1, told.err
    assert lines[0].startswith("error: E_")
    assert len(lines[0].encode()) <= 300
    assert not out.exists(), "no run directory remains"
    return lines[0]


CONFIGURATIONS = {
    "unknown key": (("training.sede=1",), 2, "training.seed"),
    "unknown value": (("loss.loss_type=l2r",), 2, "loss.loss_type"),
    "wrong type": (("training.warmup_steps=many",), 2, "training.warmup_steps"),
    "out of bounds": (("model.dropout=1.5",), 2, "model.dropout"),
    "another width of latents": (("model.latent_dim=8",), 2, "latent_dim"),
    "several latents a text": (("model.latent_len=2",), 2, "model.latent_len"),
    "texts too long": (("model.max_seq_len=4",), 2, "model.max_seq_len"),
    "too few samples": (("training.train_batch_size=500",), 2, "training.train_batch_size"),
    "no end": (("training.num_train_steps=null",), 2, "training.num_train_steps"),
    "heads that do not fit": (("model.n_heads=3",), 2, "n_heads"),
    "epsilon at t = 1": (("model.latent_parameterization=epsilon", "loss.latent_t_mode=full", "loss.loss_type=t2l"), 2, "v_param"),
    "prefix before the text": (
        ("model=rwkv7", "model.head_size=8", "model.n_heads=0", "model.causality=causal", "model.latent_pred_from=prefix"),
        2, "latent_pred_from",
    ),
    "clean blocks": (
        ("model=rwkv7", "model.head_size=8", "model.n_heads=0", "model.block_context=clean"), 2, "causality=block_causal",
    ),
    "a cycle through all blocks at once": (
        ("model=rwkv7", "model.causality=block_causal", "model.block_context=clean", "loss.loss_type=cycle_vae"),
        2, "loss.cycle_latent_weight",
    ),
    "too few texts for a regression": (("model.latent_skip=linear", "data.max_samples=8"), 2, "model.latent_skip"),
    "an encoder that nobody used": (("model.token_init=encoder",), 2, "encoder"),
    "latents unread": (("data.use_external_latents=false",), 2, "data.use_external_latents"),
    "no shares": (("training.mode_weights={l2t: 0, t2l: 0, unconditional: 0}", "loss.loss_type=random"), 2, "mode_weights"),
    "another tokenizer": (("tokenizer.path=rwkv",), 2, "tokenizer"),
    "unknown tokenizer": (("tokenizer.path=bite",), 2, "bite"),
    "no such checkpoint to start from": (("model.checkpoint_path=nowhere",), 3, "nowhere"),
    "no such checkpoint to resume": (("training.resume=nowhere",), 3, "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configurations(case: str, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, code, named = CONFIGURATIONS[case]
    assert named in refused(code, packed, tmp_path / "out", words, capsys)


def test_epsilon_is_fine_where_t_is_random(packed: Path, tmp_path: Path) -> None:
    assert train(packed, tmp_path, "model.latent_parameterization=epsilon", "loss.loss_type=t2l", "training.num_train_steps=2") == 0


def change(folder: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(edit((folder / name).read_bytes()))


PACKED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "data.latent_dir"),
    "a shard is missing": (lambda f: (f / "train-00000.safetensors").unlink(), "train-00000"),
    "a shard is cut": (lambda f: change(f, "train-00000.safetensors", lambda data: data[:-1]), "train-00000"),
    "a shard has another bit": (
        lambda f: change(f, "validation-00000.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        "validation",
    ),
    "the manifest is cut": (lambda f: change(f, "manifest.json", lambda data: data[:99]), "manifest.json"),
    "the tokenizer is missing": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_data(case: str, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, named = PACKED[case]
    data = Path(shutil.copytree(packed, tmp_path / "data"))
    damage(data)
    assert named in refused(2, data, tmp_path / "out", (), capsys)


def empty_text(latents: Path, tokens: Path) -> None:
    entries = read_list(latents, "train")
    entries[3]["text"] = " "
    write_list(latents, "train", entries)


SAMPLES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a latent is missing": (lambda latents, tokens: (latents / "latents/train/train_003.npy").unlink(), "train_003"),
    "tokens are missing": (lambda latents, tokens: (tokens / "train/train_003.npz").unlink(), "train_003"),
    "tokens belong to nobody": (lambda latents, tokens: write_tokens(tokens / "train/extra.npz", [1, 2]), "extra"),
    "a latent belongs to nobody": (
        lambda latents, tokens: write_latent(latents / "latents/train/extra.npy", np.zeros(4, np.float32)),
        "extra",
    ),
    "a latent is NaN": (
        lambda latents, tokens: write_latent(latents / "latents/train/train_003.npy", np.full(4, np.nan, np.float32)),
        "train_003",
    ),
    "a latent is short": (
        lambda latents, tokens: write_latent(latents / "latents/train/train_003.npy", np.zeros(3, np.float32)),
        "train_003",
    ),
    "a text is empty": (empty_text, "EMPTY_TEXT"),
    "the list is cut": (lambda latents, tokens: change(latents, "train_data.json", lambda data: data[:50]), "train_data.json"),
    "a token is outside": (lambda latents, tokens: write_tokens(tokens / "train/train_003.npz", [5, 300]), "train_003"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, named = SAMPLES[case]
    latents, tokens = per_sample(tmp_path / "data")
    damage(latents, tokens)
    words = (f"data.token_dir={tokens}", "tokenizer.path=byte", "training.train_batch_size=4")
    line = refused(2, latents, tmp_path / "out", words, capsys)
    assert named in line


def test_the_per_sample_layout_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tokens that name no vocabulary the tokenizer is given, travels in the checkpoint, and the statistics are those of train."""
    latents, tokens = per_sample(tmp_path / "data")
    words = (f"data.token_dir={tokens}", "tokenizer.path=byte", "training.train_batch_size=4", "training.num_train_steps=4")
    assert train(latents, tmp_path / "out", *words) == 0
    assert len(log_of(tmp_path / "out" / "run")) == 4
    restored = restore(tmp_path / "out" / "run")
    assert restored.tokenizer.decode(restored.tokenizer.encode("a cat")) == "a cat"
    stacked = np.stack([np.load(latents / entry["latent_path"]).ravel() for entry in read_list(latents, "train")])
    np.testing.assert_allclose(restored.model.latent_mean.numpy(), stacked.mean(axis=0), atol=1e-6)
    assert json.loads((tmp_path / "out/run/step_00000004/state.json").read_text())["step"] == 4
    assert train(latents, tmp_path / "out", *words, "training.resume=auto", "training.num_train_steps=6") == 0
    told: list[str] = []
    monkeypatch.setattr("lgdlm.cli.train.say", told.append)
    assert train(latents, tmp_path / "out", *words, "training.resume=auto", "training.num_train_steps=6") == 0
    assert any("finished at step 6" in line for line in told)


def test_a_file_in_the_way_is_a_storage_error(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert train(packed, tmp_path / "out") == 5
    assert capsys.readouterr().err.startswith("error: E_")
    assert (tmp_path / "out").read_text() == "mine"
