"""Disks of a few hundred kilobytes, made of memory: they can be filled up and made read-only.

Mounting needs the right to mount. Where that is missing `disk` raises NotPermitted, which says why, and nobody counts the case.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BALLAST = "ballast"


class NotPermitted(Exception):
    """This machine does not let the tests do what the case needs."""


def _mount(*words: str) -> None:
    if shutil.which("mount") is None:
        raise NotPermitted("no mount command")
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        raise NotPermitted(f"mount is not permitted here ({done.stderr.strip()})")


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size at `place`, gone behind the block."""
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def read_only(place: Path, yes: bool) -> None:
    """Remount it."""
    _mount("-o", f"remount,{'ro' if yes else 'rw'}", str(place))


def leave(place: Path, free: int) -> None:
    """Fill the disk until `free` bytes are left."""
    (place / BALLAST).write_bytes(b"")
    found = os.statvfs(place)
    with (place / BALLAST).open("wb") as file:
        file.write(bytes(max(0, found.f_bavail * found.f_frsize - free)))
