"""The work of `prepare` on Ray Data: the same tasks and the same results as in one process.

    tasks -> ray.data.from_items -> map by so many workers at a time, in order -> results

A worker process keeps what it loaded for the next task. An error of ours comes back as a row and is raised here, one line as ever.
Folders that tasks name must be on a file system that all nodes share. Ray is an extra: pip install lgdlm[ray].
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np

from lgdlm import errors
from lgdlm.data.engine import Engine, Task, Work
from lgdlm.errors import InputError, LgdlmError, PeerLost

ATTEMPTS = 3
ENDING = 60.0  # seconds that an execution has to end
NUMBER = "task_number"
REMEDY = "repeat the command: it goes on where it stopped"
BLOCKS_PER_WORKER = 64  # tasks travel in at most so many blocks a worker: a cluster's bookkeeping is by the block


class RayEngine:
    """Workers of a running Ray, one task at a time each. A task whose worker died is tried again, up to ATTEMPTS times in all."""

    def __init__(self, workers: int):
        self.workers = workers

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        import ray

        if not tasks:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        workers = min(self.workers, len(tasks))
        numbered = [{**task, NUMBER: number} for number, task in enumerate(tasks)]
        items = ray.data.from_items(numbered, override_num_blocks=min(len(tasks), BLOCKS_PER_WORKER * workers))
        pool = ray.data.TaskPoolStrategy(size=workers)
        attempts = ray.remote(num_cpus=0)(Attempts).remote()
        try:
            for row in _rows(items.map(partial(_answer, work, attempts), compute=pool)):
                if row["error"]:
                    kind, *words = json.loads(row["error"])
                    raise getattr(errors, kind)(*words)
                yield dict(np.load(BytesIO(row["arrays"]), allow_pickle=False))
        except ray.exceptions.RayTaskError:
            raise  # a defect of the work itself: its traceback is wanted
        except ray.exceptions.RayError as failure:
            message = f"Ray lost a worker or could not start one ({type(failure).__name__}); {REMEDY}"
            raise PeerLost("WORKER_LOST", "ray", "prepare.engine", message) from failure


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows in order, fetched by this thread alone.

    The iterators of Ray Data fetch in threads of their own; where reading stops early, those outlive Ray and end this process.
    """
    import ray
    from ray.data.block import BlockAccessor

    for bundle in dataset.iter_internal_ref_bundles():
        for reference in bundle.block_refs:
            yield from BlockAccessor.for_block(ray.get(reference)).iter_rows(public_row_format=True)


class Attempts:
    """An actor that counts how often each task was begun: Ray Data itself begins a task again without end."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Which attempt at task `number` this is, from 1."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]


def _answer(work: Work, attempts: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The arrays of `work`, or an error of ours, as a row of two columns."""
    import ray

    task = {name: value for name, value in row.items() if name != NUMBER}
    try:
        if ray.get(attempts.begin.remote(int(row[NUMBER]))) > ATTEMPTS:
            raise PeerLost("WORKER_LOST", "ray", "prepare.engine", f"{ATTEMPTS} workers ended at one task (out of memory?); {REMEDY}")
        arrays = BytesIO()
        np.savez(arrays, **work(task))
        return {"error": "", "arrays": arrays.getvalue()}
    except LgdlmError as error:
        words = [type(error).__name__, error.code, error.where, error.field, error.message, error.preface]
        return {"error": json.dumps(words), "arrays": b""}


@contextmanager
def ray_engine(workers: int) -> Iterator[Engine]:
    """Connects to the cluster of RAY_ADDRESS, else starts a Ray of `workers` CPUs here and stops it at the end.

    Raises InputError MISSING_PACKAGE where Ray Data is not installed, PeerLost where the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        message = "engine=ray needs it; run: pip install lgdlm[ray]"
        raise InputError("MISSING_PACKAGE", "ray", "prepare.engine", message) from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        here: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(configure_logging=False, log_to_driver=False, **here)
        except (ConnectionError, RuntimeError, TimeoutError) as failure:
            raise PeerLost("RAY", os.environ.get("RAY_ADDRESS", "ray"), "RAY_ADDRESS", f"no Ray answers: {failure!s:.120}") from failure
    try:
        yield RayEngine(workers)
    finally:
        _end_executions()
        if ours:
            ray.shutdown()


def _end_executions() -> None:
    """Stop what Ray Data still runs, and wait for its threads: one that asks a Ray which is gone ends this process, unsaid."""
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor") and hasattr(thread, "shutdown"):
            thread.shutdown(force=True)
            thread.join(timeout=ENDING)
