"""`check` finds everything, changes nothing, and agrees with what training would say."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import per_sample, read_list, sentences, write_list

from lgdlm.data.convert import convert
from lgdlm.data.frame import Frame
from lgdlm.data.inspect import inspect_folder
from lgdlm.data.prepare import prepare
from lgdlm.data.problems import list_problems
from lgdlm.data.storage import write_json
from lgdlm.errors import InputError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder with latents, tokenizer and projection."""
    folder = tmp_path_factory.mktemp("prepared")
    texts = sentences(80)
    (folder / "texts.txt").write_text("\n".join(texts))
    np.save(folder / "given.npy", np.random.default_rng(0).standard_normal((80, 9)).astype(np.float32))
    prepare("file", folder / "data", path=folder / "texts.txt", latents=folder / "given.npy", tokenizer="byte", latent_dim=4, validation=20)
    return folder / "data"


@pytest.fixture
def packed(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edited(folder: Path, change: Callable[[dict], None]) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    write_json(folder / "manifest.json", values)


def test_sound_data_have_no_problem_and_stay_untouched(packed: Path) -> None:
    before = snapshot(packed)
    found = inspect_folder(packed, latent_dim=4, vocab_size=256, frame=lambda manifest: Frame(max_length=64))
    assert found.problems == []
    assert (found.layout, found.rows, found.latent_dim) == ("packed", {"train": 60, "validation": 20}, 4)
    assert snapshot(packed) == before


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "statistics": (lambda f: edited(f, lambda m: m["latent_mean"].__setitem__(1, m["latent_mean"][1] + 0.01)), "STATISTICS"),
    "spread": (lambda f: edited(f, lambda m: m["latent_std"].__setitem__(1, 7.0)), "STATISTICS"),
    "counts": (lambda f: edited(f, lambda m: m["counts"]["train"].update(rows=61)), "BAD_MANIFEST"),
    "tokenizer file": (lambda f: next((f / "tokenizer").iterdir()).write_bytes(b"{}"), "HASH"),
    "tokenizer identity": (lambda f: edited(f, lambda m: m["tokenizer"].update(sha256="0")), "IDENTITY"),
    "projection lost": (lambda f: (f / "projection/projection.safetensors").unlink(), "MISSING_FILE"),
    "embeddings lost": (lambda f: (f / "validation_embeddings.safetensors").unlink(), "MISSING_FILE"),
    "shard lost": (lambda f: (f / "train-00000.safetensors").unlink(), "MISSING_FILE"),
    "shard cut": (lambda f: (f / "train-00000.safetensors").write_bytes((f / "train-00000.safetensors").read_bytes()[:-1]), "HASH"),
    "manifest cut": (lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text()[:200]), "BAD_JSON"),
    "one shard in both splits": (
        lambda f: edited(
            f, lambda m: (m["shards"].update(validation=m["shards"]["train"]), m["counts"].update(validation=m["counts"]["train"]))
        ),
        "BAD_MANIFEST",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(packed: Path, name: str) -> None:
    damage, code = DAMAGE[name]
    damage(packed)
    assert code in inspect_folder(packed).kinds


def test_statistics_of_files_are_compared_too(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "files", layout="samples")
    assert not inspect_folder(tmp_path / "files").problems
    edited(tmp_path / "files", lambda m: m["latent_mean"].__setitem__(0, 3.0))
    assert inspect_folder(tmp_path / "files").kinds == {"STATISTICS": 1}


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ({"latent_dim": 32}, "LATENT_DIM"),
        ({"vocab_size": 99}, "VOCABULARY"),
        ({"frame": lambda manifest: Frame(max_length=20)}, "TEXT_TOO_LONG"),
    ],
)
def test_what_the_model_expects_is_compared(packed: Path, expected: dict[str, Any], code: str) -> None:
    kinds = inspect_folder(packed, **expected).kinds
    assert set(kinds) == {code}
    if code == "TEXT_TOO_LONG":
        assert kinds[code] == sum(len(text) > 20 for text in sentences(80))


