"""`lgdlm train`: join the other ranks, if there are any, lock the run directory, assemble, and run the one loop with a progress bar."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from lgdlm.cli.progress import progress, say
from lgdlm.config import Config, Logging
from lgdlm.errors import CheckpointError, InputError, Stopped
from lgdlm.training.assemble import UNLIMITED_STEPS, Assembly, assemble
from lgdlm.training.backbone import starts_from_scratch
from lgdlm.training.checkpoint import newest_whole_before, verify_checkpoint
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.follower import Follower, directory_of
from lgdlm.training.global_batch import recorded
from lgdlm.training.joining import world_of
from lgdlm.training.loop import Metrics, train
from lgdlm.training.naming import checkpoints_of, find_checkpoint
from lgdlm.training.restore import look_into
from lgdlm.training.run import RunDirectory
from lgdlm.training.signals import Interrupted
from lgdlm.training.trackers import trackers


def run(config: Config) -> int:
    """Exit code 0. Raises Stopped (130, 143) after a signal, with a checkpoint of the step saved, and what `train_run` raises."""
    try:
        with world_of(os.environ) as world:
            folder = train_run(config, world)
    except Interrupted as stopped:
        message = f"stopped behind step {stopped.step}, whose checkpoint is saved; go on with training.resume=auto"
        raise Stopped.by(stopped.number, stopped.run, message) from stopped
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


def train_run(config: Config, world: World = ALONE) -> Path:
    """Train as configured; returns the newest checkpoint. Raises Interrupted, Diverged and the errors of the contract.

    All ranks of `world` call it; the lead chooses the folder and the checkpoint, and writes.
    """
    resume = config.training.resume

    def folder() -> Path:
        return run_folder(config) if resume in (None, "auto") or config.logging.run_name else find_checkpoint(Path(resume)).parent

    run_directory, damaged = directory_of(folder, world), None
    path = run_directory.path

    def choose() -> str | None:
        nonlocal damaged
        found, damaged = starting_point(path, resume, config.training.fallback)
        return None if found is None else str(found)

    try:
        place = world.lead(choose)
        chosen = None if place is None else Path(place)
        parts = assemble(config, path, chosen, world)
        world.lead(lambda: run_directory.start(parts.config_yaml, parts.start, chosen))
        if chosen is not None:
            _note_ranks(recorded(chosen), parts.loader.batch_size, world.size, run_directory)
        if chosen is None and starts_from_scratch(config):
            say("note: no pretrained weights are named (model.rwkv_local_path or model.rwkv_name): RWKV-7 starts from scratch")
        if parts.adopted is not None:
            say(parts.adopted.line())
            run_directory.event("weights_adopted", source=parts.adopted.source, parity_error=parts.adopted.parity_error)
        if damaged is not None and chosen is not None:
            run_directory.event("fallback", checkpoint=chosen.name, damaged=damaged.where, reason=damaged.message)
        last = _loop(parts, run_directory, config.logging, world)
        if last is None and chosen is not None:
            say(f"nothing to do: the run is finished at step {parts.start}; training.num_train_steps or training.num_epochs lets it go on")
        last = last or chosen
    finally:
        run_directory.close()
    assert last is not None, "a fresh run has at least one step"
    return last


def starting_point(run: Path, resume: str | None, fallback: bool) -> tuple[Path | None, CheckpointError | None]:
    """The verified checkpoint that training goes on from (None: a fresh start), and the damage of a newer one that was passed over."""
    existing = checkpoints_of(run)
    if resume is None:
        if existing:
            message = "this run has checkpoints already: go on with training.resume=auto, or choose another logging.run_name"
            raise InputError("RUN_EXISTS", run, "logging.run_name", message)
        return None, None
    if resume == "auto" and not existing:
        return None, None
    wanted = existing[-1] if resume == "auto" else find_checkpoint(Path(resume))
    try:
        verify_checkpoint(wanted, look_into)
    except CheckpointError as damage:
        if fallback and (older := newest_whole_before(wanted)) is not None:
            say(f"{damage}")
            return older, damage
        raise
    return wanted, None


def _note_ranks(before: dict[str, int] | None, rows: int, ranks: int, run_directory: RunDirectory | Follower) -> None:
    """Say so where a run goes on with another number of processes."""
    if before is None or before["ranks"] == ranks:
        return
    same = f"every step has the same {rows} samples" if before["rows"] == rows else f"a step has {rows} samples, it had {before['rows']}"
    say(f"note: saved by {before['ranks']} processes, going on with {ranks}: {same}, and sums are taken in another order")
    run_directory.event("ranks_changed", before=before["ranks"], now=ranks, rows=rows)


def _loop(parts: Assembly, run_directory: RunDirectory | Follower, logging: Logging, world: World) -> Path | None:
    plan = parts.plan
    total = None if plan.steps == UNLIMITED_STEPS else max(0, plan.steps - parts.start)
    began = time.monotonic() - parts.seconds
    with ExitStack() as stack:
        bar = stack.enter_context(progress(total, "training"))
        watchers = stack.enter_context(trackers(run_directory.path, logging.tensorboard, logging.wandb_project)) if world.leads else []
        shown: dict[str, float | str] = {}
        waiting = 0

        def on_step(step: int, metrics: Metrics) -> None:
            nonlocal waiting
            waiting += 1
            for track in watchers:
                track(step, metrics)
            shown.update(
                {brief(name): value for name, value in metrics.items() if value is not None and (name in LIVE or name.endswith(LIVE_ENDS))}
            )
            if plan.minutes is not None:
                shown["left"] = f"{max(0.0, plan.minutes * 60 - (time.monotonic() - began)):.0f} s"
            if step % logging.log_freq == 0 or step == plan.steps:
                bar.advance(waiting, step=step, **shown)
                waiting = 0

        last = train(
            parts.train_step, parts.loader, plan, run_directory, parts.snapshot, parts.validation,
            start=parts.start, seconds=parts.seconds, on_step=on_step, world=world,
        )  # fmt: skip
        if waiting:
            bar.advance(waiting, **shown)
        return last


LIVE = ("loss", "tokens_per_second")
LIVE_ENDS = ("/nelbo", "/latent_loss", "validation/nelbo_given_z")


def brief(name: str) -> str:
    return name.replace("tokens_per_second", "tokens/s").replace("validation/", "held-out ")
