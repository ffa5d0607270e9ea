"""Work for tests of engines: importable where workers run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgdlm.errors import InputError


@dataclass(frozen=True)
class Square:
    """The square of `x`; refuses `bad`, and dies at `deadly`. With a folder `meet` nobody begins before two processes are there."""

    bad: int = -1
    deadly: int = -1
    meet: str = ""

    def __call__(self, task: Any) -> dict[str, Any]:
        x = int(task["x"])
        if self.meet:
            Path(self.meet, str(os.getpid())).touch()
            last = time.monotonic() + 120
            while len(os.listdir(self.meet)) < 2 and time.monotonic() < last:
                time.sleep(0.01)
        time.sleep(0.02 * (x % 3))  # later tasks are often ready before earlier ones
        if x == self.bad:
            raise InputError("BAD_TEXT", "text", f"id {x}", "is refused; leave it out")
        if x == self.deadly:
            os._exit(9)
        return {"square": x * x, "process": os.getpid()}


@dataclass(frozen=True)
class Sleep:
    """Writes the worker's number to a file, and waits."""

    folder: str

    def __call__(self, task: Any) -> dict[str, Any]:
        with open(os.path.join(self.folder, str(os.getpid())), "w"):
            pass
        time.sleep(600)
        return {}
