"""Checkpoints: a folder that is whole or absent, and is read only when every byte is as it was written.

    .tmp-step_00001000/ -> files, each flushed -> manifest.json (sha256 and bytes of each) -> rename -> folder flushed
    model.safetensors  ema.safetensors  optimizer.safetensors  state.json  config.yaml  tokenizer/  projection/

Of sharded weights each rank writes its pieces, into folders model/, ema/, optimizer/ in the place of those files (`lgdlm.training.pieces`).
Randomness is counter based and the data position is the step, so `state.json` holds the step and the guard's counters only.
The manifest carries the hash of its own other fields: a flipped bit in it is found like one in any file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lgdlm.data.storage import ASIDE, digest, flush_folder, ledger, make_folder, remove_folder, storage, write_bytes, write_json
from lgdlm.data.strict_json import parse
from lgdlm.errors import CheckpointError
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.old_spelling import place_meant
from lgdlm.training.pieces import read_pieces, write_pieces
from lgdlm.training.sharding import is_sharded, local, parts_like
from lgdlm.training.weights import load_weights, weights_of

MANIFEST, LATEST, SCHEMA = "manifest.json", "latest", 1
WEIGHTS, AVERAGES, OPTIMIZER, STATE, CONFIG = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "config.yaml"
KINDS = ("step_", "epoch_")
NAME = re.compile(r"step_([0-9]{8,})|epoch_[0-9]{3,}")
SMALL_BYTES = 1 << 24


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
    world.lead(lambda: _begin(aside))
    if snapshot.sharded:
        pieces = write_pieces(aside, {Path(file).stem: tensors for file, tensors in snapshot.tensors}, world)
    world.lead(lambda: _finish(aside, run / name, snapshot, pieces))
    return run / name


def _begin(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)


def _finish(aside: Path, target: Path, snapshot: Snapshot, pieces: dict[str, dict[str, Any]]) -> None:
    """Everything that one process writes; `pieces` is the ledger of what all have written already."""
    run = target.parent
    try:
        with storage(target):
            for file, tensors in () if snapshot.sharded else snapshot.tensors:
                write_bytes(aside / file, save({key: t.detach().contiguous().cpu() for key, t in tensors.items()}))
            write_json(aside / STATE, {"step": snapshot.step, **snapshot.state})
            write_bytes(aside / CONFIG, snapshot.config_yaml.encode())
            for folder, source in snapshot.folders.items():
                for path in sorted(p for p in source.iterdir() if p.is_file()):
                    make_folder(aside / folder)
                    write_bytes(aside / folder / path.name, path.read_bytes())
            files = {**ledger(aside, "", but=pieces), **pieces}
            manifest = {"schema": SCHEMA, "step": snapshot.step, "world_size": snapshot.world_size, "files": files}
            write_json(aside / MANIFEST, {**manifest, "sha256": _own_hash(manifest)})
            remove_folder(target)  # the same step of a resumed run: the older checkpoint that it came from stays
            os.rename(aside, target)
            flush_folder(run)
            write_bytes(run / LATEST, target.name.encode())
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _own_hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """The manifest, after every file's size and hash were compared with it.

    Raises CheckpointError, which names the first file that differs and the newest older checkpoint of the run that is whole.
    """
    try:
        return _verified(folder)
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
            _verified(candidate)
        except CheckpointError:
            continue
        return candidate
    return None


def _verified(folder: Path) -> dict[str, Any]:
    try:
        manifest = parse(_small_file(folder / MANIFEST))
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in dict(manifest["files"]).items()}
        step, own_hash = int(manifest["step"]), manifest.pop("sha256")
    except FileNotFoundError as absent:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "manifest", "missing: not a complete checkpoint") from absent
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as damage:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "manifest", f"unreadable ({type(damage).__name__})") from damage
    if own_hash != _own_hash(manifest):
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "sha256", "the file is not what was written")
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError("CHECKPOINT", folder / MANIFEST, "schema", f"expected {SCHEMA}, got {manifest.get('schema')}")
    folders = {f"{Path(name).parts[0]}.safetensors" for name in expected if len(Path(name).parts) == 2}
    for required in (WEIGHTS, AVERAGES, OPTIMIZER, STATE, CONFIG):
        if required not in expected and required not in folders:
            raise CheckpointError("CHECKPOINT", folder / MANIFEST, required, "not listed in the manifest")
    for name, (size, sha256) in expected.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError("CHECKPOINT", folder / MANIFEST, name, "points outside the checkpoint")
        if not path.is_file() or path.is_symlink():
            raise CheckpointError("CHECKPOINT", path, "file", "missing")
        found = digest(path) if path.stat().st_size == size else {"bytes": path.stat().st_size, "sha256": ""}
        if found["bytes"] != size:
            raise CheckpointError("CHECKPOINT", path, "bytes", f"expected {size}, got {found['bytes']}")
        if found["sha256"] != sha256:
            raise CheckpointError("CHECKPOINT", path, "sha256", "the file is not what was written")
    for place, said in ((folder / STATE, read_state(folder)["step"]), (folder, step_named(folder))):
        if said != step:
            raise CheckpointError("CHECKPOINT", place, "step", f"expected {step} as in {MANIFEST}, got {said}")
    return {**manifest, "step": step}


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json`: {"step", "seconds", "skipped", "skipped_in_a_row", ...}. Raises CheckpointError."""
    try:
        state = parse(_small_file(folder / STATE))
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as damage:
        raise CheckpointError("CHECKPOINT", folder / STATE, "state", f"unreadable ({type(damage).__name__})") from damage


