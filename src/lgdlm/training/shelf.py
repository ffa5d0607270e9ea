"""The checkpoints of a run, over time: the oldest are thrown away, those of another history set aside, and what a killed process was
writing is removed. The caller holds the run's lock.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lgdlm.data.storage import ASIDE, flush_folder, make_folder, remove_folder, storage, write_bytes
from lgdlm.training.naming import LATEST, checkpoints_of, step_named

SUPERSEDED = "superseded"


def rotate(run: Path, keep: int) -> None:
    """Remove the oldest checkpoints; the `keep` newest stay, and never fewer than one."""
    for old in checkpoints_of(run)[: -max(1, keep)]:
        remove_folder(old)


def set_aside_behind(run: Path, step: int) -> list[Path]:
    """Move checkpoints behind `step` to `run/superseded`: training goes on from `step`, and what follows is another history.

    `run/latest` names the newest that is left, and is gone where none is.
    """
    moved = []
    for folder in checkpoints_of(run):
        if step_named(folder) > step:
            shelf = make_folder(run / SUPERSEDED)
            names = (folder.name, *(f"{folder.name}.{number}" for number in range(1, len(list(shelf.iterdir())) + 1)))
            free = next(shelf / name for name in names if not (shelf / name).exists())
            with storage(folder):
                moved.append(folder.rename(free))
    if moved:
        with storage(run):
            flush_folder(run / SUPERSEDED)
            flush_folder(run)
            if left := checkpoints_of(run):
                write_bytes(run / LATEST, left[-1].name.encode())
            else:
                (run / LATEST).unlink(missing_ok=True)
    return moved


def clear_leftovers(run: Path) -> None:
    """Remove what a killed process was writing; the caller holds the run's lock."""
    for left in run.glob(f"{ASIDE}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
