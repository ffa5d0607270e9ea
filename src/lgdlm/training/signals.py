"""SIGINT and SIGTERM: the first asks for a checkpoint and a clean end, a second one exits at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from lgdlm.errors import end_at_once


class Interrupted(Exception):
    """Training in `run` ended early on signal `number`, after a checkpoint of its `step` was saved; the exit code is 128 + the signal."""

    def __init__(self, number: int, run: object = "", step: int = 0):
        super().__init__(signal.Signals(number).name)
        self.number, self.run, self.step, self.exit_code = number, run, step, 128 + number


class StopRequest:
    """Context in which the two signals set `number` instead of raising in the middle of an update."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Callable | int | None] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            end_at_once(number)  # a checkpoint being written is still under its temporary name
        self.number = number
