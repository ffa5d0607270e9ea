"""A tiny matrix on the tiny data folder: runs of a few steps, in this process, and findings made up without any run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from training_world import TINY

from lgdlm.ablation.cell import Cell
from lgdlm.ablation.matrix_file import read_matrix
from lgdlm.ablation.plan import plan_cells
from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.cli.compose import compose

QUICK = {
    "evaluation.num_samples": 8, "evaluation.num_steps": 2, "evaluation.latent_steps": 2, "evaluation.bootstrap": 5,
    "evaluation.likelihood_draws": 2, "evaluation.judge": False,
}  # fmt: skip


def write_matrix(path: Path, data: Path, steps: int = 6, **changes: Any) -> Path:
    """A matrix of two widths; `changes` replace its parts."""
    words = dict(word.split("=", 1) for word in TINY if not word.startswith("logging.run_name"))
    tiny = {name: int(value) if value.isdigit() else value for name, value in words.items()}
    tiny |= {"training.num_train_steps": steps, "training.save_every_n_steps": 2, "logging.eval_freq": 3, "training.warmup_steps": 2}
    matrix = {
        "question": "Is wider better?",
        "config": "default",
        "set": {},
        "scales": {"small": {"minutes": 1, "set": {**tiny, **QUICK, "data.latent_dir": str(data)}}},
        "reference": "narrow",
        "variants": {"narrow": {}, "wide": {"set": {"model.hidden_size": 32}}},
        "columns": ["nelbo_given_latent", {"log": "grad_norm", "over": "max", "better": "lower"}, {"run": "parameters"}],
        "curves": ["loss"],
    }
    path.write_text(yaml.safe_dump({**matrix, **changes}, sort_keys=False), encoding="utf-8")
    return path


def cells_of(matrix: Path, out: Path, seeds: tuple[int, ...] = (1, 2), **words: str) -> list[Cell]:
    return plan_cells(read_matrix(str(matrix)), "small", seeds, out, words, compose)


def here(words: list[str], log: Path, watch: Callable[[], int | None]) -> int:
    """A `Launch` in this process."""
    watch()
    with log.open("a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        try:
            return main([*words, "--quiet"])
        finally:
            progress._silent = False  # --quiet is for the process, and this one goes on


def states(cells: list[Cell]) -> list[str]:
    return [cell.record().state for cell in cells]
