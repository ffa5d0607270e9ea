"""Where a process is struck, and with what.

    Strike("fsync", visit=3, moment="after", blow="KILL")    the process dies behind its third fsync

The product has no hooks. What it calls is wrapped in the process that is to be struck: its own functions (POINTS) and what it asks of
the operating system (write, fsync, rename, unlink). A write can also be struck in its middle, with half of its bytes on the disk.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from crash.power import Power

POINTS = {
    "data": ("lgdlm.data.loader", "Loader", "step"),
    "forward": ("lgdlm.models.joint", "TextLatentDiffusion", "forward"),
    "backward": ("torch", "Tensor", "backward"),
    "optimizer": ("lgdlm.training.optimizer", "Optimizers", "step"),
    "EMA": ("lgdlm.training.ema", "Ema", "update"),
    "evaluation": ("lgdlm.training.assemble", None, "validate"),
}
FILES = {"fsync": ("fsync",), "rename": ("rename", "replace"), "unlink": ("unlink", "rmdir")}
MOMENTS = {"write": ("before", "amid", "after"), **dict.fromkeys((*POINTS, *FILES), ("before", "after"))}
OPTIONS = ("buffering", "encoding", "errors", "newline", "closefd", "opener")  # of `open`, by place
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP, "TERM": signal.SIGTERM, "INT": signal.SIGINT}


@dataclass(frozen=True)
class Strike:
    """At the `visit`-th time (from 1) that the process comes to `point`, `moment` it passes, `blow` falls:

    KILL, STOP, TERM, INT    signals to itself, several with spaces between
    POWER                    everything that was not flushed is lost, then KILL
    an errno's name          the operating system refuses; with a `+` behind it, so it does from then on
    CLOCK+n, CLOCK-n         the clock jumps by n seconds
    DEAF                     from then on the disk only says that it has flushed
    """

    point: str
    visit: int
    moment: str = "before"
    blow: str = "KILL"

    def __str__(self) -> str:
        return f"{self.blow} {self.moment} {self.point} {self.visit}"


class Field:
    """Counts the visits to every point of this process and lets the blows fall. `tally` is what it saw."""

    def __init__(self, strikes: list[Strike]):
        self.strikes, self.tally, self.lasting = strikes, Counter[str](), 0
        self.clock_shift, self.deaf = 0.0, False
        self.power = Power() if any(strike.blow == "POWER" for strike in strikes) else None

    def install(self) -> None:
        """Wrap every point. There is no way back: the process is one that ends."""
        for point, (module, owner, name) in POINTS.items():
            holder: Any = importlib.import_module(module)
            holder = getattr(holder, owner) if owner else holder
            setattr(holder, name, self.wrapped(point, getattr(holder, name)))
        for point, names in FILES.items():
            for name in names:
                setattr(os, name, self.wrapped(point, self.watched(name, getattr(os, name))))
        self._wrap_files()
        self._wrap_clock()

    def wrapped(self, point: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def visited(*args: Any, **options: Any) -> Any:
            blows = self.arrive(point)
            self.fall(blows, "before")
            result = None if self.deaf and point == "fsync" else function(*args, **options)
            self.fall(blows, "after")
            return result

        return visited

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, known to the power supply."""
        return function if self.power is None else self.power.watched(name, function)

    def arrive(self, point: str) -> list[Strike]:
        """One more visit to `point`: the strikes that are meant for it."""
        if self.lasting and point in MOMENTS and point not in POINTS:
            self.refuse(self.lasting)
        self.tally[point] += 1
        return [strike for strike in self.strikes if (strike.point, strike.visit) == (point, self.tally[point])]

    def fall(self, blows: list[Strike], moment: str) -> None:
        for strike in blows:
            if strike.moment == moment:
                self.blow(strike.blow)

    def blow(self, blow: str) -> None:
        if blow.startswith("CLOCK"):
            self.clock_shift += float(blow.removeprefix("CLOCK"))
        elif blow == "DEAF":
            self.deaf = True
        elif blow == "POWER":
            assert self.power is not None
            self.power.cut()
            os.kill(os.getpid(), signal.SIGKILL)
        elif blow.startswith("E"):
            number = getattr(errno, blow.rstrip("+"))
            self.lasting = number if blow.endswith("+") else 0
            self.refuse(number)
        else:
            for name in blow.split():
                os.kill(os.getpid(), SIGNALS[name])

    def refuse(self, number: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    def _wrap_files(self) -> None:
        """Files that are opened for writing, by `open` and by paths, are visited at every write that reaches the system."""
        field, plain = self, io.open

        class Visited(io.FileIO):
            def write(self, data: Any) -> int:
                blows = field.arrive("write")
                field.fall(blows, "before")
                if field.power is not None:
                    field.power.written(self.fileno())
                if any(strike.moment == "amid" for strike in blows):
                    super().write(memoryview(data)[: len(data) // 2])
                    field.fall(blows, "amid")
                size = super().write(data)
                field.fall(blows, "after")
                return size

        def opened(file: Any, mode: str = "r", *places: Any, **options: Any) -> Any:
            told = {**dict(zip(OPTIONS, places, strict=False)), **options}
            if not set(mode) & set("wax+") or isinstance(file, int):
                return plain(file, mode, **told)
            if field.lasting == errno.EROFS:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(file))
            raw = Visited(file, mode.replace("b", "").replace("t", ""), told.get("closefd", True), told.get("opener"))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *(told.get(name) for name in ("encoding", "errors", "newline")))

        builtins.open = io.open = opened  # type: ignore[assignment]

    def _wrap_clock(self) -> None:
        """The time of day jumps as it is told; the clock that only runs forward never goes back, not even then."""
        of_day, running = time.time, time.monotonic
        time.time = lambda: of_day() + self.clock_shift
        time.monotonic = lambda: running() + max(0.0, self.clock_shift)
