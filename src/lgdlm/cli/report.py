"""`lgdlm report RUN`: the page of a run, from its log, its configuration and its results."""

from __future__ import annotations

from pathlib import Path

from lgdlm.cli.progress import say
from lgdlm.config import Config
from lgdlm.errors import CheckpointError, InputError
from lgdlm.training.old_spelling import place_meant


def run(config: Config) -> int:
    """Write the page beside the results and print where it is; 0."""
    print(report_run(config))
    say("open it in a browser; it needs no network")
    return 0


def report_run(config: Config) -> Path:
    """The page of `evaluation.checkpoint`, a run or one of its checkpoints; `evaluation.out` says where the results are and the page goes.

    Raises CheckpointError, InputError, StorageError.
    """
    from lgdlm.cli.evaluate import results_file
    from lgdlm.evaluation.report import PAGE, write_report

    asked = config.evaluation
    if asked.checkpoint is None:
        raise InputError("CONFIG", "command-line", "evaluation.checkpoint", "expected a run folder, got nothing; lgdlm report RUN")
    folder = place_meant(Path(asked.checkpoint))
    if not folder.is_dir():
        raise CheckpointError("CHECKPOINT", folder, "checkpoint", "no such folder: expected a run or one of its step_XXXXXXXX folders")
    checkpoint = (folder / "manifest.json").is_file()
    here = folder.resolve().parent if checkpoint else folder
    if asked.out is None:
        return write_report(here)
    results = results_file(asked.out, here)
    return write_report(here, results, results.with_name(PAGE))
