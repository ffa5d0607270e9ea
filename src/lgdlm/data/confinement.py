"""A path inside data stays inside its folder.

    open(root, relative) succeeds only if relative has no `..`, is not absolute, resolves (through any symlink) below
    root, and names a regular file none of whose hard links lie outside root

FIFOs and devices are recognised before they are opened: opening one may block for ever.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lgdlm.errors import InputError


class Confinement:
    """Opens files below one folder and nothing else.

    `root` may itself be reached through a symlink; what lies under it may not lead out.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._resolved = os.path.realpath(self.root)
        self._names: Counter[tuple[int, int]] | None = None

    def path(self, relative: object, where: object, field: str) -> Path:
        """The real path of `relative`, checked; `where` and `field` say who asked.

        Raises InputError: BAD_PATH (not a usable relative path), OUTSIDE (leads out of the folder), MISSING_FILE,
        NOT_A_FILE (a folder, FIFO, socket or device).
        """
        if not isinstance(relative, str) or not relative or "\0" in relative or not _encodable(relative):
            raise InputError("BAD_PATH", where, field, f"expected a relative path, got {str(relative)[:40]!r}")
        parts = PurePosixPath(relative.replace("\\", "/") if os.name == "nt" else relative)
        if parts.is_absolute() or ".." in parts.parts or Path(relative).is_absolute():
            raise InputError("OUTSIDE", where, field, f"must stay below {self.root}, got {relative!r}; move the file into the folder")
        try:
            resolved = os.path.realpath(Path(self._resolved, relative), strict=True)
            status = Path(resolved).stat()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError("MISSING_FILE", where, field, f"{relative} does not exist below {self.root}") from None
        except OSError as error:
            raise InputError("BAD_PATH", where, field, f"{relative!r} cannot be reached: {error.strerror}") from None
        if os.path.commonpath([resolved, self._resolved]) != self._resolved:
            raise InputError("OUTSIDE", where, field, f"{relative} is a link that leads out of {self.root}; copy the file into the folder")
        if not stat.S_ISREG(status.st_mode):
            raise InputError("NOT_A_FILE", where, field, f"{relative} is not a regular file (folder, FIFO, socket or device)")
        if status.st_nlink > 1 and self._links_inside(status) < status.st_nlink:
            raise InputError("OUTSIDE", where, field, f"{relative} has a hard link outside {self.root}; copy the file into the folder")
        return Path(resolved)

    def open(self, relative: object, where: object, field: str) -> BinaryIO:
        """The checked file, open for reading (raises as `path` does, and UNREADABLE)."""
        path = self.path(relative, where, field)
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError("UNREADABLE", where, field, f"{relative} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # swapped between the two calls
            os.close(handle)
            raise InputError("NOT_A_FILE", where, field, f"{relative} is not a regular file")
        return os.fdopen(handle, "rb")

    def _links_inside(self, status: os.stat_result) -> int:
        """How many names of this file lie below the root; the tree is walked once, and only if a hard link was met."""
        if self._names is None:
            self._names = Counter()
            for folder, _, names in os.walk(self._resolved):
                for name in names:
                    entry = Path(folder, name).lstat()
                    if entry.st_nlink > 1 and stat.S_ISREG(entry.st_mode):
                        self._names[entry.st_dev, entry.st_ino] += 1
        return self._names[status.st_dev, status.st_ino]


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
