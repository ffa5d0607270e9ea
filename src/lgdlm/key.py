"""One line of the configuration: a dataclass field that carries its help text, its choices and its bounds."""

from __future__ import annotations

import copy
from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def key(default: T, help: str, choices: tuple[str, ...] = (), at_least: float | None = None, at_most: float | None = None) -> T:
    """A field with its one-line help; `choices` lists the valid words, `at_least` and `at_most` bound a number (both inclusive)."""
    metadata = {"help": help, "choices": choices, "at_least": at_least, "at_most": at_most}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type[T]) -> T:
    """A nested group that starts at its own defaults."""
    return field(default_factory=kind)
