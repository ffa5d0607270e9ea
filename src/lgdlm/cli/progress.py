"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere, nothing under --quiet.

    with progress(total, "embedding") as bar:
        bar.advance(32, sentences_per_second=800.0)

Everything goes to stderr, so that stdout carries results alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lgdlm.errors import LgdlmError

SECONDS_BETWEEN_LINES = 10.0

_silent = False


class Bar(Protocol):
    """What the work reports to."""

    def advance(self, count: int = 1, **fields: object) -> None:
        """`count` more units are done; `fields` are shown beside them."""


def silence() -> None:
    """From now on nothing is shown (--quiet)."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """One line for the user on stderr, unless --quiet. Where nobody can read it any more (a pipe, a full disk) the work goes on unseen."""
    if not _silent and sys.stderr is not None:
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            silence()


@contextmanager
def shown() -> Iterator[None]:
    """A block that does nothing but print its findings: a reader of stdout that leaves amid them does not change what they are."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()


def leave_stdout() -> None:
    """The reader has gone: what is printed from now on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_damage(problem: LgdlmError) -> None:
    """What was passed over for an older one (--fallback)."""
    say(f"note: {problem}")


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Bar]:
    """A bar for `total` units of work (None: unknown)."""
    if _silent or total == 0 or sys.stderr is None:
        yield Silence()
    elif sys.stderr.isatty():
        with _terminal_bar(total, label) as bar:
            yield bar
    else:
        lines = Lines(total, label)
        yield lines
        lines.close()


class Silence:
    """Shows nothing."""

    def advance(self, count: int = 1, **fields: object) -> None:
        return


class Lines:
    """A line at most every SECONDS_BETWEEN_LINES, and one at the end."""

    def __init__(self, total: int | None, label: str):
        self.total, self.label, self.done = total, label, 0
        self.start = self.last = time.monotonic()
        self.untold = True
        self.fields: dict[str, object] = {}

    def advance(self, count: int = 1, **fields: object) -> None:
        self.done += count
        self.fields.update(fields)
        self.untold = True
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self._print(now)

    def close(self) -> None:
        if self.untold:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.untold = False
        spent = now - self.start
        parts = [f"{self.label}: {self.done}" + (f"/{self.total}" if self.total else ""), f"{spent:.0f} s"]
        if self.total and 0 < self.done < self.total:
            parts.append(f"{spent * (self.total - self.done) / self.done:.0f} s left")
        say("  ".join([*parts, *_shown(self.fields)]))


@contextmanager
def _terminal_bar(total: int | None, label: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[shown]}", markup=False))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Terminal(bars, bars.add_task(label, total=total, shown=""))


class Terminal:
    """A bar of rich."""

    def __init__(self, bars: Any, task: Any):
        self.bars, self.task, self.fields = bars, task, dict[str, object]()

    def advance(self, count: int = 1, **fields: object) -> None:
        self.fields.update(fields)
        self.bars.update(self.task, advance=count, shown="  ".join(_shown(self.fields)))


def _shown(fields: dict[str, object]) -> list[str]:
    return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()]