def test_width_and_presence_of_latents_are_the_data_s_own_unless_said(packed: Path, lgdlm: Run, tmp_path: Path) -> None:
    """What training with a suitable model would accept is no defect; what was said is compared."""
    assert lgdlm("check", str(packed), "model.max_seq_len=64").returncode == 0
    refused = lgdlm("check", str(packed), "model.max_seq_len=64", "model.latent_dim=32")
    assert refused.returncode == 2
    assert "set model.latent_dim=4" in refused.stderr
    assert "lgdlm convert" not in refused.stderr, "no projection makes 32 numbers of 4"
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(40)))
    prepare("file", tmp_path / "plain", path=texts, encoder=None, tokenizer="byte", validation=10)
    assert lgdlm("check", str(tmp_path / "plain"), "model.max_seq_len=64").returncode == 0
    said = lgdlm("check", str(tmp_path / "plain"), "model.max_seq_len=64", "data.use_external_latents=true")
    assert "E_NO_LATENTS" in said.stderr


def test_a_folder_of_folders_asks_for_one_of_them(packed: Path, lgdlm: Run) -> None:
    done = lgdlm("check", str(packed.parent))
    assert done.returncode == 2
    assert f"holds runs or data folders ({packed.name}): name one of them" in done.stderr


def test_the_same_list_of_problems_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    problems = [InputError("X", f"{i}.npy", "latent", "is NaN") for i in range(3)]
    first = list_problems(problems)
    assert list_problems(problems) == first
    assert list_problems(problems[:2]) != first
    first.write_text("another's")
    other = list_problems(problems)
    assert (first.read_text(), len(other.read_text().splitlines())) == ("another's", 3)


def test_overlap_of_files_is_a_note(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path)
    entries = read_list(latent_dir, "validation")
    entries[0]["text"] = read_list(latent_dir, "train")[5]["text"].upper()
    write_list(latent_dir, "validation", entries)
    found = inspect_folder(latent_dir, token_dir=token_dir, vocab_size=256)
    assert found.problems == []
    assert any("1 texts of validation are in train" in note for note in found.notes)


def test_a_missing_split_is_a_problem(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path, {"train": 5})
    assert inspect_folder(latent_dir, token_dir=token_dir, vocab_size=256).kinds == {"MISSING_FILE": 1}


def test_problems_of_both_splits_are_reported(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path)
    for name in ("train/train_001", "train/train_006", "validation/validation_002"):
        (token_dir / f"{name}.npz").unlink()
    found = inspect_folder(latent_dir, token_dir=token_dir, vocab_size=256)
    assert found.kinds == {"MISSING_TOKENS": 3}


def test_check_ends_with_one_line_and_code_2(lgdlm: Run, tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path)
    words = [f"data.latent_dir={latent_dir}", f"data.token_dir={token_dir}", "model.latent_dim=4", "tokenizer.path=byte"]
    values = np.load(latent_dir / "latents/train/train_003.npy")
    np.save(latent_dir / "latents/train/train_003.npy", values * np.nan)
    (token_dir / "validation/validation_001.npz").unlink()
    before = snapshot(latent_dir)
    done = lgdlm("check", *words)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: E_NAN_LATENT ")
    assert len(last.encode()) <= 300
    listed = Path(next(word for word in last.split() if "lgdlm-problems-" in word)).read_text()
    assert "train_003" in listed
    assert "validation_001" in listed
    assert "Traceback" not in done.stderr
    assert snapshot(latent_dir) == before


def test_prepare_check_and_convert_from_the_command_line(lgdlm: Run, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(sentences(60)))
    words = ["source=file", "input=texts.txt", "out=data", "prepare.tokenizer=byte", "encoder=none", "validation=10"]
    first = lgdlm("prepare", *words)
    assert first.returncode == 0, first.stderr
    assert "prepared: data" in first.stderr
    made = lgdlm("convert", "data", "out=files", "layout=samples")
    assert made.returncode == 0, made.stderr
    assert convert(tmp_path / "files", tmp_path / "back").manifest.counts["validation"]["rows"] == 10
    checked = lgdlm("check", "files", "data.use_external_latents=false")
    assert checked.returncode == 0, checked.stderr
