"""What a power cut leaves: what was flushed, and of the rest nothing.

    a file              its bytes up to the last fsync of it
    a rename            undone unless the folder was flushed behind it; what it replaced is there again

A file system may keep more than that, never less. So this is the hardest cut, and kill -9, which loses no byte that was
written, is the mildest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Inode = tuple[int, int]


@dataclass(frozen=True)
class Rename:
    """`source` became `target`; `kept` is another name of the file that `target` was before."""

    source: Path
    target: Path
    kept: Path | None


class Power:
    """Knows what is not flushed yet."""

    def __init__(self) -> None:
        self.flushed: dict[Inode, int] = {}  # of files with writes behind the last fsync: the bytes up to it
        self.renames: list[Rename] = []
        self._rename, self._count = os.rename, 0

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `os` that flushes or renames, with its effect noted."""
        if name == "fsync":
            return lambda handle: (function(handle), self.synced(handle))[0]
        if name in ("rename", "replace"):
            return lambda source, target: self.renamed(function, Path(source).absolute(), Path(target).absolute())
        return function

    def written(self, handle: int) -> None:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode):
            self.flushed.setdefault((found.st_dev, found.st_ino), found.st_size)

    def synced(self, handle: int) -> None:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            self.renames = [r for r in self.renames if _inode(r.target.parent) != (found.st_dev, found.st_ino)]
        else:
            self.flushed.pop((found.st_dev, found.st_ino), None)

    def renamed(self, function: Callable[..., Any], source: Path, target: Path) -> Any:
        kept = None
        if target.is_file():
            self._count += 1
            kept = Path.cwd() / f"kept-{os.getpid()}-{self._count}"  # beside the run, not in it
            os.link(target, kept)
        result = function(source, target)
        self.renames.append(Rename(source, target, kept))
        return result

    def cut(self) -> None:
        """Take away what is not flushed."""
        found = {_inode(path): path for path in Path.cwd().rglob("*") if path.is_file() and not path.is_symlink()}
        for inode, size in self.flushed.items():
            if (path := found.get(inode)) is not None:
                os.truncate(path, size)
        for rename in reversed(self.renames):
            if rename.target.exists() and not rename.source.exists() and rename.source.parent.is_dir():
                self._rename(rename.target, rename.source)
                if rename.kept is not None:
                    self._rename(rename.kept, rename.target)


def _inode(path: Path) -> Inode:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
