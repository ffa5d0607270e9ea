"""Files that exist whole or not at all.

    write to `.tmp-<name>` -> flush to disk -> rename over the target -> flush the folder

A reader never opens a name that starts with `.tmp-`, so a process killed at any moment leaves the previous file or the
next one, never a part. What the disk refuses (full, read-only, not permitted) becomes a `StorageError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lgdlm.errors import StorageError

ASIDE = ".tmp-"
ESCAPED = "backslashreplace"  # half a surrogate, as a path of other bytes than UTF-8 holds, becomes an escape that JSON has too
REFUSALS = {
    errno.ENOSPC: ("DISK_FULL", "no space is left on the device; free some and repeat the command"),
    errno.EDQUOT: ("DISK_FULL", "the disk quota is used up; free some space and repeat the command"),
    errno.EFBIG: ("FILE_LIMIT", "the system lets no file grow that far (ulimit -f); raise the limit or choose another file system"),
    errno.EROFS: ("READ_ONLY", "the file system is read-only; choose a folder that can be written"),
    errno.EACCES: ("PERMISSION", "permission denied; choose another folder or change its permissions"),
    errno.EPERM: ("PERMISSION", "operation not permitted; choose another folder or change its permissions"),
    errno.EIO: ("DISK_FAILED", "the device reports an input/output error; check the disk"),
    errno.ENOTDIR: ("NOT_A_FOLDER", "a file stands where a folder is needed; choose another path"),
    errno.EEXIST: ("NOT_A_FOLDER", "a file stands where a folder is needed; choose another path"),
    errno.ENOENT: ("NO_FOLDER", "a folder on the way does not exist or cannot be made; choose another path"),
    errno.EISDIR: ("NOT_A_FILE", "a folder stands where a file is needed; choose another path"),
}


@contextmanager
def storage(where: object) -> Iterator[None]:
    """Turn what the operating system refuses while `where` is written into a `StorageError` (exit 5)."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        code, message = REFUSALS[error.errno]
        raise StorageError(code, error.filename or where, "storage", message) from error


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents where missing."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def write_aside(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends, and vanishes when the block raises."""
    if path.is_dir():
        raise StorageError("NOT_A_FILE", path, "storage", REFUSALS[errno.EISDIR][1])
    if path.exists() and not path.is_file():  # a rename would replace the device itself
        raise StorageError("NOT_A_FILE", path, "storage", "a device or pipe stands where a file is needed; choose another path")
    aside = path.with_name(f"{ASIDE}{path.name}")
    with storage(path):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            flush_folder(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> dict[str, Any]:
    """Write `data` as `path`; returns its ledger entry {"bytes", "sha256"}."""
    with write_aside(path) as file:
        file.write(data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_json(path: Path, value: Any) -> dict[str, Any]:
    """Write strict JSON (never NaN), indented, with a final newline; returns the ledger entry."""
    return write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", ESCAPED))


def digest(path: Path) -> dict[str, Any]:
    """The ledger entry {"bytes", "sha256"} of a file on disk."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            size += len(block)
    return {"bytes": size, "sha256": sha256.hexdigest()}


def ledger(folder: Path, *parts: str) -> dict[str, dict[str, Any]]:
    """Entries of every regular file under the named parts of `folder`, by relative POSIX path."""
    files = [file for part in parts for file in sorted((folder / part).rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): digest(file) for file in files}


def remove_folder(folder: Path) -> None:
    """Delete a folder, if it is there; killed in between, no part of it stands under a name that is read."""
    if folder.exists():
        doomed = folder.with_name(f"{ASIDE}removed-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        with storage(folder):
            os.rename(folder, doomed)
            flush_folder(folder.parent)  # before its files go, or a power cut could leave its name over what is left of them
        shutil.rmtree(doomed, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut (where the system can flush a folder at all)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
