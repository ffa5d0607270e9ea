"""Another rank's process on the same machine: known by more than its number, which the system gives out again.

    whereabouts() -> "boot id / namespace / pid / start time", or "" where the system has no /proc
    end(whereabouts) kills that process and no other: from another machine or container, and once it is gone, it does nothing

A rank that is frozen answers no signal but SIGKILL, and a launcher that waits for it politely waits long (torchrun: half a minute).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

PROC = Path("/proc")


def whereabouts(pid: int | None = None) -> str:
    """Of process `pid` (None: this one); empty where there is no such process, or no /proc."""
    pid = os.getpid() if pid is None else pid
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(PROC / "self/ns/pid")
        started = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]  # field 22 of proc(5)
    except (OSError, IndexError):
        return ""
    return "/".join((boot, namespace, str(pid), started))


def end(found: str) -> bool:
    """Kill the process at `found`; whether there was one to kill."""
    number = found.split("/")[2] if found.count("/") == 3 else ""
    if not number.isdigit() or int(number) == os.getpid() or whereabouts(int(number)) != found:
        return False
    try:
        os.kill(int(number), signal.SIGKILL)
    except OSError:  # gone in between, or another user's
        return False
    return True
