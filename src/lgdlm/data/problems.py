"""Many errors at once: the first, the count, and a file that lists all.

A scan appends every `InputError` it meets to a list; `refuse` turns the list into the one error a command ends with.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lgdlm.errors import InputError


def list_problems(problems: Sequence[InputError]) -> Path:
    """Write one line per problem into a fresh file of the temporary folder, outside the data; returns its path."""
    handle, name = tempfile.mkstemp(prefix="lgdlm-problems-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(f"E_{p.code} {_flat(p.where)} {_flat(p.field)}: {_flat(p.message)}\n" for p in problems)
    return Path(name)


def refuse(problems: Sequence[InputError]) -> None:
    """Raise the first problem; with several, its message opens with the count and the file that lists all.

    Raises InputError with the first problem's code, place and field; returns when there is no problem.
    """
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise first
    listed = list_problems(problems)
    raise InputError(first.code, first.where, first.field, f"problem 1 of {len(problems)}, all listed in {listed} : {first.message}")


def _flat(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
