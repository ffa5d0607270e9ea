"""`manifest.json`: what a data folder holds, written last, so that a folder without one is unfinished.

    manifest = layout + counts + identities (tokenizer, encoder, projection, source) + train statistics + hashes

The statistics are of the stored (projected) latents of the train split; training standardises with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lgdlm.data.confinement import Confinement
from lgdlm.data.storage import write_json
from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

MANIFEST = "manifest.json"
SCHEMA = 1
LAYOUTS = ("packed", "samples")
MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True)
class Manifest:
    """The facts of a data folder.

    latent_dim      width D of the stored latents; None: the folder has none
    latent_mean     D floats, mean of the train latents per dimension (None without latents)
    latent_std      D floats, population standard deviation (None without latents)
    vocab_size      ids 0 .. vocab_size - 1 occur; the mask is vocab_size
    tokenizer, encoder, projection, source   identities, JSON objects
    counts          {split: {"rows", "tokens", "bytes"}}: texts, their tokens, their UTF-8 bytes
    dropped         {reason: number} of the texts that were read and not kept
    shards          {split: [{"file", "rows", "bytes", "sha256"}]} of the packed layout
    files           {relative path: {"bytes", "sha256"}} of everything else
    request         what `prepare` or `convert` was asked for: the same request again is a no-op
    """

    layout: str
    vocab_size: int
    tokenizer: dict[str, Any]
    counts: dict[str, dict[str, int]]
    latent_dim: int | None = None
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    encoder: dict[str, Any] | None = None
    projection: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    seed: int | None = None
    shards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_json(folder / MANIFEST, asdict(self))

    @property
    def rows(self) -> int:
        """Texts in all splits."""
        return sum(count["rows"] for count in self.counts.values())


def has_manifest(folder: str | Path) -> bool:
    """Whether `folder` was finished by `prepare` or `convert`."""
    return (Path(folder) / MANIFEST).exists()


def holds_data(folder: Path) -> bool:
    """Whether `folder` is data of either layout, with a manifest of ours or not. A checkpoint's manifest is another."""
    if not folder.is_dir():
        return False
    try:
        return (folder / "train_data.json").is_file() or bool(read_manifest(folder).layout)
    except InputError:
        return False


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a data folder.

    Raises InputError: MISSING_FILE, BAD_JSON, BAD_MANIFEST (a field is absent or of the wrong kind), SCHEMA (written by another version).
    """
    where = Path(folder) / MANIFEST
    with Confinement(folder).open(MANIFEST, folder, "latent_dir") as file:
        data = file.read(MANIFEST_BYTES + 1)
    if len(data) > MANIFEST_BYTES:
        raise InputError("BAD_MANIFEST", where, "file", f"is larger than {MANIFEST_BYTES} bytes; run prepare again")
    try:
        raw = parse(data)
    except ValueError as error:
        line = getattr(error, "line", 0)
        raise InputError("BAD_JSON", f"{where}:{line}" if line else where, "file", f"is not JSON ({error}); run prepare again") from None
    return _parse(raw, where)


def _parse(raw: object, where: Path) -> Manifest:
    def demand(good: bool, name: str, expected: str) -> None:
        if not good:
            raise InputError("BAD_MANIFEST", where, name, f"expected {expected}, got {_brief(values.get(name))}; run prepare again")

    values: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    demand(bool(values), "file", "a JSON object")
    if values.get("schema") != SCHEMA:
        message = f"expected {SCHEMA}, got {_brief(values.get('schema'))}; run prepare again with this version"
        raise InputError("SCHEMA", where, "schema", message)
    known = set(Manifest.__dataclass_fields__)
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError("BAD_MANIFEST", where, unknown[0], f"unknown field; expected {', '.join(sorted(known))}")
    demand(values.get("layout") in LAYOUTS, "layout", "packed or samples")
    demand(_count(values.get("vocab_size")) and values["vocab_size"] > 0, "vocab_size", "a positive integer")
    for name in ("tokenizer", "counts", "dropped", "shards", "files", "request"):
        demand(isinstance(values.get(name), dict), name, "an object")
    for name in ("encoder", "projection", "source"):
        demand(values.get(name) is None or isinstance(values[name], dict), name, "an object or null")
    demand(all(_entry(entry, ("rows", "tokens", "bytes"), ()) for entry in values["counts"].values()), "counts", "rows, tokens, bytes")
    for entries in values["shards"].values():
        good = isinstance(entries, list) and all(_entry(entry, ("rows", "bytes"), ("file", "sha256")) for entry in entries)
        demand(good, "shards", "lists of file, rows, bytes, sha256")
    files = [entry["file"] for entries in values["shards"].values() for entry in entries]
    demand(len(files) == len(set(files)), "shards", "every file once")
    demand(all(_entry(entry, ("bytes",), ("sha256",)) for entry in values["files"].values()), "files", "bytes, sha256")
    dim, mean, std = (values.get(name) for name in ("latent_dim", "latent_mean", "latent_std"))
    demand(dim is None or (_count(dim) and dim > 0), "latent_dim", "a positive integer or null")
    for name, vector in (("latent_mean", mean), ("latent_std", std)):
        good = vector is None if dim is None else isinstance(vector, list) and len(vector) == dim and all(_real(v) for v in vector)
        demand(good, name, "null" if dim is None else f"{dim} finite numbers")
    demand(std is None or all(v > 0 for v in std), "latent_std", "positive numbers (a dimension that never varies cannot be standardised)")
    return Manifest(**{**values, "latent_mean": mean and tuple(mean), "latent_std": std and tuple(std)})


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _entry(entry: object, numbers: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not isinstance(entry, dict):
        return False
    return all(_count(entry.get(name)) for name in numbers) and all(isinstance(entry.get(name), str) for name in words)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
