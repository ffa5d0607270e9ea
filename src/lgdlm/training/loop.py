"""The one loop.

    for k in start+1 .. total:  data(k) -> TrainStep -> validate -> log -> checkpoint

Variants are values handed to it: the objective schedule decides what a step learns, the guard which steps count. All ranks run it, with
the same answers: what a clock or a signal says is agreed (`World`), and only the lead's run directory writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lgdlm.data.loader import Loader
from lgdlm.training.checkpoint import Snapshot, save_checkpoint
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.follower import Follower
from lgdlm.training.optimizer import learning_rate_scale
from lgdlm.training.run import LEDGER, LOG, RunDirectory
from lgdlm.training.shelf import rotate, set_aside_behind
from lgdlm.training.signals import Interrupted, StopRequest
from lgdlm.training.step import TrainStep

Metrics = dict[str, float | None]
NOT_FINITE = "the loss or its gradient is not finite"


@dataclass(frozen=True)
class Plan:
    """How long, how fast, and how often to save and validate. Training ends at `steps`, or after `minutes` if that is sooner.

    `speed` adds figures of the clock to the log, the only ones that differ between equal runs. `epoch_steps` is the length of an
    epoch where training is counted in epochs: its end is saved as `epoch_XXX`.
    """

    steps: int
    warmup: int
    course: str = "cosine"
    min_lr_ratio: float = 0.1
    minutes: float | None = None
    save_every: int = 1000
    keep: int = 3
    validate_every: int = 500
    ledger: bool = False
    speed: bool = True
    epoch_steps: int | None = None

    def name_of(self, step: int) -> str:
        """The folder of the checkpoint behind `step`."""
        ends_epoch = self.epoch_steps is not None and step > 0 and step % self.epoch_steps == 0
        return f"epoch_{step // self.epoch_steps:03d}" if self.epoch_steps and ends_epoch else f"step_{step:08d}"

    def saves_at(self, step: int) -> bool:
        return step % self.save_every == 0 or self.name_of(step).startswith("epoch_")

    def share_done(self, step: int, seconds: float) -> float:
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_clock))


def train(
    train_step: TrainStep,
    loader: Loader,
    plan: Plan,
    run: RunDirectory | Follower,
    snapshot: Callable[[int, float], Snapshot],
    validation: Callable[[], dict[str, float]],
    *,
    start: int = 0,
    seconds: float = 0.0,
    on_step: Callable[[int, Metrics], None] = lambda step, metrics: None,
    world: World = ALONE,
) -> Path | None:
    """Train from behind `start` to the plan's end; returns the last checkpoint (None when there was nothing to do).

    `snapshot(step, seconds)` gathers what a checkpoint holds; `seconds` is the training time behind `start`. Raises Interrupted after
    a signal, with a checkpoint of the current step, and Diverged when the guard's patience ends, with one of the last step that counted
    (step 0, the weights that training began with, where none ever did).
    """
    began, step, last, guard = time.monotonic() - seconds, start, None, train_step.guard
    counted = start  # the last step that was not skipped: skipped ones leave the weights as they were

    def share_done() -> float:
        share = plan.share_done(step, time.monotonic() - began)
        return share if plan.minutes is None else world.of_lead(share)

    def save(at: int) -> Path:
        run.flush()
        name = plan.name_of(at)
        saved = save_checkpoint(run.path, name, snapshot(at, time.monotonic() - began), world)
        run.event("checkpoint_saved", step=at, checkpoint=name)
        world.lead(lambda: rotate(run.path, plan.keep))
        return saved

    def set_aside(at: int) -> bool:
        """Whether the checkpoint of step `at` is still to be written, once those behind it are out of the way."""
        for inside in set_aside_behind(run.path, at):
            run.event("checkpoint_superseded", checkpoint=inside.name)
        return not (run.path / plan.name_of(at)).is_dir()

    with StopRequest() as stop:

        def stopped() -> int:
            """The signal that any rank has received; 0: none."""
            return world.largest(stop.number or 0)

        done = step >= plan.steps or share_done() >= 1.0
        while not done:
            before = share_done()
            step += 1
            tick = time.monotonic()
            data = loader.step(step)
            scale = learning_rate_scale(step, before, plan.warmup, plan.course, plan.min_lr_ratio)
            metrics: Metrics = train_step(data, step, scale)
            took = time.monotonic() - tick
            skipped, done = metrics["loss"] is None, step >= plan.steps or share_done() >= 1.0
            record: Metrics = {"epoch": data.epoch, "step": step, "lr": train_step.optimizers.lr_at(scale), **metrics}
            if step % plan.validate_every == 0 or done:
                record |= validation()
            if plan.speed:
                record |= {"tokens_per_second": data.tokens / took, "rows_per_second": data.rows / took}
            if strange := [name for name, value in record.items() if value is not None and not math.isfinite(value)]:
                run.event("metric_not_finite", step=step, metrics=strange)
                record |= dict.fromkeys(strange)
            if train_step.freezer.thaws_at(step):
                run.event("parameters_thawed", step=step, parameters=sum(p.numel() for p in train_step.freezer.thawed_at(step)))
            if skipped:
                run.event("step_skipped", step=step, sample_ids=list(data.sample_ids), reason=NOT_FINITE)
            run.append(LOG, record)
            if plan.ledger:
                run.append(LEDGER, {"step": step, "sample_ids": list(data.sample_ids)})
            on_step(step, record)
            counted = counted if skipped else step
            if guard.exhausted:
                verdict = guard.verdict(run.path, step, NOT_FINITE, counted)
                guard.forget_row()  # the newest checkpoint is of `counted`: whoever resumes meets the skipped steps again
                if world.lead(partial(set_aside, counted)):
                    save(counted)
                raise verdict
            asked = stopped()
            if done or asked or plan.saves_at(step):
                last = save(step)
                asked = stopped()
            if asked:
                run.event("signal_received", signal=asked, step=step)
                raise Interrupted(asked, run.path, step)
    return last
