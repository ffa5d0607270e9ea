"""Errors that a user can act on: one line, one exit code.

    error: E_<CODE> <file>[:line|#index] <field>: <what is wrong, expected against got, what to do>

Everything a user can cause raises one of these classes; the command line prints the line and exits with
the class's code. An exception of any other type is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

LINE_BYTES = 300
FIELD_BYTES = PLACE_BYTES = 48  # of a line whose preface takes the rest


class LgdlmError(Exception):
    """A failure with a place, a field and a remedy.

    `code` names the kind (`NAN_LATENT`), `where` the file (with `:line` or `#index` where known), `field` the key,
    tensor or sample, `message` what was expected, what was found and what to do. `preface` opens the message and is never
    cut: the count of problems and the file that lists them all.
    """

    exit_code = 2

    def __init__(self, code: str, where: object, field: str, message: str, preface: str = ""):
        self.code, self.where, self.field, self.message, self.preface = code, str(where), field, message, preface
        super().__init__(f"E_{code} {where} {field}: {preface}{message}")

    def __reduce__(self) -> tuple[type[LgdlmError], tuple[str, str, str, str, str]]:
        """Errors cross process borders: by default an exception is rebuilt from its one printed argument, which fails."""
        return type(self), (self.code, self.where, self.field, self.message, self.preface)

    def line(self) -> str:
        """The one line of the contract: control characters escaped, at most 300 bytes.

        What does not fit is cut from the start of the place first (a file is recognised by its end), then from the
        end of the message; with a preface from the end of a long field as well.
        """
        place, field, preface = _printable(self.where), _printable(self.field), _printable(self.preface)
        if preface:
            field = _cut(field, FIELD_BYTES)
        head, tail = f"error: E_{self.code} ", f" {field}: {preface}{_printable(self.message)}"
        wanted = max(LINE_BYTES // 2, len(f" {field}: {preface}...".encode()))
        room = LINE_BYTES - len(head.encode()) - min(len(tail.encode()), wanted)
        return _cut(head + _keep_end(place, max(room, PLACE_BYTES)) + tail, LINE_BYTES)


class InputError(LgdlmError):
    """Bad usage, configuration or data (exit 2)."""


class CheckpointError(LgdlmError):
    """A checkpoint that is damaged, incomplete or of another model (exit 3)."""

    exit_code = 3


class LockedError(LgdlmError):
    """Another process writes this run directory (exit 4)."""

    exit_code = 4


class StorageError(LgdlmError):
    """The disk is full, read-only, or does not permit it (exit 5)."""

    exit_code = 5


class Diverged(LgdlmError):
    """Too many non-finite steps in a row (exit 6)."""

    exit_code = 6


class Stopped(LgdlmError):
    """A signal ended a command; `field` is its name (exit 130 for SIGINT, 143 for SIGTERM)."""

    exit_code = 128 + signal.SIGINT

    def __init__(self, code: str, where: object, field: str, message: str, preface: str = ""):
        super().__init__(code, where, field, message, preface)
        if field in signal.Signals.__members__:  # an error is rebuilt from its parts on its way between processes
            self.exit_code = 128 + signal.Signals[field]

    @classmethod
    def by(cls, number: int, where: object, message: str) -> Stopped:
        """By signal `number`; `where` is what was stopped."""
        return cls("INTERRUPTED", where, signal.Signals(number).name, message)


class PeerLost(LgdlmError):
    """Another rank of the job is gone or does not answer (exit 7)."""

    exit_code = 7


def speaks(environment: Mapping[str, str]) -> bool:
    """Whether this process tells its errors: of the ranks of a job the lead does."""
    return environment.get("RANK", "0") == "0" or environment.get("WORLD_SIZE", "1") == "1"


def tell(error: LgdlmError) -> None:
    """Print the line of an error on stderr, where this process speaks. Nobody may be there to read it: the exit code says it still."""
    if speaks(os.environ) and sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(error.line(), file=sys.stderr, flush=True)


def end_at_once(number: int) -> NoReturn:
    """The end behind a second signal `number`: one line, and nothing that takes time. For signal handlers."""
    line = Stopped.by(number, "command", "stopped at once; what was being written stands under a name that is never read").line()
    if speaks(os.environ):
        with suppress(OSError):  # nobody can read it: the code says it still
            os.write(2, f"{line}\n".encode())
    os._exit(128 + number)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _cut(text: str, size: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= size else data[: size - 3].decode("utf-8", "ignore") + "..."


def _keep_end(text: str, size: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= size else "..." + data[len(data) - size + 3 :].decode("utf-8", "ignore")
