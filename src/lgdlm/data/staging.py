"""A data folder is built aside and published by renames, the manifest last.

    OUT/.tmp-data/...  -> every file written and flushed ->  moved to OUT/...  ->  OUT/manifest.json

A folder without a manifest is unfinished and is never read. While `.tmp-data` exists the folder is ours to complete: a run that
was killed is repeated by the same command. One process writes at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from lgdlm.data.manifest import MANIFEST, Manifest, has_manifest, read_manifest
from lgdlm.data.storage import ASIDE, flush_folder, make_folder, storage
from lgdlm.errors import InputError, LockedError

CACHE = ".cache"
OURS = ("*-[0-9]*.safetensors", "validation_embeddings.safetensors", "tokenizer", "projection", "latents", "tokens", "*_data.json")


class Staging:
    """The folder `out` while it is being written; a context that holds its lock.

    folder   where to write; `publish` moves its contents into `out`
    cache    kept between attempts, removed by `publish`
    """

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.folder, self.cache = self.out / f"{ASIDE}data", self.out / CACHE

    def __enter__(self) -> Staging:
        if self.out.exists() and not self.out.is_dir():
            raise InputError("NOT_A_FOLDER", self.out, "prepare.out", "is a file; name the folder to write")
        self._made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        make_folder(self.out)
        with storage(self.out):
            self._lock = os.open(self.out, os.O_RDONLY)  # the folder itself is locked: no file to leave behind
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LockedError("LOCKED", self.out, "out", "another process is writing this folder; wait for it or choose another") from None
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self._leave_nothing_empty()
        os.close(self._lock)

    def _leave_nothing_empty(self) -> None:
        """Remove the folders of a refused request in which nothing was written."""
        for folder in (self.folder, self.cache, *self._made):
            with suppress(OSError):  # it is not there, or holds something
                folder.rmdir()

    def finished(self, request: dict[str, object], overwrite: bool) -> Manifest | None:
        """The manifest of an earlier run with the same request whose files are all there, else None.

        Raises InputError EXISTS where the folder holds anything else and `overwrite` is False.
        """
        request = json.loads(json.dumps(request))  # as the manifest gives it back
        if has_manifest(self.out):
            manifest = read_manifest(self.out)
            if manifest.request == request and self._complete(manifest):
                self._clear()
                return manifest
            if overwrite:
                return None
            names = sorted(name for name in {*manifest.request, *request} if manifest.request.get(name) != request.get(name))
            reason = f"was made with other values of {', '.join(names)}" if names else "has lost files"
            raise InputError("EXISTS", self.out, "out", f"{reason}; choose another out, or overwrite=true")
        foreign = [] if self.folder.exists() else [entry.name for entry in self.out.iterdir() if entry.name != CACHE]
        if foreign and not overwrite:
            message = f"holds {len(foreign)} other files ({foreign[0]}); choose another out, or overwrite=true"
            raise InputError("EXISTS", self.out, "out", message)
        return None

    def begin(self) -> Path:
        """An empty folder to write into."""
        with storage(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        return make_folder(self.folder)

    def publish(self, manifest: Manifest) -> None:
        """Move what was written into `out`; the folder is finished when the manifest is there."""
        with storage(self.out):
            os.sync()
            (self.out / MANIFEST).unlink(missing_ok=True)
            for old in [path for pattern in OURS for path in self.out.glob(pattern)]:
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                else:
                    old.unlink()
            for entry in sorted(self.folder.iterdir()):
                entry.replace(self.out / entry.name)
            manifest.write(self.out)
            self._clear()
            flush_folder(self.out)

    def _clear(self) -> None:
        """Remove what only an unfinished folder needs."""
        for folder in (self.folder, self.cache):
            shutil.rmtree(folder, ignore_errors=True)

    def _complete(self, manifest: Manifest) -> bool:
        sizes = {name: entry["bytes"] for name, entry in manifest.files.items()}
        sizes |= {entry["file"]: entry["bytes"] for entries in manifest.shards.values() for entry in entries}
        return all((self.out / name).is_file() and (self.out / name).stat().st_size == size for name, size in sizes.items())
