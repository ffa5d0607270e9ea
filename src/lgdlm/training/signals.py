"""SIGINT and SIGTERM: the first asks for a checkpoint and a clean end, a second one exits at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType


class Interrupted(Exception):
    """Training ended early on a signal, after its checkpoint was saved; the exit code is 128 + the signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


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
            os._exit(128 + number)  # a checkpoint being written is still under its temporary name
        self.number = number
