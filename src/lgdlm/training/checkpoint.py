"""Checkpoints: a folder that is whole or absent, and is read only when every byte is as it was written.

    .tmp-step_00001000/ -> files, each flushed -> manifest.json (sha256 and bytes of each) -> rename -> folder flushed
    model.safetensors  ema.safetensors  optimizer.safetensors  state.json  config.yaml  tokenizer/  projection/

Of sharded weights each rank writes its pieces, into folders model/, ema/, optimizer/ in the place of those files (`lgdlm.training.pieces`).
Randomness is counter based and the data position is the step, so `state.json` holds counts alone: the step, the ranks, the rows of a
step, the guard's, the seconds and the memory that were used.
The manifest carries the hash of its own other fields: a flipped bit in it is found like one in any file, and not taken for damage of
the file that it speaks of.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lgdlm.data.storage import ASIDE, digest, flush_folder, make_folder, remove_folder, storage, write_bytes, write_json
from lgdlm.data.strict_json import parse
from lgdlm.errors import CheckpointError
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.naming import LATEST, MANIFEST, STATE, checkpoints_of, small_file, step_named
from lgdlm.training.pieces import read_pieces, write_pieces
from lgdlm.training.sharding import is_sharded, local, parts_like
from lgdlm.training.weights import load_weights, weights_of

SCHEMA = 1
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
Look = Callable[[Path, dict[str, Any]], object]
WEIGHTS, AVERAGES, OPTIMIZER, CONFIG = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "config.yaml"


@dataclass(frozen=True)
class Snapshot:
    """Everything a checkpoint holds, in memory. `folders` are copied as they are: tokenizer and projection."""

    step: int
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    config_yaml: str
    folders: dict[str, Path]
    world_size: int = 1

    @property
    def tensors(self) -> tuple[tuple[str, dict[str, Tensor]], ...]:
        """Each file of tensors with what is in it."""
        return (WEIGHTS, self.weights), (AVERAGES, self.averages), (OPTIMIZER, self.optimizer)

    @property
    def sharded(self) -> bool:
        return any(is_sharded(tensor) for tensor in self.weights.values())


def save_checkpoint(run: Path, name: str, snapshot: Snapshot, world: World = ALONE) -> Path:
    """Write `run/name` and point `run/latest` at it; returns the folder. Raises StorageError, leaving nothing half-written.

    All ranks call it, and the lead writes: it returns, or raises, on all of them when the folder stands. Pieces of sharded weights are
    written by the rank that has them.
    """
    aside, pieces = run / f"{ASIDE}{name}", dict[str, dict[str, Any]]()
    try:
        world.lead(lambda: _begin(aside))
        if snapshot.sharded:
            pieces = write_pieces(aside, {Path(file).stem: tensors for file, tensors in snapshot.tensors}, world)
        world.lead(lambda: _finish(aside, run / name, snapshot, pieces))
    except BaseException:
        if world.leads:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return run / name


def _begin(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)


def _finish(aside: Path, target: Path, snapshot: Snapshot, pieces: dict[str, dict[str, Any]]) -> None:
    """Everything that one process writes; `pieces` is the ledger of what all have written already."""
    run, files, known = target.parent, dict(pieces), {"step": snapshot.step, "world_size": snapshot.world_size}
    with storage(target):
        for file, tensors in () if snapshot.sharded else snapshot.tensors:
            files[file] = write_bytes(aside / file, save({key: t.detach().contiguous().cpu() for key, t in tensors.items()}))
        files[STATE] = write_json(aside / STATE, {**snapshot.state, **known})
        files[CONFIG] = write_bytes(aside / CONFIG, snapshot.config_yaml.encode())
        for folder, source in snapshot.folders.items():
            for path in sorted(p for p in source.iterdir() if p.is_file()):
                make_folder(aside / folder)
                files[f"{folder}/{path.name}"] = write_bytes(aside / folder / path.name, path.read_bytes())
        manifest = {"schema": SCHEMA, **known, "files": dict(sorted(files.items()))}
        write_json(aside / MANIFEST, {**manifest, "sha256": _own_hash(manifest)})
        remove_folder(target)  # the same step of a resumed run: the older checkpoint that it came from stays
        os.rename(aside, target)
        flush_folder(run)
        write_bytes(run / LATEST, target.name.encode())


def _own_hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify_checkpoint(folder: Path, look: Look = lambda folder, manifest: None) -> dict[str, Any]:
    """The manifest, after every file's size and hash were compared with it.

    Somebody may have changed a file and told the manifest so, whose own hash then is another: `look` raises what is wrong with the file.

    Raises CheckpointError, which names the first file that differs and the newest older checkpoint of the run that is whole.
    """
    try:
        return _verified(folder, look)
    except CheckpointError as damage:
        older = newest_whole_before(folder)
        remedy = f"the newest older whole one is {older.name} (--fallback takes it)" if older else "the run has no older whole one"
        raise CheckpointError(damage.code, damage.where, damage.field, f"{damage.message}; {remedy}") from damage


def newest_whole_before(folder: Path) -> Path | None:
    """The newest checkpoint beside `folder` that was saved before it and passes every check; None where there is none."""
    beside = checkpoints_of(folder.parent)
    older = beside[: beside.index(folder)] if folder in beside else [p for p in beside if step_named(p) < step_named(folder)]
    for candidate in reversed(older):
        try:
            _verified(candidate, lambda folder, manifest: None)
        except CheckpointError:
            continue
        return candidate
    return None


def _verified(folder: Path, look: Look) -> dict[str, Any]:
    manifest, sound = _read_manifest(folder)
    forged = CheckpointError("CHECKPOINT", folder / MANIFEST, "sha256", "the file is not what was written")
    try:
        _compare(folder, manifest)
    except CheckpointError as difference:
        if sound:
            raise
        raise forged from difference
    if not sound:
        look(folder, manifest)
        raise forged
    return manifest


def _read_manifest(folder: Path) -> tuple[dict[str, Any], bool]:
    """What the manifest says, and whether it is as it was written."""
    try:
        manifest = parse(small_file(folder / MANIFEST))
        own_hash = manifest.pop("sha256", None)
        sound = own_hash == _own_hash(manifest)
        files = {name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in dict(manifest["files"]).items()}
        manifest |= {"step": int(manifest["step"]), "world_size": int(manifest["world_size"]), "files": files}
    except FileNotFoundError as absent:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "manifest", "missing: not a complete checkpoint") from absent
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as damage:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "manifest", f"unreadable ({type(damage).__name__})") from damage
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "schema", f"expected {SCHEMA}, got {manifest.get('schema')}")
    return manifest, sound


def _compare(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Every file with what the manifest says of it, and what both say of the whole."""
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    folders = {f"{Path(name).parts[0]}.safetensors" for name in files if len(Path(name).parts) == 2}
    for required in (WEIGHTS, AVERAGES, OPTIMIZER, STATE, CONFIG):
        if required not in files and required not in folders:
            raise CheckpointError("CHECKPOINT", folder / MANIFEST, required, "not listed in the manifest")
    for name, entry in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError("CHECKPOINT", folder / MANIFEST, name, "points outside the checkpoint")
        try:
            if not path.is_file() or path.is_symlink():
                raise FileNotFoundError(path)
            size = path.stat().st_size
            found = digest(path) if size == entry["bytes"] else {"bytes": size}
        except OSError as problem:
            if problem.errno not in (None, *NOWHERE):  # the disk's failure, not the checkpoint's
                raise
            raise CheckpointError("CHECKPOINT", path, "file", "missing") from problem
        if found["bytes"] != entry["bytes"]:
            raise CheckpointError("CHECKPOINT", path, "bytes", f"expected {entry['bytes']}, got {found['bytes']}")
        if found["sha256"] != entry["sha256"]:
            raise CheckpointError("CHECKPOINT", path, "sha256", "the file is not what was written")
    state, step, world_size = read_state(folder), manifest["step"], manifest["world_size"]
    for place, field, said, expected in (
        (folder / STATE, "step", state["step"], step),
        (folder, "step", step_named(folder), step),
        (folder / STATE, "world_size", state.get("world_size", world_size), world_size),
    ):
        if said != expected:
            raise CheckpointError("CHECKPOINT", place, field, f"expected {expected} as in {MANIFEST}, got {said}")


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json`: {"step", "seconds", "skipped", "skipped_in_a_row", ...}. Raises CheckpointError."""
    try:
        state = parse(small_file(folder / STATE))
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as damage:
        raise CheckpointError("CHECKPOINT", folder / STATE, "state", f"unreadable ({type(damage).__name__})") from damage


def read_tensors(folder: Path, name: str, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a file, all finite; of those that are sharded in `like`, this rank's parts. Raises CheckpointError."""
    pieces = folder / Path(name).stem
    if not (folder / name).exists() and pieces.is_dir():
        tensors = read_pieces(pieces, like)
    else:
        try:
            tensors = parts_like(load_file(folder / name), like or {})
        except FileNotFoundError as absent:
            raise CheckpointError("CHECKPOINT", folder / name, "file", "missing") from absent
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as damage:
            raise CheckpointError("CHECKPOINT", folder / name, "header", f"not a safetensors file ({damage})") from damage
    for key, tensor in tensors.items():
        if not bool(local(tensor).isfinite().all()):
            raise CheckpointError("CHECKPOINT", folder / name, key, "holds NaN or infinity, which no training saves")
    return tensors


def load_into(model: nn.Module, folder: Path, averaged: bool) -> None:
    """Weights of a verified checkpoint into `model`; with `averaged` the averages replace the parameters they average."""
    own = weights_of(model)
    tensors = read_tensors(folder, WEIGHTS, own)
    if averaged:
        tensors = {**tensors, **read_tensors(folder, AVERAGES, own)}
    with torch.no_grad():
        load_weights(model, tensors, folder / (AVERAGES if averaged else WEIGHTS))
