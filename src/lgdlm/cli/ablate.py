"""`lgdlm ablate MATRIX`: every variant with every seed, trained and evaluated, then compared in pairs.

    read the matrix -> compose every cell -> prepare the data once -> train and evaluate each -> ablation.json, table.md, plots

A second call with the same words goes on where the first stopped, and with nothing left to run writes the table again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgdlm.ablation.cell import FINISHED, Cell
from lgdlm.ablation.drawing import figures_of
from lgdlm.ablation.findings import findings_of, write_findings
from lgdlm.ablation.matrix import Matrix
from lgdlm.ablation.matrix_file import read_matrix, shipped_matrices
from lgdlm.ablation.page import table_of, write_page
from lgdlm.ablation.plan import minutes_left, plan_cells, refuse_unequal, sizes_of
from lgdlm.ablation.runner import run_cells
from lgdlm.cli import prepare
from lgdlm.cli.compose import compose
from lgdlm.cli.progress import progress, say
from lgdlm.compat import rewrite
from lgdlm.config import Config
from lgdlm.errors import InputError, Stopped
from lgdlm.evaluation.headline import duration
from lgdlm.training.signals import Interrupted

TABLE = "table.md"
SHOWN = ("step", "loss")  # of the running cell's log


def run(config: Config, words: list[str]) -> int:
    """Exit code 0, or 130 / 143 after a signal. `words` (`key=value`) are set in every run, behind what the matrix says."""
    asked = config.ablation
    if asked.matrix is None:
        raise InputError("CONFIG", "command-line", "ablation.matrix", f"a matrix is expected: {', '.join(shipped_matrices())}")
    matrix = read_matrix(asked.matrix)
    typed = dict(rewrite(*word.partition("=")[::2]) for word in words)
    out = Path(asked.out or f"outputs/ablations/{matrix.name}_{asked.scale}")
    cells = plan_cells(matrix, asked.scale, asked.seeds, out, typed, compose)
    minutes = matrix.scales[asked.scale].minutes
    if asked.dry_run:
        show_plan(matrix, cells, minutes)
        return 0
    prepare_data(cells)
    if matrix.equal_parameters is not None:
        refuse_unequal(sizes_of(cells), matrix.equal_parameters, matrix.name)
    try:
        run_with_progress(cells, minutes, asked.retry_failed)
    except Interrupted as stopped:
        finished = sum(cell.record().state == FINISHED for cell in cells)
        message = f"{finished} of {len(cells)} runs are finished; the same command goes on"
        raise Stopped.by(stopped.number, out, message) from stopped
    found = findings_of(matrix, asked.scale, cells, typed)
    write(found, matrix, cells, out, asked.docs)
    return 0


def prepare_data(cells: Sequence[Cell]) -> None:
    """Every data folder that the cells' own `prepare` keys describe, once; data of another folder are the user's."""
    done: set[str] = set()
    for config in (cell.config for cell in cells):
        if config.data.latent_dir == config.prepare.out and config.prepare.out not in done:
            done.add(config.prepare.out)
            prepare.run(config)


def show_plan(matrix: Matrix, cells: Sequence[Cell], minutes: float) -> None:
    """The cells with their states, the variants with their sizes, and the time, on stdout."""
    print(matrix.question)
    sizes = sizes_of(cells)
    for variant in matrix.variants:
        size = f"  {sizes[variant.name]:,} parameters" if variant.name in sizes else ""
        keys = ", ".join(f"{name}={value}" for name, value in variant.set.items())
        print(f"  {variant.name}: {keys or 'as the matrix sets it'}{size}")
    for cell in cells:
        print(f"  {cell.folder}: {cell.record().state}")
    left = minutes_left(cells, minutes)
    print(f"{len(cells)} runs, about {duration(60 * left)} to go ({minutes:g} minutes a run on two cores, or as the finished ones took)")


def run_with_progress(cells: Sequence[Cell], minutes: float, retry_failed: bool) -> None:
    """The cells behind a bar that shows the running one and the time left."""
    with progress(len(cells), "runs") as bar:
        shown, began, name = 0, time.monotonic(), ""

        def on_progress(cell: Cell, done: int) -> None:
            nonlocal shown, began, name
            if cell.name != name:
                name, began = cell.name, time.monotonic()
            left = max(0.0, 60 * minutes_left(cells, minutes) - (time.monotonic() - began if done == shown else 0))
            logged = cell.last_logged()
            fields = {key: logged.get(key, "-") for key in SHOWN}
            bar.advance(done - shown, run=cell.name, **fields, left=duration(left))
            if done > shown:
                record = cell.record()
                say(f"{cell.name}: {record.state} after {duration(record.seconds)}{f': {record.reason}' if record.reason else ''}")
            shown = done

        run_cells(cells, retry_failed=retry_failed, on_progress=on_progress)


def write(found: Mapping[str, Any], matrix: Matrix, cells: Sequence[Cell], out: Path, docs: str | None) -> None:
    """The findings, the page and its plots; the table and a sentence a row on stdout."""
    figures = figures_of(found, matrix, cells)
    files = [write_findings(found, out), *write_page(found, figures, out / TABLE)]
    if docs is not None:
        files += write_page(found, figures, Path(docs))
    print(table_of(found).replace("<br>", " "))
    for row in found["rows"]:
        print(row["sentence"])
    say("written: " + ", ".join(map(str, files)))