def _small_file(path: Path) -> bytes:
    """The bytes of a regular file; OSError for a link, FIFO or device, which may have no end, and for more than a manifest can have."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is no regular file")
    with path.open("rb") as file:
        data = file.read(SMALL_BYTES + 1)
    if len(data) > SMALL_BYTES:
        raise OSError(f"{path} is too large")
    return data


def read_tensors(folder: Path, name: str, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a file, all finite; of those that are sharded in `like`, this rank's parts. Raises CheckpointError."""
    pieces = folder / Path(name).stem
    if not (folder / name).exists() and pieces.is_dir():
        tensors = read_pieces(pieces, like)
    else:
        try:
            tensors = parts_like(load_file(folder / name), like or {})
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as damage:
            raise CheckpointError("CHECKPOINT", folder / name, "header", f"not a safetensors file ({damage})") from damage
    for key, tensor in tensors.items():
        if not bool(local(tensor).isfinite().all()):
            raise CheckpointError("CHECKPOINT", folder / name, key, "holds NaN or infinity, which no training saves")
    return tensors


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, also one that lost its manifest; folders being written are not among them."""
    found = [p for kind in KINDS for p in run.glob(f"{kind}*") if (p / MANIFEST).is_file() or NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: (step_named(p), p.name))


def step_named(folder: Path) -> int:
    """The step of a checkpoint: in its name no damage can change it. Of others the larger of what state and manifest say; -1: neither."""
    if (named := NAME.fullmatch(folder.name)) is not None and named[1]:
        return int(named[1])
    said = [-1]
    for file in (STATE, MANIFEST):
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            said.append(int(parse(_small_file(folder / file))["step"]))
    return max(said)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder itself, or the one that a run's `latest` names; where that leads nowhere, the run's newest."""
    path = place_meant(path)
    if not path.is_dir():
        raise CheckpointError("CHECKPOINT", path, "checkpoint", "no such folder: expected a run or one of its step_XXXXXXXX folders")
    if (path / LATEST).is_file():
        name = (path / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        if name.startswith(KINDS) and "/" not in name and "\0" not in name and (path / name).is_dir():
            return path / name
    if not (path / MANIFEST).is_file() and (complete := checkpoints_of(path)):
        return complete[-1]
    return path


def load_into(model: nn.Module, folder: Path, averaged: bool) -> None:
    """Weights of a verified checkpoint into `model`; with `averaged` the averages replace the parameters they average."""
    own = weights_of(model)
    tensors = read_tensors(folder, WEIGHTS, own)
    if averaged:
        tensors = {**tensors, **read_tensors(folder, AVERAGES, own)}
    with torch.no_grad():
        load_weights(model, tensors, folder / (AVERAGES if averaged else WEIGHTS))
