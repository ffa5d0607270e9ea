"""A column of an ablation's table: where one run's number is found, and which direction is better.

results   a metric of results.json                             nelbo_given_latent
log       a logged series, taken over the run                  {log: grad_norm, over: max, better: lower}
          the same of every mode that logs it, by step         {log: "*/text_accuracy", over: tail}
run       a fact of the run                                    {run: parameters}

tail = mean of the last tenth        rise = tail - the smallest mean of a tenth: how far a loss has come up again from its best
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.ablation.cost import flops_of
from lgdlm.errors import InputError
from lgdlm.evaluation.curves import QUANTITIES, VALIDATION
from lgdlm.evaluation.metric import METRICS
from lgdlm.evaluation.run_record import RunRecord
from lgdlm.schema import nearest

BETTER = ("lower", "higher", "none")
ANY = "*"  # as a mode: whichever logs it


def tenths(values: np.ndarray) -> np.ndarray:
    """Means of ten consecutive parts; of fewer than ten values, the values."""
    return np.array([part.mean() for part in np.array_split(values, min(10, len(values)))])


OVER: dict[str, Callable[[np.ndarray], float]] = {
    "last": lambda values: float(values[-1]),
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
    "max": lambda values: float(values.max()),
    "tail": lambda values: float(tenths(values)[-1]),
    "rise": lambda values: float(tenths(values)[-1] - tenths(values).min()),
}


@dataclass(frozen=True)
class Fact:
    """Something known about a run besides its metrics."""

    of: Callable[[RunRecord], float | None]
    label: str
    unit: str
    better: str


def _parameters(record: RunRecord) -> float | None:
    return None if record.results is None else record.results["model"].get("parameters")


def _minutes(record: RunRecord) -> float | None:
    return None if record.seconds is None else record.seconds / 60


FACTS: dict[str, Fact] = {
    "parameters": Fact(_parameters, "Parameters", "", "none"),
    "train_minutes": Fact(_minutes, "Training", "minutes", "none"),
    "steps": Fact(lambda record: record.logged, "Steps", "", "none"),
    "flops": Fact(flops_of, "Forward pass", "FLOPs a token", "lower"),
    "skipped_steps": Fact(lambda record: record.skipped, "Skipped steps", "", "lower"),
}


@dataclass(frozen=True)
class Column:
    """`of` names the metric, series or fact inside `source`; `over` is set for a series. `better` `none` is shown and not judged."""

    name: str
    source: str
    of: str
    over: str | None
    better: str
    label: str
    unit: str

    def value(self, record: RunRecord) -> float | None:
        """The number of one finished run; None where it was not measured."""
        if self.source == "run":
            return FACTS[self.of].of(record)
        if self.source == "log":
            values = _logged(record, self.of)
            return None if not len(values) or self.over is None else OVER[self.over](values)
        numbers = [] if record.results is None else record.results["numbers"]
        return next((entry["value"] for entry in numbers if entry["name"] == self.of), None)


def _logged(record: RunRecord, name: str) -> np.ndarray:
    """Values of a series, or of `*/quantity` in the order of their steps; empty where nothing was logged."""
    mode, _, quantity = name.rpartition("/")
    if mode != ANY:
        return record.series[name].values if name in record.series else np.empty(0)
    found = [series for key, series in record.series.items() if key.rpartition("/")[2] == quantity and key.partition("/")[0] != VALIDATION]
    steps, values = (np.concatenate([np.empty(0), *parts]) for parts in ([s.steps for s in found], [s.values for s in found]))
    return values[np.argsort(steps, kind="stable")]


def column_of(entry: Any, path: Path) -> Column:
    """One entry of a matrix's `columns`. Raises InputError naming the entry."""
    fields = {"results": entry} if isinstance(entry, str) else entry
    sources = [source for source in ("results", "log", "run") if isinstance(fields, Mapping) and source in fields]
    if len(sources) != 1:
        raise _wrong(path, f"a metric, or a mapping with one of results, log and run is expected, got {entry!r}")
    source, of = sources[0], str(fields[sources[0]])
    for key in fields:
        if key not in (source, "better", "label", "unit", *(["over"] if source == "log" else [])):
            raise _wrong(path, f"{key!r} means nothing for {source} {of!r}")
    found = _described(source, of, fields.get("over", "last"), path)
    better = str(fields.get("better", found.better))
    if better not in BETTER:
        raise _wrong(path, f"better={better!r}: one of {', '.join(BETTER)} is expected")
    return Column(found.name, source, of, found.over, better, str(fields.get("label", found.label)), str(fields.get("unit", found.unit)))


def _described(source: str, of: str, over: str, path: Path) -> Column:
    """The column as its source describes it."""
    if source == "results":
        if of not in METRICS:
            raise _wrong(path, f"no metric {of!r}; {nearest(of, METRICS)}")
        metric = METRICS[of]
        return Column(of, source, of, None, metric.better, metric.label, metric.unit)
    if source == "run":
        if of not in FACTS:
            raise _wrong(path, f"no fact {of!r} of a run; {nearest(of, FACTS)}")
        fact = FACTS[of]
        return Column(of, source, of, None, fact.better, fact.label, fact.unit)
    if over not in OVER:
        raise _wrong(path, f"over={over!r} of {of!r}: one of {', '.join(OVER)} is expected")
    mode, slash, quantity = of.rpartition("/")
    title, unit = QUANTITIES.get(quantity, (quantity.replace("_", " ").capitalize(), ""))
    named = slash and mode != ANY
    label = f"{title}{f', {mode}' if named else ''} ({over})"
    return Column(f"{of if named else quantity}_{over}", source, of, over, "none", label, unit)


def _wrong(path: Path, message: str) -> InputError:
    return InputError("MATRIX", path, "columns", message)
