"""Entries of the line and tree formats that users keep texts in: JSONL, JSON, TXT.

    bytes -> UTF-8 (strict) -> JSON object, or a line -> Entry(where, values)

What is wrong is yielded in its place as an `InputError`, so that a scan can list every problem of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgdlm.data.strict_json import Fault, elements, name_of, parse
from lgdlm.data.text import Dropped
from lgdlm.errors import InputError

BOM = b"\xef\xbb\xbf"
LINE_BYTES = 1 << 26  # a line is held in memory whole
FILE_BYTES = 1 << 31  # and so is a JSON list


@dataclass(frozen=True)
class Entry:
    """One object of a user's file; `where` is `file:line` or `file#index`, `values` its fields, not yet checked."""

    where: str
    values: dict[str, Any]


def read_jsonl(path: Path) -> Iterator[Entry | Dropped | InputError]:
    """An object a line. Yields InputError: BAD_UTF8 (with the byte offset), BAD_JSON (with the line), TOO_LARGE."""
    return _entries(path, lambda where, line: _entry(where, _parsed(where, line)))


def read_json(path: Path) -> Iterator[Entry | InputError]:
    """A list of objects. Yields InputError: BAD_UTF8 (with the byte offset), BAD_JSON (with the line, or the entry), TOO_LARGE."""
    size = path.stat().st_size
    if size > FILE_BYTES:
        yield InputError("TOO_LARGE", path, "file", f"has {size} bytes, a JSON list at most {FILE_BYTES}; use JSONL or Parquet")
        return
    data = path.read_bytes().removeprefix(BOM)
    text = _decoded(path, data, size - len(data))
    if isinstance(text, InputError):
        yield text
        return
    index = 0
    try:
        for index, value in enumerate(elements(text)):
            where = f"{path}#{index}"
            yield InputError("BAD_JSON", where, "entry", str(value)) if isinstance(value, Fault) else _entry(where, value)
    except Fault as fault:
        place = f"{path}:{fault.line}" if fault.line else path
        yield InputError("BAD_JSON", place, "file", f"cut or malformed JSON{_column(fault)}: {fault}")


def read_txt(path: Path, text_field: str) -> Iterator[Entry | Dropped | InputError]:
    """A text a line (LF or CRLF); blank lines separate, are no texts and are counted. Yields InputError: BAD_UTF8, TOO_LARGE."""
    return _entries(path, lambda where, line: Entry(where, {text_field: line}))


def _entries(path: Path, entry_of: Callable[[str, str], Entry | InputError]) -> Iterator[Entry | Dropped | InputError]:
    """One entry a line that is not blank."""
    for where, line in _lines(path):
        if isinstance(line, InputError):
            yield line
        else:
            yield entry_of(where, line) if line.strip() else Dropped("blank line")


def _lines(path: Path) -> Iterator[tuple[str, str | InputError]]:
    offset, number = 0, 0
    with path.open("rb") as file:
        while data := file.readline(LINE_BYTES + 1):
            number += 1
            where, size = f"{path}:{number}", len(data)
            if size > LINE_BYTES:
                while not data.endswith(b"\n") and (data := file.readline(LINE_BYTES)):
                    size += len(data)
                yield where, InputError("TOO_LARGE", where, "line", f"has {size} bytes, a line at most {LINE_BYTES}; break it")
            else:
                bom = len(BOM) if number == 1 and data.startswith(BOM) else 0
                yield where, _decoded(where, data[bom:].removesuffix(b"\n").removesuffix(b"\r"), offset + bom)
            offset += size


def _decoded(where: object, data: bytes, offset: int) -> str | InputError:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}"
        return InputError("BAD_UTF8", where, "text", f"{byte} is not UTF-8; save the file as UTF-8")


def _parsed(where: str, text: str) -> Any:
    try:
        return parse(text)
    except Fault as fault:
        return InputError("BAD_JSON", where, "file", f"cut or malformed JSON{_column(fault)}: {fault}")


def _column(fault: Fault) -> str:
    return f" at column {fault.column}" if fault.column else ""


def _entry(where: str, value: Any) -> Entry | InputError:
    if isinstance(value, InputError):
        return value
    if not isinstance(value, dict):
        return InputError("BAD_JSON", where, "entry", f'expected an object such as {{"text": ...}}, got {name_of(value)}')
    return Entry(where, value)
