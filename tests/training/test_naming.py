"""Which checkpoint a place means, also while a run throws away what a reader has just chosen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lgdlm.errors import CheckpointError
from lgdlm.training.naming import LATEST, MANIFEST, find_checkpoint, used


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    (run / LATEST).write_text(folder.name)
    return folder


def test_a_reader_takes_the_newer_one_where_its_own_has_gone(tmp_path: Path) -> None:
    """As often as it takes: each look finds its checkpoint thrown away by a save that came in between."""
    checkpoint(tmp_path, 1)
    seen: list[str] = []

    def read(folder: Path) -> str:
        seen.append(folder.name)
        if len(seen) < 5:
            checkpoint(tmp_path, len(seen) + 1)
            shutil.rmtree(folder)
            raise CheckpointError("CHECKPOINT", folder, "file", "missing")
        return folder.name

    assert used(tmp_path, read) == "step_00000005"
    assert seen == [f"step_{step:08d}" for step in range(1, 6)]


def test_damage_is_not_read_again(tmp_path: Path) -> None:
    folder, seen = checkpoint(tmp_path, 1), list[Path]()

    def read(found: Path) -> None:
        seen.append(found)
        raise CheckpointError("CHECKPOINT", found, "sha256", "the file is not what was written")

    for place in (tmp_path, folder):
        with pytest.raises(CheckpointError, match="not what was written"):
            used(place, read)
    assert seen == [folder, folder]


def test_a_checkpoint_that_was_named_itself_and_has_gone_is_not_another(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2)

    def read(found: Path) -> None:
        shutil.rmtree(found)
        raise CheckpointError("CHECKPOINT", found, "file", "missing")

    with pytest.raises(CheckpointError, match="step_00000001"):
        used(folder, read)
    assert find_checkpoint(tmp_path).name == "step_00000002"
