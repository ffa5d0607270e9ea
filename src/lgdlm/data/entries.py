"""Entries of the line and tree formats that users keep texts in: JSONL, JSON, TXT.

    bytes -> UTF-8 (strict) -> JSON object, or a line -> Entry(where, values)

What is wrong is yielded in its place as an `InputError`, so that a scan can list every problem of a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgdlm.data.text import Dropped
from lgdlm.errors import InputError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Entry:
    """One object of a user's file; `where` is `file:line` or `file#index`, `values` its fields, not yet checked."""

    where: str
    values: dict[str, Any]


def read_jsonl(path: Path) -> Iterator[Entry | Dropped | InputError]:
    """An object a line. Yields InputError: BAD_UTF8 (with the byte offset), BAD_JSON (with the line)."""
    for where, line in _lines(path):
        if isinstance(line, InputError):
            yield line
        elif not line.strip():
            yield Dropped("blank line")
        else:
            yield _entry(where, _parsed(where, line, one_line=True))


def read_json(path: Path) -> Iterator[Entry | InputError]:
    """A list of objects. Yields InputError: BAD_UTF8 (with the byte offset), BAD_JSON (with the line)."""
    data = path.read_bytes().removeprefix(BOM)
    text = _decoded(path, data, path.stat().st_size - len(data))
    content = text if isinstance(text, InputError) else _parsed(str(path), text, one_line=False)
    if isinstance(content, InputError):
        yield content
    elif not isinstance(content, list):
        yield InputError("BAD_JSON", path, "file", f"expected a list of objects, got {_name(content)}")
    else:
        for index, value in enumerate(content):
            yield _entry(f"{path}#{index}", value)


def read_txt(path: Path, text_field: str) -> Iterator[Entry | Dropped | InputError]:
    """A text a line (LF or CRLF); blank lines separate, are no texts and are counted. Yields InputError: BAD_UTF8."""
    for where, line in _lines(path):
        if isinstance(line, InputError):
            yield line
        elif not line.strip():
            yield Dropped("blank line")
        else:
            yield Entry(where, {text_field: line})


def _lines(path: Path) -> Iterator[tuple[str, str | InputError]]:
    offset = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            bom = len(BOM) if number == 1 and data.startswith(BOM) else 0
            where = f"{path}:{number}"
            yield where, _decoded(where, data[bom:].removesuffix(b"\n").removesuffix(b"\r"), offset + bom)
            offset += len(data)


def _decoded(where: object, data: bytes, offset: int) -> str | InputError:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}"
        return InputError("BAD_UTF8", where, "text", f"{byte} is not UTF-8; save the file as UTF-8")


def _parsed(where: str, text: str, one_line: bool) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if one_line else f"{where}:{error.lineno}"
        return InputError("BAD_JSON", place, "file", f"cut or malformed JSON at column {error.colno}: {error.msg}")
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        return InputError("BAD_JSON", where, "file", f"not readable as JSON: {error}")


def _entry(where: str, value: Any) -> Entry | InputError:
    if isinstance(value, InputError):
        return value
    if not isinstance(value, dict):
        return InputError("BAD_JSON", where, "entry", f'expected an object such as {{"text": ...}}, got {_name(value)}')
    return Entry(where, value)


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
