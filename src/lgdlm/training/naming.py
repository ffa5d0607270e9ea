"""Which checkpoints a run has: by their names, of which no damage can take the step.

RUN/step_XXXXXXXX  RUN/epoch_XXX      RUN/latest  names the newest whole one
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lgdlm.data.strict_json import parse
from lgdlm.errors import CheckpointError
from lgdlm.training.old_spelling import place_meant

MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
KINDS = ("step_", "epoch_")
NAME = re.compile(r"step_([0-9]{8,})|epoch_[0-9]{3,}")
SMALL_BYTES = 1 << 24
TRIES = 50  # of a reader to come before the rotation of a run that saves all the time
T = TypeVar("T")


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, also one that lost its manifest; folders being written are not among them."""
    found = [p for kind in KINDS for p in run.glob(f"{kind}*") if (p / MANIFEST).is_file() or NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: (step_named(p), p.name))


def step_named(folder: Path) -> int:
    """The step of a checkpoint: in its name no damage can change it. Of others the larger of what state and manifest say; -1: neither."""
    if (named := NAME.fullmatch(folder.name)) is not None and named[1]:
        return int(named[1])
    said = [-1]
    for file in (STATE, MANIFEST):
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            said.append(int(parse(small_file(folder / file))["step"]))
    return max(said)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder itself, or the one that a run's `latest` names; where that leads nowhere, the run's newest."""
    path = place_meant(path)
    if not path.is_dir():
        raise CheckpointError("CHECKPOINT", path, "checkpoint", "no such folder: expected a run or one of its step_XXXXXXXX folders")
    if (path / LATEST).is_file():
        name = (path / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        if name.startswith(KINDS) and "/" not in name and "\0" not in name and (path / name).is_dir():
            return path / name
    if not (path / MANIFEST).is_file() and (complete := checkpoints_of(path)):
        return complete[-1]
    return path


def used(place: Path, use: Callable[[Path], T]) -> T:
    """`use(checkpoint)` of the one that `place` means; a newer one where the run that is being written has thrown that away meanwhile."""
    for _ in range(TRIES):
        folder = find_checkpoint(place)
        try:
            return use(folder)
        except CheckpointError:
            if folder.exists() or folder == place_meant(place):
                raise
    return use(find_checkpoint(place))


def small_file(path: Path) -> bytes:
    """The bytes of a regular file; OSError for a link, FIFO or device, which may have no end, and for more than a manifest can have."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is no regular file")
    with path.open("rb") as file:
        data = file.read(SMALL_BYTES + 1)
    if len(data) > SMALL_BYTES:
        raise OSError(f"{path} is too large")
    return data
