"""A cell of a matrix: one variant with one seed, in a run folder of its own.

    OUT/VARIANT/seed_S/    an ordinary run and its results.json, and beside them
        cell.yaml          the configuration that both commands are given
        cell.json          {state, fingerprint, seconds, exit_code, reason}
        cell.log           what the commands said

A folder belongs to one configuration. A finished cell is skipped because its record carries the same fingerprint (or, where the schema
has grown since, because `cell.yaml` says the same), never because a file of the right name exists; one made with other settings is
refused, so that no table mixes two experiments.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lgdlm.ablation.matrix import Variant
from lgdlm.config import Config
from lgdlm.data.storage import ASIDE, make_folder, write_bytes, write_json
from lgdlm.errors import InputError, LgdlmError
from lgdlm.evaluation.run_record import LOG, RESULTS, RunRecord, read_run
from lgdlm.schema import as_dict, from_yaml, to_yaml

CELL, RECORD, SAID = "cell.yaml", "cell.json", "cell.log"
ABSENT, STARTED, FINISHED, FAILED = "not started", "started", "finished", "failed"
# where a run lies does not change what it computes
PLACES = {"logging": ("save_dir", "run_name"), "evaluation": ("checkpoint", "out"), "training": ("resume",)}
# what the runner itself decides for every cell
OWN_KEYS = ("training.seed", *(f"{group}.{name}" for group, names in PLACES.items() for name in names))


@dataclass(frozen=True)
class Record:
    """What is known of a cell. `seconds` is the time of both commands, over all attempts."""

    state: str = ABSENT
    fingerprint: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """`config` trains and evaluates; it names the folder itself."""

    variant: Variant
    seed: int
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    def record(self) -> Record:
        """The cell's state on disk. Raises InputError where the folder was made with another configuration, or is no cell."""
        path = self.folder / RECORD
        if not path.is_file():
            if self.folder.is_dir() and any(not file.name.startswith(ASIDE) for file in self.folder.iterdir()):
                raise InputError("OTHER_RUN", self.folder, "ablation.out", "holds something else than this cell; choose another")
            return Record()
        try:
            found = Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as damage:
            raise InputError("BAD_JSON", path, "record", f"is no record of a cell ({damage}); remove the folder to run it") from damage
        if found.fingerprint != fingerprint(self.config) and (difference := self._difference()):
            message = f"was made with other settings ({difference}): choose another ablation.out, or remove it to run it again"
            raise InputError("OTHER_RUN", self.folder, "configuration", message)
        if found.state == FINISHED and not (self.folder / RESULTS).is_file():
            return replace(found, state=STARTED)
        return found

    def begin(self) -> None:
        """Write the configuration and note that the cell has started."""
        make_folder(self.folder)
        self.note(STARTED, self.record().seconds)
        write_bytes(self.folder / CELL, to_yaml(self.config).encode())

    def note(self, state: str, seconds: float, exit_code: int | None = None, reason: str = "") -> None:
        """Replace the record."""
        found = Record(state, fingerprint(self.config), round(seconds, 1), exit_code, reason)
        write_json(self.folder / RECORD, vars(found))

    def run_record(self) -> RunRecord | None:
        """Log, configuration and results of the run; None where it has neither log nor results."""
        there = (self.folder / LOG).is_file() or (self.folder / RESULTS).is_file()
        return read_run(self.folder) if there else None

    def last_logged(self) -> dict[str, Any]:
        """The newest complete line of the training log, empty before the first."""
        path = self.folder / LOG
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
        return json.loads(lines[-1]) if lines else {}

    def _difference(self) -> str | None:
        """The first key whose value is another one now, as `key was X, is Y`; None where every key is as it was."""
        path = self.folder / CELL
        try:
            before = _essence(from_yaml(path.read_text(encoding="utf-8"), path))
        except (OSError, LgdlmError) as problem:
            return f"which this version does not read: {problem}"
        for group, keys in _essence(self.config).items():
            for name in {**keys, **before[group]}:
                if (old := before[group].get(name)) != (value := keys.get(name)):
                    return f"{group}.{name} was {old!r}, is {value!r}"
        return None


def fingerprint(config: Config) -> str:
    """A hash of everything that decides what a run computes."""
    return hashlib.sha256(json.dumps(_essence(config), sort_keys=True).encode()).hexdigest()


def _essence(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration without places, and without what other commands read."""
    groups = {name: dict(keys) for name, keys in as_dict(config).items() if name not in ("ablation", "sampling")}
    for group, names in PLACES.items():
        for name in names:
            del groups[group][name]
    return groups
