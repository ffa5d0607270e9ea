"""What a run left on disk, read strictly: the log as series, the configuration, the results.

    RUN/training_log.jsonl -> {name: Series(steps, values)}     RUN/config.yaml     RUN/results.json     RUN/latest/state.json

Every part may be absent (a run that still trains has no results); a part that is there and unreadable is the user's error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lgdlm.errors import InputError
from lgdlm.evaluation.results import SCHEMA

LOG, CONFIG, RESULTS = "training_log.jsonl", "config.yaml", "results.json"
PARTS = {"model": dict, "data": dict, "settings": dict, "numbers": list, "samples": dict, "trajectory": list, "not_run": list}
NUMBER = ("name", "label", "group", "unit", "better", "value", "low", "high", "baselines")
POINT = ("x", "y", "kind", "text")


class Series(NamedTuple):
    """One logged quantity: int64 `steps` [n], increasing, and float64 `values` [n]."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class RunRecord:
    """`series` by logged name; `config` is the parsed `config_yaml`; `results` the object of results.json, None where there is none."""

    folder: Path
    series: dict[str, Series]
    logged: int  # steps in the log
    skipped: int  # of them without an update
    cut: bool  # the last line was still being written
    config_yaml: str
    config: dict[str, Any]
    results: dict[str, Any] | None
    seconds: float | None  # of training, up to the newest checkpoint

    def setting(self, name: str) -> Any:
        """A dotted key of the configuration, None where it is absent."""
        found: Any = self.config
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found


def read_run(folder: Path, results: Path | None = None) -> RunRecord:
    """The record of run `folder`; `results` names another file than RUN/results.json.

    Raises InputError for a folder without log and results, and for a part that is not what it should be.
    """
    path = results or folder / RESULTS
    if results is not None and not path.is_file():
        raise InputError("MISSING_FILE", path, "results", "no such file; `lgdlm evaluate` writes it")
    if not (folder / LOG).is_file() and not path.is_file():
        raise InputError("MISSING_FILE", folder, LOG, f"neither {LOG} nor {RESULTS} is there; expected a run folder")
    series, logged, skipped, cut = _read_log(folder / LOG)
    text = _text(folder / CONFIG)
    found = _read_results(path) if path.is_file() else None
    return RunRecord(folder, series, logged, skipped, cut, text, _parse_config(folder / CONFIG, text), found, _seconds(folder))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as damage:
        raise InputError("UTF8", f"{path}#{damage.start}", "bytes", "expected UTF-8") from damage


def _read_log(path: Path) -> tuple[dict[str, Series], int, int, bool]:
    columns: dict[str, tuple[list[int], list[float]]] = {}
    logged = skipped = 0
    cut = False
    for number, line, whole in _lines(path):
        if not whole:
            cut = True  # a run that is still writing
            break
        record = _json(line, f"{path}:{number}")
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            raise InputError("BAD_LOG", f"{path}:{number}", "step", "expected an object with an integer step")
        logged += 1
        skipped += "loss" in record and record["loss"] is None
        for name, value in record.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    return {name: Series(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}, logged, skipped, cut


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line number, line, whether it was finished)."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            whole = line.endswith(b"\n")
            try:
                yield number, line.decode("utf-8", "strict" if whole else "replace"), whole
            except UnicodeDecodeError as damage:
                raise InputError("UTF8", f"{path}:{number}", "bytes", "expected UTF-8") from damage


def _json(text: str, where: object) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as damage:
        raise InputError("BAD_JSON", where, "json", f"expected strict JSON: {damage}") from damage


def _read_results(path: Path) -> dict[str, Any]:
    """The object of results.json, whose parts have the types that a page can rely on."""
    found = _json(_text(path), path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        got = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise InputError("BAD_RESULTS", path, "schema", f"expected {SCHEMA}, got {got}; write it again with `lgdlm evaluate`")
    for name, kind in PARTS.items():
        if not isinstance(found.get(name), kind):
            raise InputError("BAD_RESULTS", path, name, f"expected a {kind.__name__}, got {type(found.get(name)).__name__}")
    points = (found.get("latent_map") or {}).get("points", [])
    checked = (("numbers", found["numbers"], NUMBER), ("latent_map", points, POINT), ("not_run", found["not_run"], ("what", "reason")))
    for part, entries, keys in checked:
        for i, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise InputError("BAD_RESULTS", f"{path}#{i}", part, f"has no {missing[0]}; write it again with `lgdlm evaluate`")
    return found


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    import yaml

    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as damage:
        raise InputError("BAD_CONFIG", path, "yaml", " ".join(str(damage).split())) from damage
    return parsed if isinstance(parsed, dict) else {}


def _seconds(folder: Path) -> float | None:
    """Training time that the newest checkpoint names; None before the first one."""
    states = [file for file in folder.glob("*/state.json") if not file.parent.name.startswith(".")]
    found = [_json(_text(file), file) for file in states]
    times = [state["seconds"] for state in found if isinstance(state, dict) and isinstance(state.get("seconds"), int | float)]
    return float(max(times)) if times else None
