"""Where the long work of `prepare` is done: in this process, in several of this machine, or on a Ray cluster.

    engine.map(work, tasks) -> results, in the order of the tasks

A task and its result are plain columns (numbers, strings, arrays) by name; `work` is a small value that says what to do with one
and can be sent: what it needs (a tokenizer, an encoder) it loads from disk where it runs, once a process. Every task is a function
of its columns alone, so the results do not depend on who computes them, and neither do the files that are written from them.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from lgdlm.errors import PeerLost

Task = Mapping[str, Any]
Work = Callable[[Task], dict[str, Any]]


class Engine(Protocol):
    """Runs work elsewhere; `workers` tasks at a time."""

    workers: int

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """The results in the order of the tasks. Raises what `work` raises, at that task; PeerLost where a worker died."""


class Processes:
    """Worker processes of this machine, started at the first task."""

    def __init__(self, workers: int):
        self.workers = workers
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        try:
            yield from self._pool.map(work, tasks)
        except BrokenProcessPool:
            message = "a worker process ended before its work was done (out of memory?); lower num_workers and repeat the command"
            raise PeerLost("WORKER_LOST", "prepare", "prepare.num_workers", message) from None

    def close(self) -> None:
        """Stop without finishing what was begun: what is done is on disk, and the same command goes on there."""
        workers = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


@contextmanager
def local(workers: int) -> Iterator[Engine | None]:
    """None for one worker: this process does the work itself."""
    if workers == 1:
        yield None
        return
    engine = Processes(workers)
    try:
        yield engine
    finally:
        engine.close()


def ray(workers: int) -> AbstractContextManager[Engine | None]:
    """Workers on a Ray cluster, or on a Ray of this machine where none is running."""
    from lgdlm.data.ray_engine import ray_engine

    return ray_engine(workers)


ENGINES: dict[str, Callable[[int], AbstractContextManager[Engine | None]]] = {"local": local, "ray": ray}


def _begin() -> None:
    """A worker leaves interrupts to the process that started it, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent watch", daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
