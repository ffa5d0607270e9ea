"""A checkpoint is whole or refused: whatever is done to its bytes, the file is named and the newest whole one offered."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_world import data_folder, events_of, log_of, train

from lgdlm.cli.__main__ import main
from lgdlm.errors import CheckpointError
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.training.checkpoint import WEIGHTS, Snapshot, save_checkpoint, verify_checkpoint
from lgdlm.training.naming import MANIFEST, checkpoints_of, find_checkpoint
from lgdlm.training.restore import restore
from lgdlm.training.shelf import rotate
from lgdlm.training.weights import load_weights, weights_of

FILES = (
    "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "manifest.json",
    "tokenizer/vocabulary.json", "tokenizer/tokenizer_identity.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data, and a run with checkpoints at 5, 10, 15 and 20."""
    folder = tmp_path_factory.mktemp("trained")
    data = data_folder(folder / "data")
    assert train(data, folder, "training.num_train_steps=20", "training.save_every_n_steps=5", "training.keep_checkpoints=9") == 0
    return data, folder / "run"


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[1], tmp_path / "run"))


def flip(path: Path, bit: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    bit = len(data) * 4 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


DAMAGE = {
    "a bit": flip,
    "the end": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "everything": lambda path: path.write_bytes(b""),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "the file": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.with_suffix(".moved")), path.symlink_to(path.with_suffix(".moved"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_every_damage_is_found_and_named(run: Path, file: str, damage: str) -> None:
    newest = run / "step_00000020"
    assert verify_checkpoint(newest)["step"] == 20
    if file == MANIFEST and damage == "more":
        pytest.skip("white space behind the manifest changes nothing that it says")
    DAMAGE[damage](newest / file)
    with pytest.raises(CheckpointError) as refused:
        verify_checkpoint(newest)
    assert refused.value.where == str(newest / file)
    if file != MANIFEST or damage != "the file":
        assert "step_00000015" in refused.value.message


@given(position=st.floats(0, 0.999999))
def test_any_bit_of_the_manifest_counts(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, position: float) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    data = (trained[1] / "step_00000020" / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(data)
    flip(folder / MANIFEST, int(position * len(data) * 8))
    with pytest.raises(CheckpointError) as refused:
        verify_checkpoint(folder)
    assert refused.value.where == str(folder / MANIFEST)


def test_files_that_change_places_are_found(run: Path) -> None:
    newest = run / "step_00000020"
    (newest / "model.safetensors").rename(newest / "x")
    (newest / "ema.safetensors").rename(newest / "model.safetensors")
    (newest / "x").rename(newest / "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"(ema|model)\.safetensors"):
        verify_checkpoint(newest)


def test_resuming_from_damage_is_refused_in_one_line(run: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "step_00000020" / WEIGHTS)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"}
    assert train(trained[0], run.parent, "training.resume=auto") == 3
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert len(error[0].encode()) <= 300
    assert error[0].startswith("error: E_CHECKPOINT")
    assert "step_00000020/model.safetensors" in error[0]
    assert "step_00000015" in error[0]
    assert "--fallback" in error[0]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"} == before, "nothing else was touched"


def test_check_reads_every_checkpoint_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "step_00000010" / WEIGHTS)
    flip(run / "step_00000020" / "state.json")
    assert main(["check", str(run)]) == 3
    told = capsys.readouterr()
    assert ["no problems" in line for line in told.out.splitlines()] == [True, False, True, False]
    assert "step_00000010/model.safetensors" in told.err
    listed = re.search(r"problem 1 of 2, all listed in (\S+)", told.err)
    assert listed is not None
    assert "step_00000020/state.json" in Path(listed[1]).read_text()


def test_fallback_takes_the_newest_whole_one(run: Path, trained: tuple[Path, Path]) -> None:
    flip(run / "step_00000020" / WEIGHTS)
    flip(run / "step_00000015" / "state.json")
    assert train(trained[0], run.parent, "training.resume=auto", "training.fallback=true", "training.num_train_steps=25") == 0
    assert events_of(run, "fallback")[0]["damaged"].endswith("step_00000020/model.safetensors")
    assert events_of(run, "resumed")[0]["checkpoint"] == "step_00000010"
    assert [record["step"] for record in log_of(run)] == list(range(1, 26))
    assert verify_checkpoint(find_checkpoint(run))["step"] == 25


def test_where_nothing_is_whole_there_is_nothing_to_offer(
    run: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in checkpoints_of(run):
        flip(checkpoint / WEIGHTS)
    assert train(trained[0], run.parent, "training.resume=auto", "training.fallback=true") == 3
    assert "no older whole one" in capsys.readouterr().err


@pytest.mark.parametrize("latest", ["step_00000099", "", "../run/step_00000005", "/etc", "superseded", "\0", "step_00000020/.."])
def test_latest_may_point_to_nothing(run: Path, latest: str) -> None:
    (run / "latest").write_text(latest)
    assert find_checkpoint(run).name == "step_00000020"
    assert restore(run).model.identity["step"] == 20


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError):
            restore(place)


def test_folders_being_written_are_never_read(run: Path, trained: tuple[Path, Path]) -> None:
    shutil.copytree(run / "step_00000020", run / ".tmp-step_00000030")
    (run / ".tmp-latest").write_text("step_00000030")
    assert [p.name for p in checkpoints_of(run)][-1] == "step_00000020"
    assert train(trained[0], run.parent, "training.resume=auto", "training.num_train_steps=21") == 0
    assert not list(run.glob(".tmp-*"))


def test_rotation_keeps_the_newest(run: Path) -> None:
    rotate(run, 3)
    assert [p.name for p in checkpoints_of(run)] == ["step_00000010", "step_00000015", "step_00000020"]
    rotate(run, 0)
    assert [p.name for p in checkpoints_of(run)] == ["step_00000020"]


def test_a_failed_save_leaves_what_was_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "x")

    snapshot = Snapshot(20, {"a": torch.zeros(2)}, {}, {}, {}, "", {})
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(Exception, match="DISK_FULL"):
        save_checkpoint(run, "step_00000020", snapshot)
    monkeypatch.undo()
    assert verify_checkpoint(run / "step_00000020")["step"] == 20
    assert (run / "latest").read_text() == "step_00000020"
    assert not list(run.glob(".tmp-*"))


def test_weights_are_matched_by_name_and_shape(joint_model: TextLatentDiffusion) -> None:
    tensors = {name: tensor.clone() for name, tensor in weights_of(joint_model).items()}
    load_weights(joint_model, tensors, Path("x"))
    name = "denoiser.embedding.mask"
    for wrong in ({k: v for k, v in tensors.items() if k != name}, {**tensors, "more": torch.zeros(1)}, {**tensors, name: torch.zeros(1)}):
        with pytest.raises(CheckpointError, match=r"mask|more"):
            load_weights(joint_model, wrong, Path("x"))
    assert "denoiser.text_head.decode.weight" not in tensors, "a tied matrix stands once"
    assert "latent_mean" in tensors, "the statistics travel in the checkpoint"
