"""`lgdlm train`: assemble, lock the run directory, and run the one loop with a progress bar."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from lgdlm.cli.progress import progress, say
from lgdlm.config import Config
from lgdlm.errors import CheckpointError
from lgdlm.training.assemble import UNLIMITED_STEPS, Assembly, assemble
from lgdlm.training.checkpoint import checkpoints_of, find_checkpoint
from lgdlm.training.loop import Metrics, train
from lgdlm.training.run import RunDirectory
from lgdlm.training.signals import Interrupted


def run(config: Config) -> int:
    """Exit code 0, or 130 / 143 after a signal with its checkpoint saved."""
    try:
        folder = train_run(config)
    except Interrupted as stopped:
        say(f"stopped by {stopped}; a checkpoint of the last step is saved, go on with training.resume=auto")
        return stopped.exit_code
    say(f"checkpoint: {folder}")
    return 0


def run_folder(config: Config) -> Path:
    """logging.save_dir/run_name; without a name: the time, or for resume=auto the newest run of save_dir."""
    parent, name = Path(config.logging.save_dir), config.logging.run_name
    if name is None and config.training.resume == "auto":
        runs = sorted((p for p in parent.glob("*") if checkpoints_of(p)), key=lambda p: p.stat().st_mtime)
        if runs:
            return runs[-1]
    return parent / (name or time.strftime("%Y-%m-%d_%H-%M-%S"))


def train_run(config: Config) -> Path:
    """Train as configured; returns the newest checkpoint. Raises Interrupted, Diverged and the errors of the contract."""
    resume = config.training.resume
    path = run_folder(config) if resume in (None, "auto") or config.logging.run_name else find_checkpoint(Path(resume)).parent
    existing = checkpoints_of(path)
    if resume is None and existing:
        message = "this run has checkpoints already: go on with training.resume=auto, or choose another logging.run_name"
        raise CheckpointError("RUN_EXISTS", path, "logging.run_name", message)
    chosen = (existing[-1] if existing else None) if resume in (None, "auto") else find_checkpoint(Path(resume))
    run_directory = RunDirectory(path)
    try:
        parts = assemble(config, path, chosen)
        run_directory.start(parts.config_yaml, parts.start, chosen)
        return _loop(parts, run_directory, config.logging.log_freq) or existing[-1]
    finally:
        run_directory.close()


def _loop(parts: Assembly, run_directory: RunDirectory, log_freq: int) -> Path | None:
    total = None if parts.plan.steps == UNLIMITED_STEPS else parts.plan.steps - parts.start
    with ExitStack() as stack:
        bar = stack.enter_context(progress(total, "training"))
        shown: dict[str, float] = {}
        waiting = 0

        def on_step(step: int, metrics: Metrics) -> None:
            nonlocal waiting
            waiting += 1
            shown.update({brief(name): value for name, value in metrics.items() if value is not None and name in LIVE or name.endswith(LIVE_ENDS)})
            if step % log_freq == 0 or step == parts.plan.steps:
                bar.advance(waiting, step=step, **shown)
                waiting = 0

        return train(
            parts.train_step, parts.loader, parts.plan, run_directory, parts.snapshot, parts.validation,
            start=parts.start, seconds=parts.seconds, on_step=on_step,
        )  # fmt: skip


LIVE = ("loss", "tokens_per_second")
LIVE_ENDS = ("/nelbo", "/latent_loss", "validation/nelbo_given_z")


def brief(name: str) -> str:
    return name.replace("tokens_per_second", "tokens/s").replace("validation/", "held-out ")
