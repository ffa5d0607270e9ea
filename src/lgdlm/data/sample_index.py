"""`<split>_data.json` of the per-sample layout, and the token files that pair with it by stem.

entry {"text", "latent_path", "id"?}  ->  stem = name of latent_path without its ending (without latents: "stem", or the id)
tokens: <split>/<stem>.npz or <split>/<stem>_tokens.npz, in the same subfolder as the latent or directly in <split>
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lgdlm.data.confinement import Confinement
from lgdlm.data.entries import read_json
from lgdlm.data.strict_json import name_of
from lgdlm.data.text import flaw
from lgdlm.data.verification import Report, duplicate_id
from lgdlm.errors import InputError


@dataclass(frozen=True)
class SampleEntry:
    """One line of the list: `where` is `<split>_data.json#index`; `latent_path` is relative to the list's folder.

    One that is not `sound` has been reported: its files are its own all the same.
    """

    where: str
    id: str
    text: str
    stem: str
    latent_path: str | None
    sound: bool = True


def list_name(split: str) -> str:
    return f"{split}_data.json"


def read_entries(
    folder: Path, split: str, report: Report, *, with_latents: bool, limit: int | None = None
) -> tuple[list[SampleEntry], bool]:
    """The entries of a split, in order, and whether they are all there is: no limit left one out, and all could be read.

    Problems go to `report`: those of `read_json` and `flaw`, BAD_ENTRY, DUPLICATE_ID. Raises InputError where there is nothing to
    read: MISSING_FILE, LAYOUT, EMPTY_CORPUS.
    """
    path = folder / list_name(split)
    if not path.exists() and (folder / f"{split}_data.jsonl").exists():
        message = f"sharded latents are read by prepare; run: lgdlm prepare source=file input={folder} out=<folder>"
        raise InputError("LAYOUT", folder / f"{split}_data.jsonl", "latent_dir", message)
    if not os.path.lexists(path):
        message = f"expected manifest.json (packed) or {path.name} (per-sample); point data.latent_dir at the data or run lgdlm prepare"
        raise InputError("MISSING_FILE", path, "latent_dir", message)
    entries: list[SampleEntry] = []
    seen: dict[str, int] = {}
    index, whole = -1, True
    for index, value in enumerate(read_json(Confinement(folder).path(path.name, path, "file"))):
        if limit is not None and index >= limit:
            whole = False
            break
        if isinstance(value, InputError):
            report(value)
            whole = False
            continue
        entry = _entry(f"{path}#{index}", index, value.values, with_latents, report)
        if entry.sound:
            duplicate_id(entry.where, entry.id, index, seen, report)
        entries.append(entry)
    if index < 0:
        raise InputError("EMPTY_CORPUS", path, "file", "holds no sample; point data.latent_dir at prepared data")
    return entries, whole


def _entry(where: str, index: int, value: dict[str, Any], with_latents: bool, report: Report) -> SampleEntry:
    text, latent_path, given = value.get("text"), value.get("latent_path"), value.get("id")
    stem = PurePosixPath(latent_path).stem if isinstance(latent_path, str) else value.get("stem", "")
    stem = stem if isinstance(stem, str) else ""
    named = isinstance(given, str | int) and not isinstance(given, bool) and given != ""
    name = str(given) if named else stem or f"#{index}"
    fault = None
    if not isinstance(text, str):
        fault = "BAD_ENTRY", f"expected text to be a string, got {name_of(text)}"
    elif not named and given is not None:
        fault = "BAD_ENTRY", f"expected id to be a string that is not empty, or a whole number, got {str(given)[:40]!r}"
    elif not isinstance(latent_path, str) and (with_latents or latent_path is not None):
        fault = "BAD_ENTRY", f"expected latent_path to be a string, got {name_of(latent_path)}"
    else:
        fault = flaw(text) or (flaw(name) if named else None)  # a name taken from the path is checked with the path
    if fault is not None:
        report(InputError(fault[0], where, name, fault[1]))
    return SampleEntry(where, name, text if isinstance(text, str) else "", stem or name, str(latent_path or "") or None, fault is None)


class TokenFiles:
    """The .npz files of one split, found by stem; each may pair with one sample only."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        if not (folder / split).is_dir():
            message = "expected a folder of <stem>.npz; point data.token_dir at the tokens"
            raise InputError("MISSING_FILE", folder / split, "data.token_dir", message)
        self._unpaired = dict.fromkeys(files_below(folder / split, ".npz"))
        self._owner: dict[str, str] = {}

    def pair(self, entry: SampleEntry, report: Report) -> str | None:
        """The path of the sample's tokens, relative to the token folder; None (and a report) where there is none."""
        below = PurePosixPath(entry.latent_path or entry.stem).parent.parts
        inner = PurePosixPath(*below[2:]) if below[:2] == ("latents", self.split) else PurePosixPath()
        names = [f"{entry.stem}.npz", f"{entry.stem}_tokens.npz"]
        for candidate in dict.fromkeys(str(base / name) for base in (inner, PurePosixPath()) for name in names):
            if candidate not in self._unpaired and candidate not in self._owner:
                continue
            if candidate in self._owner:
                message = f"tokens {candidate} belong to sample {self._owner[candidate]} as well; stems must differ"
                report(InputError("DUPLICATE_STEM", entry.where, entry.id, message))
                return None
            self._owner[candidate] = entry.id
            del self._unpaired[candidate]
            return f"{self.split}/{candidate}"
        message = f"no tokens {self.split}/{entry.stem}.npz (or _tokens.npz) below {self.folder}; tokenize the text or leave it out"
        report(InputError("MISSING_TOKENS", entry.where, entry.id, message))
        return None

    def report_unpaired(self, listed: str, report: Report) -> None:
        """Report token files that no sample owns."""
        for name in self._unpaired:
            message = f"no sample of {listed} has this stem; remove the file or add the sample"
            report(InputError("UNPAIRED", self.folder / self.split / name, "tokens", message))


def files_below(folder: Path, ending: str) -> list[str]:
    """Relative POSIX paths of the files below `folder` with this ending, sorted; links to folders are not followed."""
    names = []
    for base, _, files in os.walk(folder):
        names += [Path(base, name).relative_to(folder).as_posix() for name in files if name.endswith(ending) and not name.startswith(".")]
    return sorted(names)
