"""What a matrix found: one JSON object, from which the table, the plots and the sentences are made.

{schema, matrix, question, scale, seeds, reference, columns, cells, rows}
cell = {variant, seed, state, seconds, reason, values: {column: x}}
row  = {variant, against, finished, runs, cells: {column: {mean, low, high, n, difference, verdict}}, sentence}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lgdlm
from lgdlm.ablation.cell import FAILED, FINISHED, Cell, Record
from lgdlm.ablation.column import Column
from lgdlm.ablation.matrix import Matrix, Variant
from lgdlm.ablation.student import Estimate, estimate
from lgdlm.ablation.verdict import compare, sentence
from lgdlm.data.storage import make_folder, write_json
from lgdlm.errors import InputError
from lgdlm.evaluation.headline import commit
from lgdlm.evaluation.run_record import RunRecord

SCHEMA = 1
FINDINGS = "ablation.json"
Values = dict[int, float]  # by seed


def findings_of(matrix: Matrix, scale: str, cells: Sequence[Cell], words: Mapping[str, str]) -> dict[str, Any]:
    """The object of ablation.json, from what the cells left on disk. Raises InputError where no cell has finished."""
    records = {(cell.variant.name, cell.seed): cell.record() for cell in cells}
    if not any(record.state == FINISHED for record in records.values()):
        reasons = [record.reason for record in records.values() if record.reason]
        what = f"none of {len(cells)} runs finished; {f'the first: {reasons[0]}' if reasons else 'none has been started'}"
        raise InputError("NO_RESULTS", cells[0].folder.parent.parent, "cells", what)
    runs = {key: _read(cell, records[key]) for key, cell in zip(records, cells, strict=True)}
    shown = [_cell(cell, records[key], runs[key], matrix.columns) for key, cell in zip(records, cells, strict=True)]
    values: dict[str, dict[str, Values]] = {variant.name: {column.name: {} for column in matrix.columns} for variant in matrix.variants}
    for entry in shown:
        for name, value in entry["values"].items():
            values[entry["variant"]][name][entry["seed"]] = value
    about = next(run for run in runs.values() if run is not None and run.results is not None)
    assert about.results is not None
    return {
        "schema": SCHEMA,
        "matrix": matrix.name,
        "question": matrix.question,
        "scale": scale,
        "words": [f"{name}={value}" for name, value in words.items()],
        "seeds": sorted({cell.seed for cell in cells}),
        "reference": matrix.reference,
        "data": about.results["data"],
        "settings": about.results["settings"],
        "lgdlm": lgdlm.__version__,
        "commit": commit(),
        "columns": [asdict(column) for column in matrix.columns],
        "cells": shown,
        "rows": [_row(variant, matrix.columns, values, shown) for variant in matrix.variants],
    }


def write_findings(found: Mapping[str, Any], folder: Path) -> Path:
    """Write ablation.json; returns its path."""
    make_folder(folder)
    write_json(folder / FINDINGS, found)
    return folder / FINDINGS


def _read(cell: Cell, record: Record) -> RunRecord | None:
    return cell.run_record() if record.state == FINISHED else None


def _cell(cell: Cell, record: Record, run: RunRecord | None, columns: Sequence[Column]) -> dict[str, Any]:
    values = {} if run is None else {column.name: column.value(run) for column in columns}
    return {
        "variant": cell.variant.name,
        "seed": cell.seed,
        "state": record.state,
        "seconds": record.seconds,
        "reason": record.reason,
        "values": {name: value for name, value in values.items() if value is not None},
    }


def _row(
    variant: Variant, columns: Sequence[Column], values: Mapping[str, Mapping[str, Values]], cells: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    own = [cell for cell in cells if cell["variant"] == variant.name]
    failures = [failure_of(cell["reason"]) for cell in own if cell["state"] == FAILED]
    shown, judged = {}, []
    for column in columns:
        ours, theirs = values[variant.name][column.name], values[variant.against][column.name]
        if not ours:
            continue
        entry: dict[str, Any] = {**estimate(list(ours.values()))._asdict(), "difference": None, "verdict": None}
        if variant.name != variant.against and column.better != "none":
            comparison = compare(ours, theirs, column.better)
            entry |= {"difference": _plain(comparison.difference), "verdict": comparison.verdict}
            judged.append((column.label, comparison.verdict))
        shown[column.name] = entry
    return {
        "variant": variant.name,
        "against": variant.against,
        "set": variant.set,
        "finished": sum(cell["state"] == FINISHED for cell in own),
        "runs": len(own),
        "cells": shown,
        "sentence": sentence(variant.name, variant.against, failures, len(own), judged),
    }


def _plain(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict()


def failure_of(reason: str) -> str:
    """The kind of a failure in a word or two: `diverged` of E_DIVERGED, else the reason itself."""
    code = reason.partition(" ")[0]
    return code.removeprefix("E_").lower().replace("_", " ") if code.startswith("E_") else reason


def comparisons_of(found: Mapping[str, Any]) -> list[str]:
    """Every verdict that was reached."""
    return [entry["verdict"] for row in found["rows"] for entry in row["cells"].values() if entry["verdict"] is not None]
