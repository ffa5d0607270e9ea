"""Several folders named on the command line: both splits opened, and everything that cannot be mixed refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documents import rows, write

from lgdlm.cli.__main__ import main
from lgdlm.cli.compose import compose
from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.errors import InputError
from lgdlm.training.assemble import loader_for
from lgdlm.training.splits import open_splits

WORDS = ("model.latent_dim=3", "training.train_batch_size=8", "training.gradient_accumulation_steps=1", "data.bucket_rows=2")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for number, name in enumerate(("a", "b")):
        made = [row._replace(id=f"{name}{i}") for i, row in enumerate(rows(60, seed=number))]
        held = [row._replace(id=f"{name}v{i}") for i, row in enumerate(rows(9, seed=10 + number))]
        manifest = write(tmp_path / name, {"train": made, "validation": held})
        Manifest(**{**manifest.__dict__, "tokenizer": {"kind": "test", "vocab_size": 50, "eos_id": 0}}).write(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def sources(folders: tuple[Path, Path], first: float = 3, second: float = 1) -> str:
    return f'data.sources=[{{"path": "{folders[0]}", "weight": {first}}}, {{"path": "{folders[1]}", "weight": {second}}}]'


def test_training_reads_by_weight_and_validation_reads_both(folders: tuple[Path, Path]) -> None:
    config = compose([*WORDS, sources(folders), "data.max_val_samples=8", "data.window_rows=16", "data.prefetch=2"])
    train, held = open_splits(config, None)
    assert [name[:2] for name in held.ids] == ["av"] * 6 + ["bv"] * 2
    loader = loader_for(config, train, None)
    names = [name for k in range(1, 41) for name in loader.step(k).sample_ids]
    loader.close()
    assert names.count("a0") == pytest.approx(4, abs=1)  # 240 of 60 texts
    assert sum(name.startswith("a") for name in names) == pytest.approx(240, abs=20)
    alone = loader_for(compose([*WORDS, sources(folders), "data.window_rows=16"]), train, None)
    assert list(alone.step(17).sample_ids) == names[16 * 8 : 17 * 8]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("data.sources", ["data.latent_dir=somewhere"]),
        ("data.token_dir", ["data.token_dir=somewhere"]),
        ("data.sources", ['data.sources=[{"path": "a"}, {"path": "a", "weight": 2}]']),
        ("data.sources", ['data.sources=[{"weight": 2}]']),
        ("data.sources[0].weight", ['data.sources=[{"path": "a", "weight": 0}]']),
        ("data.sources", ['data.sources=[{"path": "a", "weights": 1}]']),
    ],
)
def test_contradictions_are_refused(folders: tuple[Path, Path], field: str, words: list[str]) -> None:
    given = words if any(word.startswith("data.sources") for word in words) else [sources(folders), *words]
    with pytest.raises(InputError) as refused:
        open_splits(compose([*WORDS, *given]), None)
    assert refused.value.field == field


def test_folders_that_do_not_go_together_are_one_line(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    held = read_manifest(folders[1])
    Manifest(**{**held.__dict__, "projection": {"kind": "pca", "sha256": "another"}}).write(folders[1])
    for command in ("check", "train"):
        assert main([command, *WORDS, sources(folders)] if command == "train" else ["check", "model.latent_dim=3", sources(folders)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: E_PROJECTION")
        assert "cannot be mixed" in error


def test_every_problem_of_every_folder_is_listed(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        shard = next(folder.glob("train-*"))
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    with pytest.raises(InputError, match="problem 1 of") as refused:
        open_splits(compose([*WORDS, sources(folders)]), None)
    assert refused.value.code == "HASH"


def test_check_reads_all_folders(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "model.latent_dim=3", sources(folders)]) == 0
    said = capsys.readouterr().out
    assert str(folders[0]) in said
    assert str(folders[1]) in said
    assert said.strip().endswith("no problems")


def test_unverified_folders_are_opened_by_their_headers(folders: tuple[Path, Path]) -> None:
    shard = next(folders[0].glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # the last byte of the last column
    shard.write_bytes(data)
    common = [*WORDS, f"data.latent_dir={folders[0]}"]
    with pytest.raises(InputError, match="damaged"):
        open_splits(compose(common), None)
    train, _ = open_splits(compose([*common, "data.verify=false"]), None)
    assert len(train) == 60
    shard.write_bytes(data[:-1])
    with pytest.raises(InputError, match="damaged"):
        open_splits(compose([*common, "data.verify=false"]), None)


def test_head_bias_sees_the_mixture(folders: tuple[Path, Path]) -> None:
    train, _ = open_splits(compose([*WORDS, sources(folders, 9, 1)]), None)
    first = train.head(20)
    assert [name[0] for name in train.ids_of(first)] == ["a"] * 18 + ["b"] * 2
    assert np.array_equal(train.head(10_000), np.arange(120))
