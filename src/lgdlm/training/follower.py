"""The run directory to a rank that does not lead: a place to read from. It writes nothing, and so needs no lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lgdlm.training.distributed import World
from lgdlm.training.run import RunDirectory


class Follower:
    """The interface of `RunDirectory`, of which the lead's writes."""

    def __init__(self, path: Path):
        self.path = path

    def close(self) -> None:
        return

    def flush(self) -> None:
        return

    def append(self, name: str, record: dict[str, Any]) -> None:
        return

    def event(self, event: str, **facts: Any) -> None:
        return

    def start(self, config_yaml: str, step: int, checkpoint: Path | None) -> None:
        return


def directory_of(path: Callable[[], Path], world: World) -> RunDirectory | Follower:
    """The run directory of the job at `path()`, which the lead names and locks. Raises LockedError, StorageError on all ranks."""
    held: list[RunDirectory] = []

    def take() -> str:
        held.append(RunDirectory(path()))
        return str(held[0].path)

    place = world.lead(take)
    return held[0] if held else Follower(Path(place))
