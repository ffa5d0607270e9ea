"""`lgdlm COMMAND [key=value ...]`: words in, exit code out, one line of error at the end.

0 ok, 2 usage, configuration or input, 3 checkpoint, 4 locked, 5 storage, 6 diverged, 7 peer lost, 130 SIGINT, 143 SIGTERM
1 a defect of ours: the line names the file that holds the traceback
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lgdlm.cli.progress import leave_stdout
from lgdlm.errors import InputError, LgdlmError, Stopped, StorageError, end_at_once, speaks, tell

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)  # what only a path of the user's can be


def main(arguments: list[str] | None = None, last: bool | None = None) -> int:
    """Runs one command line and returns its exit code; every failure ends in exactly one line on stderr.

    `last`: the process ends with it, as it does where the line is the process's own (None).
    """
    last = arguments is None if last is None else last
    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: _run(arguments), debug="--debug" in arguments, last=last)


def guarded(action: Callable[[], int], debug: bool = False, last: bool = False) -> int:
    """The exit code of `action`, which is run as a command is: with its environment, its signals and its one line of error."""
    occupy_standard_streams()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded, and worth a tenth of a step
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched by itself
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost peer is told in one line, not in torch's sixty
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: a name need not be Unicode, nor a terminal know all of it
    try:
        with ending_at_once(last):
            code = action()
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be written is told now, and not by the interpreter behind us
            return code
    except (KeyboardInterrupt, Terminated) as asked:
        number = signal.SIGINT if isinstance(asked, KeyboardInterrupt) else signal.SIGTERM
        return _told(Stopped.by(number, "command", "stopped before its end; nothing half-written is left, repeat the command to go on"))
    except BrokenPipeError:  # the reader of our output left: not our failure
        leave_stdout()
        return 0
    except Exception as problem:
        error = _as_ours(problem)
        if debug:
            traceback.print_exc()
        return _told(error or _defect(problem), error.exit_code if error else 1)


def occupy_standard_streams() -> None:
    """Where one was closed (`2>&-`) its number would go to the next file that is opened, and what is said to the user into that."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _told(error: LgdlmError, code: int | None = None) -> int:
    """The exit code of an error (or `code`), once its line is printed."""
    tell(error)
    return error.exit_code if code is None else code


def _run(arguments: list[str]) -> int:
    from lgdlm import __version__
    from lgdlm.cli.commands import parse
    from lgdlm.cli.compose import compose

    if arguments == ["--version"]:
        print(__version__)
        return 0
    request = parse(arguments)
    if request.help or not request.command:
        from lgdlm.cli.help import of_command, overview

        print(of_command(request.command) if request.command else overview(), end="")
        if request.help:
            return 0
        raise InputError("USAGE", "command-line", "COMMAND", "a command is expected; lgdlm --help lists them")
    if request.quiet or not speaks(os.environ):
        from lgdlm.cli import progress

        progress.silence()
    config = compose(request.words, request.config_name)
    if request.command in ("train", "demo") and config.training.nproc > 1 and "WORLD_SIZE" not in os.environ:
        if request.command == "demo":
            raise InputError("USAGE", "command-line", "training.nproc", "the demo is one process: prepare, then lgdlm train nproc=N")
        from lgdlm.cli.launch import launch

        return launch(arguments, config.training.nproc)
    command = importlib.import_module(f"lgdlm.cli.{request.command}")
    return int(command.run(config) if request.passed_on is None else command.run(config, request.passed_on))


class Terminated(BaseException):
    """SIGTERM where no training loop is there to save a checkpoint first."""


@contextmanager
def ending_at_once(last: bool) -> Iterator[None]:
    """SIGTERM and SIGINT end the block by an exception, so that nothing half-written stays behind; a second one does not wait for that.

    Behind the block the exit code is decided. Where it is the `last` of its process a signal changes nothing any more: taking an
    interpreter apart lasts long enough to meet one, and it would end with another code.
    """
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        if received:
            end_at_once(number)
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, before)
        for number, handler in before.items():
            # not a handler of ours: Python takes those away while it takes itself apart, and the signal would end it then
            signal.signal(number, signal.SIG_IGN if last else handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)


def _as_ours(problem: Exception) -> LgdlmError | None:
    """The user's error behind an exception, or None where the defect is ours."""
    if isinstance(problem, LgdlmError):
        return problem
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(problem):
        remedy = "lower training.train_batch_size (and raise gradient_accumulation_steps), or take a smaller model or batch_size"
        return InputError("MEMORY", "machine", "memory", f"there is not enough for this; {remedy}")
    if isinstance(problem, OSError) and problem.errno in STORAGE_ERRORS:
        place = problem.filename2 or problem.filename or "storage"
        remedy = "it must be permitted to read it, or to write it where there is room"
        return StorageError("STORAGE", place, "storage", f"{problem.strerror}; {remedy}")
    if isinstance(problem, OSError) and problem.errno in PATH_ERRORS:
        return InputError("BAD_PATH", problem.filename or "path", "path", f"{problem.strerror}; choose another path")
    return None


def _defect(problem: Exception) -> LgdlmError:
    """The line of a defect, with the file that keeps its traceback."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="lgdlm-traceback-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(problem)))
        kept = f"traceback in {file.name} ;"
    except OSError:  # no place for it: the line alone, --debug shows the rest
        kept = "run again with --debug for the traceback;"
    frames = traceback.extract_tb(problem.__traceback__)
    ours = [frame for frame in frames if "lgdlm" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return LgdlmError("DEFECT", place, type(problem).__name__, f"{kept} {problem}")


if __name__ == "__main__":
    sys.exit(main())
