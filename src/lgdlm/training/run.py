"""A run directory: who writes it, what happened, and the log.

    RUN/config.yaml  training_log.jsonl  events.jsonl  ledger.jsonl  step_XXXXXXXX/  epoch_XXX/  latest  lock

Log and events are strict JSON lines, appended across resumes; after a crash they are cut back to the step that training
resumes from, so that every step stands in them exactly once. `resumed` tells how many lines that took.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lgdlm.data.storage import flush_folder, make_folder, storage, write_bytes
from lgdlm.errors import InputError, LockedError, StorageError
from lgdlm.training.shelf import clear_leftovers, set_aside_behind

OF_A_STEP = ("step_skipped", "metric_not_finite", "parameters_thawed")  # they happen again when the step is taken again
LOG, EVENTS, LEDGER, LOCK = "training_log.jsonl", "events.jsonl", "ledger.jsonl", "lock"


class RunDirectory:
    """The one writer of a run. Raises LockedError while another live process holds it; a dead one's lock does not block.

    InputError for a path that is no UTF-8: no safetensors file there could be read again.
    """

    def __init__(self, path: Path):
        if os.fsencode(path) != str(path).encode("utf-8", "replace"):
            raise InputError("BAD_PATH", path, "logging.run_name", "holds bytes that are not UTF-8; choose another path")
        self._made = [p for p in (path, *path.parents) if not p.exists()]
        self.path = make_folder(path)
        with storage(path):
            for made in self._made:
                flush_folder(made.parent)
        self._lock = self._take_lock()

    def _take_lock(self) -> IO[str]:
        with storage(self.path / LOCK):
            handle = open(self.path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as busy:
            if busy.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                handle.close()
                raise StorageError(
                    "NO_LOCKS", self.path / LOCK, "lock", f"the file system cannot lock ({busy.strerror}); choose another logging.save_dir"
                ) from busy
            handle.seek(0)
            owner = handle.read(200).strip() or "another process"
            handle.close()
            raise LockedError(
                "LOCKED", self.path / LOCK, "lock", f"held by {owner}: wait for it, or choose another logging.run_name"
            ) from busy
        handle.seek(0)
        handle.truncate()
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        handle.flush()
        return handle

    def close(self) -> None:
        """Give the run free; a folder that was made for it and never started (its configuration was refused) is removed again."""
        if self._made and not (self.path / EVENTS).exists():
            shutil.rmtree(self.path, ignore_errors=True)
            for parent in self._made:
                with suppress(OSError):  # another run lives there by now
                    parent.rmdir()
        else:
            self._lock.truncate(0)
        self._lock.close()

    def flush(self) -> None:
        """Force log, ledger and events to disk: a checkpoint that survives a power cut must not outlive its log."""
        for name in (LOG, LEDGER, EVENTS):
            if (path := self.path / name).exists():
                with storage(path), open(path, "rb+") as file:
                    os.fsync(file.fileno())

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One JSON object as a line; NaN and infinity are refused, so the file stays readable by every parser."""
        line = json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"
        with storage(self.path / name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(line)

    def event(self, event: str, **facts: Any) -> None:
        self.append(EVENTS, {"event": event, "time": round(time.time(), 3), **facts})

    def start(self, config_yaml: str, step: int, checkpoint: Path | None) -> None:
        """Note that a run begins, or goes on behind `step` of `checkpoint`; `config.yaml` says with what.

        What is behind `step` belongs to another history: log lines are dropped, checkpoints set aside. What a killed process was
        writing is removed.
        """
        clear_leftovers(self.path)
        write_bytes(self.path / "config.yaml", config_yaml.encode())
        superseded = set_aside_behind(self.path, step)  # before the log is cut: killed in between, the newest checkpoint still has its log
        dropped = self.keep_until(step)
        for folder in superseded:
            self.event("checkpoint_superseded", checkpoint=folder.name)
        if checkpoint is None:
            self.event("run_started")
        else:
            self.event("resumed", step=step, checkpoint=checkpoint.name, dropped=dropped)

    def keep_until(self, step: int) -> dict[str, int]:
        """Drop what is said of steps behind `step`, and in all files a line that a crash cut short; how many lines of each file went."""
        dropped: dict[str, int] = {}
        for name in (LOG, LEDGER, EVENTS):
            if (path := self.path / name).exists():
                lines = path.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if _whole_until(line, step)]
                if kept != lines:
                    write_bytes(path, b"".join(kept))
                    dropped[name] = len(lines) - len(kept)
        return dropped


def _whole_until(line: bytes, last: int) -> bool:
    """Whether a line is complete, and of a step up to `last` if it is about a step: of events, those in OF_A_STEP are."""
    try:
        record = json.loads(line)
        of_a_step = "event" not in record or record["event"] in OF_A_STEP
        return line.endswith(b"\n") and (not of_a_step or record["step"] <= last)
    except (ValueError, KeyError, TypeError):
        return False
