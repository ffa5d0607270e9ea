"""A checkpoint is used on data that mean the same: other ids, another latent space or another scale are refused, not computed with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import sentences
from training_world import assembly, data_folder, train

from lgdlm.cli.__main__ import main
from lgdlm.data.manifest import read_manifest
from lgdlm.data.prepare import prepare
from lgdlm.errors import CheckpointError
from lgdlm.training.agreement import same_data, same_projection, same_statistics, same_tokenizer

WIDE, DIM = 6, 4


def prepared(folder: Path, seed: int, **options: object) -> Path:
    """80 sentences with latents of WIDE numbers, projected by PCA to DIM; another seed has other texts and other directions."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in sentences(80, seed)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / "latents.npy", np.random.default_rng(seed).standard_normal((80, WIDE)).astype(np.float32) * np.arange(1, WIDE + 1))
    given = {"tokenizer": "byte", "latents": folder / "latents.npy", "projection": "pca", "latent_dim": DIM, "validation": 12}
    prepare("file", folder / "packed", path=folder / "texts.jsonl", **{**given, **options})  # type: ignore[arg-type]
    return folder / "packed"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Data, a run on them, and data of the same sizes and another projection."""
    folder = tmp_path_factory.mktemp("world")
    data, other = prepared(folder / "one", 0), prepared(folder / "two", 1)
    assert train(data, folder / "out", "training.num_train_steps=2") == 0
    return data, folder / "out" / "run", other


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """Equal sizes are not equal ids: weights would load, and mean something else."""
    data = data_folder(tmp_path / "data")
    assert train(data, tmp_path, "training.num_train_steps=1") == 0
    checkpoint, ours = tmp_path / "run" / "step_00000001", read_manifest(data).tokenizer
    same_tokenizer(checkpoint, ours)
    with pytest.raises(CheckpointError, match="data's"):
        same_tokenizer(checkpoint, {**ours, "sha256": "0" * 64})
    (checkpoint / "tokenizer" / "tokenizer_identity.json").unlink()
    with pytest.raises(CheckpointError):
        same_tokenizer(checkpoint, ours)


def test_statistics_of_another_width_are_refused(tmp_path: Path) -> None:
    """Per-sample data say nothing else of their latents."""
    data = data_folder(tmp_path / "3", dim=3)
    assert train(data, tmp_path, "training.num_train_steps=1", "model.latent_dim=3") == 0
    with pytest.raises(CheckpointError, match="latent_mean: the checkpoint's latents have 3 numbers, the data's 4"):
        same_statistics(tmp_path / "run/step_00000001", read_manifest(data_folder(tmp_path / "4", dim=4)))


@pytest.mark.parametrize("use", ["resume", "warm start", "evaluate"])
def test_latents_of_another_projection_are_refused(
    world: tuple[Path, Path, Path], use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, other = world
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    capsys.readouterr()
    if use == "resume":
        code = train(other, tmp_path, "training.resume=auto", "training.num_train_steps=4")
    elif use == "warm start":
        code = train(other, tmp_path / "new", f"model.checkpoint_path={copy}", "training.num_train_steps=2")
    else:
        code = main(["evaluate", str(copy), f"data.latent_dir={other}", "num_samples=4", "num_steps=2"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == 3
    assert line.startswith("error: E_CHECKPOINT")
    assert "projection" in line


def test_a_run_goes_on_with_the_scale_it_began_with(world: tuple[Path, Path, Path]) -> None:
    data, run, other = world
    checkpoint = next(run.glob("step_*"))
    same_data(checkpoint, read_manifest(data))
    same_statistics(checkpoint, read_manifest(data))
    with pytest.raises(CheckpointError, match="other statistics"):
        same_statistics(checkpoint, read_manifest(other))


def test_what_is_not_said_is_not_compared(world: tuple[Path, Path, Path]) -> None:
    same_projection(next(world[1].glob("step_*")), None)


def test_new_texts_are_prepared_for_a_trained_model(world: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The checkpoint's own tokenizer and projection make other texts fit it; its statistics stay those it was trained with."""
    data, run, _ = world
    checkpoint = next(run.glob("step_*"))
    new = prepared(
        tmp_path / "new", 2, tokenizer="hf", tokenizer_path=checkpoint / "tokenizer", projection=checkpoint / "projection", latent_dim=None
    )
    manifest = read_manifest(new)
    assert (manifest.tokenizer, manifest.projection) == (read_manifest(data).tokenizer, read_manifest(data).projection)
    same_data(checkpoint, manifest)
    warm = assembly(new, tmp_path, f"model.checkpoint_path={run}")
    np.testing.assert_allclose(warm.model.latent_mean.numpy(), read_manifest(data).latent_mean, rtol=1e-5)
