"""The flags of an old command line.

    --json_path J --max-length 512 --resume key=value ...   ->   named values, and the words that go on to `lgdlm`

Underscores and hyphens mean the same. What does not parse is one line of error (E_USAGE, exit code 2), as everywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lgdlm.cli import progress
from lgdlm.cli.__main__ import guarded
from lgdlm.errors import InputError
from lgdlm.schema import nearest

COMMON = ("--quiet", "--debug")


@dataclass(frozen=True)
class Flag:
    """One flag: its name with underscores, what it holds (bool: nothing stands behind it; list: one word or more) and what it is for."""

    name: str
    kind: type = str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] | None = None
    help: str = ""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        spellings = list(dict.fromkeys([f"--{self.name}", f"--{self.name.replace('_', '-')}"]))
        if self.kind is bool:
            parser.add_argument(*spellings, dest=self.name, action="store_true", help=self.help)
        elif self.kind is list:
            parser.add_argument(*spellings, dest=self.name, nargs="+", action="extend", default=[], required=self.required, help=self.help)
        else:
            parser.add_argument(
                *spellings,
                dest=self.name,
                type=self.kind,
                default=self.default,
                required=self.required,
                choices=self.choices,
                help=self.help,
            )


class Parser(argparse.ArgumentParser):
    """argparse whose refusal is an InputError (USAGE) instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        field = next((word for word in message.replace(":", " ").replace(",", " ").split() if word.startswith("--")), "arguments")
        raise InputError("USAGE", "command-line", field.partition("/")[0], message)


@dataclass(frozen=True)
class Given:
    """What a command line says: values by flag, and `words` of the form key=value in their order."""

    values: dict[str, Any]
    words: list[str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def read_flags(description: str, flags: Sequence[Flag], arguments: Sequence[str]) -> Given:
    """The given flags and words. Raises InputError (USAGE): an unknown or repeated flag, a missing value, a stray word."""
    parser = Parser(description=description, allow_abbrev=False)
    for flag in flags:
        flag.add_to(parser)
    found, rest = parser.parse_known_args(list(arguments))
    words = []
    for word in rest:
        if word in COMMON:
            continue
        if word.startswith("-") or "=" not in word:
            known = [f"--{flag.name}" for flag in flags]
            what = f"no such flag; {nearest(word, known)}" if word.startswith("-") else "a word of the form key=value is expected"
            raise InputError("USAGE", "command-line", word, what)
        words.append(word)
    return Given(vars(found), words)


def run_flags(description: str, flags: Sequence[Flag], action: Callable[[Given], int]) -> int:
    """The exit code of `action` on this process's command line, run as a command of `lgdlm` is."""
    arguments = sys.argv[1:]
    if "--quiet" in arguments:
        progress.silence()
    return guarded(lambda: action(read_flags(description, flags, arguments)), debug="--debug" in arguments, last=True)
