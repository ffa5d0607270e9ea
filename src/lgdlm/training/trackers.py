"""The log, repeated to TensorBoard or W&B for those who watch there; training_log.jsonl is always written and is the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from lgdlm.errors import InputError


class Tracker(Protocol):
    def __call__(self, step: int, metrics: Mapping[str, float | None]) -> None: ...


@contextmanager
def tensorboard(run: Path) -> Iterator[Tracker]:
    """Event files in RUN/tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as absent:
        raise InputError("MISSING_PACKAGE", "config", "logging.tensorboard", "needs tensorboard: pip install lgdlm[track]") from absent
    with SummaryWriter(str(run / "tensorboard")) as writer:

        def track(step: int, metrics: Mapping[str, float | None]) -> None:
            for name, value in metrics.items():
                if value is not None:
                    writer.add_scalar(name, value, step)

        yield track


@contextmanager
def wandb(run: Path, project: str) -> Iterator[Tracker]:
    """A W&B run named after the folder; offline where WANDB_MODE says so."""
    try:
        import wandb as client
    except ImportError as absent:
        raise InputError("MISSING_PACKAGE", "config", "logging.wandb_project", "needs wandb: pip install lgdlm[track]") from absent
    with client.init(project=project, name=run.name, id=run.name, dir=str(run), resume="allow") as session:
        yield lambda step, metrics: session.log({name: value for name, value in metrics.items() if value is not None}, step=step)


@contextmanager
def trackers(run: Path, use_tensorboard: bool, wandb_project: str | None) -> Iterator[list[Tracker]]:
    with ExitStack() as stack:
        chosen = [stack.enter_context(tensorboard(run))] if use_tensorboard else []
        if wandb_project:
            chosen.append(stack.enter_context(wandb(run, wandb_project)))
        yield chosen
