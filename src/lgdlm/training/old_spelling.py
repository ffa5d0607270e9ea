"""Where the earlier systems kept their weights, and what such a path means today.

RUN/checkpoint.pt, RUN/latest/checkpoint.pt, RUN/epoch_XXX/model.pt, RUN/step_N.pt     one file
RUN, RUN/step_XXXXXXXX, RUN/epoch_XXX                                                  today: a folder
"""

from __future__ import annotations

import re
from pathlib import Path

from lgdlm.errors import CheckpointError

FILE = re.compile(r"(checkpoint|model|step_\d+)\.pt")
IN_FOLDER = ("model.pt", "checkpoint.pt")


def old_weights(path: Path) -> Path | None:
    """The weights that an earlier system wrote at `path`: the file itself, or that in the folder; None where there are none."""
    if path.is_dir():
        ours = (path / "manifest.json").exists() or (path / "latest").is_file()
        return None if ours else next((path / name for name in IN_FOLDER if (path / name).is_file()), None)
    return path if FILE.fullmatch(path.name) and path.is_file() else None


def place_meant(path: Path) -> Path:
    """The folder that a path in the old spelling means where there is no such file: a script goes on working with today's runs.

    Raises CheckpointError where the file is there: `convert` alone reads it.
    """
    if (old := old_weights(path)) is not None:
        message = f"is of an earlier system; run: lgdlm convert {old} out=RUN layout=run data.latent_dir=... model=... ; and give RUN"
        raise CheckpointError("CHECKPOINT", old, "file", message)
    place = path.parent if FILE.fullmatch(path.name) else path
    return place.parent if place.name == "latest" and place.is_file() else place
