"""What an evaluation found: one JSON object, strict, every number beside its baselines.

    number = {name, label, group, unit, better, value, low, high, standard_error, baselines}

A value that is not finite is never written: the number is left out and `not_run` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.storage import make_folder, write_json
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.metric import METRICS

SCHEMA = 1


@dataclass
class Results:
    """Filled by `evaluate`; the fields are the keys of `results.json`."""

    model: dict[str, Any]
    data: dict[str, Any]
    seed: int
    settings: dict[str, Any]
    numbers: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    latent_map: dict[str, Any] | None = None
    not_run: list[dict[str, str]] = field(default_factory=list)
    schema: int = SCHEMA

    def add(
        self,
        name: str,
        statistics: np.ndarray,
        bootstrap: Bootstrap,
        baselines: Mapping[str, np.ndarray] | None = None,
        standard_error: float | None = None,
    ) -> None:
        """The metric `name` of statistics [documents, k], its interval, and the same metric of each baseline's statistics."""
        metric = METRICS[name]
        value = float(metric.fn(statistics.sum(axis=0)))
        if not math.isfinite(value):
            self.leave_out(metric.label, "there was nothing to count")
            return
        interval = None
        if metric.resampled:
            try:
                interval = bootstrap.interval(statistics, metric.fn)
            except ValueError as problem:
                self.leave_out(f"interval of {metric.label}", str(problem))
        beside = {key: float(metric.fn(other.sum(axis=0))) for key, other in (baselines or {}).items()}
        for key in [key for key, found in beside.items() if not math.isfinite(found)]:
            self.leave_out(f"{metric.label}: {key}", "there was nothing to count")
            del beside[key]
        low, high = interval or (None, None)
        facts = {"name": name, "label": metric.label, "group": metric.group, "unit": metric.unit, "better": metric.better}
        self.numbers.append({**facts, "value": value, "low": low, "high": high, "standard_error": standard_error, "baselines": beside})

    def leave_out(self, what: str, reason: str) -> None:
        """Something that was asked for and not measured."""
        self.not_run.append({"what": what, "reason": reason})

    def number(self, name: str) -> dict[str, Any]:
        """The entry of one metric. Raises KeyError when it was not measured."""
        for entry in self.numbers:
            if entry["name"] == name:
                return entry
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The object of `results.json`, `schema` first."""
        return {"schema": self.schema, **{key: value for key, value in asdict(self).items() if key != "schema"}}

    def write(self, path: Path) -> None:
        """Write `path` whole or not at all; StorageError where the disk refuses."""
        make_folder(path.parent)
        write_json(path, self.to_dict())
