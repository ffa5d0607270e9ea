"""Many errors at once: the first, the count, and a file that lists all.

A scan appends every error it meets to a list; `refuse` turns the list into the one error a command ends with.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lgdlm.errors import LgdlmError


def list_problems(problems: Sequence[LgdlmError]) -> Path:
    """Write one line per problem into a file of the temporary folder, outside the data; returns its path.

    The name is a hash of the lines: the same list again is the same file. Where that name is taken by anything else, another is found.
    """
    lines = "".join(f"E_{p.code} {_flat(p.where)} {_flat(p.field)}: {_flat(p.message)}\n" for p in problems)
    data = lines.encode("utf-8", "backslashreplace")
    path = Path(tempfile.gettempdir()) / f"lgdlm-problems-{hashlib.sha256(data).hexdigest()[:16]}.txt"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        about = path.lstat()
        if stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and about.st_size == len(data) and path.read_bytes() == data:
            return path
        handle, name = tempfile.mkstemp(prefix="lgdlm-problems-", suffix=".txt")
        path = Path(name)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return path


def refuse(problems: Sequence[LgdlmError]) -> None:
    """Raise the first problem; with several, its preface has the count and the file that lists all.

    Raises an error of the first problem's class, code, place and field; returns when there is no problem.
    """
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise first
    try:
        where = f", all listed in {list_problems(problems)} "
    except OSError:  # no place for the list: the first and the count must do
        where = " "
    raise type(first)(first.code, first.where, first.field, first.message, f"problem 1 of {len(problems)}{where}: ")


def _flat(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
