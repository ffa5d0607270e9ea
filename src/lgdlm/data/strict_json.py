"""JSON from strangers: one reading, or none.

    text -> value,   where no object has one name twice and every number is a number

Python's reader keeps the last of two equal names, and reads NaN and Infinity, which no standard has: two programs would read two
different things in one file. Here both are faults, and so is nesting deeper than the reader goes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

SPACE = re.compile(r"[ \t\r\n]*")


class Fault(ValueError):
    """What is wrong with a JSON text; `line` and `column` count from 1 (0: not known)."""

    def __init__(self, message: str, line: int = 0, column: int = 0):
        self.line, self.column = line, column
        super().__init__(message)


def parse(data: str | bytes) -> Any:
    """The value of a JSON text (bytes are UTF-8). Raises Fault; UnicodeDecodeError for bytes that are not UTF-8."""
    text = data if isinstance(data, str) else data.decode("utf-8")
    value, end = _Reader(text).value(_after_space(text, 0))
    if (rest := _after_space(text, end)) != len(text):
        raise _fault(text, rest, "expected nothing more")
    if isinstance(value, Fault):
        raise value
    return value


def elements(text: str) -> Iterator[Any]:
    """The elements of a JSON list one by one, a `Fault` in the place of one that can be skipped.

    Raises Fault where the rest of the text cannot be read, or where it is no list (its message then names what it is).
    """
    reader, at = _Reader(text), _after_space(text, 0)
    if text[at : at + 1] != "[":
        raise Fault(f"expected a list, got {name_of(parse(text))}")
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "]":
        at += 1
    else:
        while True:
            value, at = reader.value(at)
            yield value
            at = _after_space(text, at)
            if text[at : at + 1] not in (",", "]"):
                raise _fault(text, at, "expected ',' or ']' behind an element")
            at += 1
            if text[at - 1] == "]":
                break
            at = _after_space(text, at)
    if (rest := _after_space(text, at)) != len(text):
        raise _fault(text, rest, "expected nothing behind the list")


def name_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


class _Reader:
    """Values of one text by their position; faults inside a value are gathered, so that what follows it can still be read."""

    def __init__(self, text: str):
        self._text = text
        self._faults: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float)

    def value(self, at: int) -> tuple[Any, int]:
        """The value that begins at `at` (or its Fault) and the position behind it; raises Fault where it does not end."""
        self._faults.clear()
        try:
            value, end = self._decoder.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            raise Fault(error.msg, error.lineno, error.colno) from None
        except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
            message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise _fault(self._text, at, f"a value that cannot be read: {message}") from None
        return (_fault(self._text, at, self._faults[0]) if self._faults else value), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            self._faults.append(f"the name {twice[:40]!r} stands twice in one object")
        return found

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._faults.append(f"{digits[:20]} is beyond every number")
        return number

    def _constant(self, name: str) -> None:
        self._faults.append(f"{name} is no JSON number")


def _after_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    assert match is not None, "no space is space too"
    return match.end()


def _fault(text: str, at: int, message: str) -> Fault:
    line = text.count("\n", 0, at) + 1
    return Fault(message, line, at - text.rfind("\n", 0, at))
