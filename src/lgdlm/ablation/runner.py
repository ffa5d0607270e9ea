"""Running cells: for each, the ordinary `lgdlm train` and `lgdlm evaluate`, in processes of their own.

    train --config-name cell.yaml training.resume=auto        evaluate RUN --config-name cell.yaml

A process a command returns its memory, and a cell that crashes takes nothing with it. What the commands promise to any script is all
that is used here: exit codes, one line of error, and resumption. A cell that fails (it diverged, it ran out of memory) is recorded with its
reason and the next one begins; what would stop every cell (a locked run, a full disk) ends the ablation.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from lgdlm.ablation.cell import CELL, FAILED, FINISHED, SAID, STARTED, Cell
from lgdlm.errors import LockedError, StorageError
from lgdlm.training.signals import Interrupted, StopRequest

POLL = 0.5  # seconds between two looks at a running command
STOPS = (signal.SIGINT, signal.SIGTERM)
LOCKED, STORAGE = LockedError.exit_code, StorageError.exit_code


class Launch(Protocol):
    """Runs `lgdlm WORDS`, appending what it says to `log`; calls `watch` now and then; returns the exit code (negative: a signal)."""

    def __call__(self, words: list[str], log: Path, watch: Callable[[], int | None]) -> int: ...


def in_own_process(words: list[str], log: Path, watch: Callable[[], int | None]) -> int:
    """See `Launch`. A signal that `watch` returns is passed on once.

    The command has a session of its own, so that no terminal sends it the same signal a second time, which would end it at once.
    """
    passed = None
    with open(log, "ab") as said:
        command = [sys.executable, "-m", "lgdlm", *words]
        said.write(f"$ lgdlm {' '.join(words)}\n".encode())
        said.flush()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        while True:
            try:
                return child.wait(timeout=POLL)
            except subprocess.TimeoutExpired:
                number = watch()
                if number is not None and passed is None:
                    child.send_signal(number)
                    passed = number


def run_cells(
    cells: Sequence[Cell],
    *,
    retry_failed: bool = False,
    launch: Launch = in_own_process,
    on_progress: Callable[[Cell, int], None] = lambda cell, done: None,
) -> None:
    """Bring every cell to `finished` or `failed`. `on_progress(cell, done)` is called while a cell runs and when it has ended.

    Raises Interrupted after a signal (the running cell has saved a checkpoint and will go on from it), LockedError, StorageError.
    """
    with StopRequest() as stop:
        for done, cell in enumerate(cells):
            state = cell.record().state
            if state != FINISHED and not (state == FAILED and not retry_failed):
                _run(cell, launch, partial(_watch, cell, done, stop, on_progress))
            on_progress(cell, done + 1)
            if stop.number is not None:
                raise Interrupted(stop.number)


def _watch(cell: Cell, done: int, stop: StopRequest, on_progress: Callable[[Cell, int], None]) -> int | None:
    on_progress(cell, done)
    return stop.number


def _run(cell: Cell, launch: Launch, watch: Callable[[], int | None]) -> None:
    cell.begin()
    spent, began, log = cell.record().seconds, time.monotonic(), cell.folder / SAID
    own = str(cell.folder / CELL)
    for words in (["train", "--config-name", own, "training.resume=auto"], ["evaluate", str(cell.folder), "--config-name", own]):
        start = log.stat().st_size if log.exists() else 0
        if (number := watch()) is not None:
            raise Interrupted(number)
        code = launch(words, log, watch)
        seconds = spent + time.monotonic() - began
        if code:
            cell.note(STARTED, seconds, code)
            _stopped(code)
            reason = reason_of(log, start, code)
            if code == LOCKED:
                raise LockedError("LOCKED", cell.folder, "lock", f"wait for the process that holds it, then repeat the command ({reason})")
            if code == STORAGE:
                raise StorageError("STORAGE", cell.folder, "write", f"{reason}; then repeat the command")
            cell.note(FAILED, seconds, code, reason)
            return
    cell.note(FINISHED, seconds)


def _stopped(code: int) -> None:
    """Interrupted where a command ended by SIGINT or SIGTERM, sent to it or to us."""
    for number in STOPS:
        if code in (-number, 128 + number):
            raise Interrupted(number)


def reason_of(log: Path, start: int, code: int) -> str:
    """Why a command failed: the one line of error behind byte `start` of the log, or how the process ended."""
    said = log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: E_")]
    if errors:
        return errors[-1]
    return f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
