"""Tensors of a sharded checkpoint: a folder of safetensors files, one a rank, each with the pieces that the rank held.

    step_00001000/model/shard-00001-model-00001-of-00001.safetensors ...     what model.safetensors is of a whole one

Written and read by torch.distributed.checkpoint in its safetensors layout, where the header of a file says which rows its pieces are;
no pickle is in it. A reader needs no other ranks: one process puts the pieces together, and ranks of another number take their rows.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lgdlm.data.storage import digest, flush_folder, make_folder, storage
from lgdlm.errors import CheckpointError
from lgdlm.training.distributed import World
from lgdlm.training.sharding import is_sharded

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, AttributeError, IndexError)


def write_pieces(aside: Path, folders: Mapping[str, Mapping[str, Tensor]], world: World) -> dict[str, dict[str, Any]]:
    """Each rank writes the parts that it holds, in `aside` by folder; a tensor that is whole on every rank is written once.

    Returns the ledger {path: {"bytes", "sha256"}} of all ranks' files, which are on disk then. Raises StorageError where the disk
    refuses any of them.
    """
    for name, tensors in folders.items():
        _write(aside / name, tensors, world)
    mine = sorted(path for name in folders for path in (aside / name).iterdir())[world.rank :: world.size]
    with storage(aside):
        for path in mine:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        for name in folders:
            flush_folder(aside / name)
    entries = {path.relative_to(aside).as_posix(): digest(path) for path in mine}
    return {path: entry for text in world.gather(json.dumps(entries)) for path, entry in json.loads(text).items()}


def _write(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    world.lead(lambda: str(make_folder(folder)))
    with storage(folder):
        try:
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
        except dcp.CheckpointException as failed:
            raise _reason(failed.failures) from failed


def read_pieces(folder: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every tensor of the folder: whole, or this rank's part of it where the tensor of that name in `like` is sharded.

    Raises CheckpointError: not a safetensors file, or pieces that do not make a whole.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        found = _places(HuggingFaceStorageReader(str(folder)).read_metadata(), folder, like or {})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads for itself
            dcp.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (*DAMAGE, dcp.CheckpointException) as damage:
        reason = _reason(damage.failures) if isinstance(damage, dcp.CheckpointException) else damage
        raise CheckpointError("CHECKPOINT", folder, "pieces", f"do not make whole tensors ({reason})") from damage
    return found


def _reason(failures: Mapping[int, Any]) -> BaseException:
    """What went wrong on the first rank where something did: torch keeps it beside its traceback."""
    first = failures[min(failures)]
    return first[0] if isinstance(first, tuple) else first


def _places(metadata: Metadata, folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tensor for each name to be filled. ValueError where the pieces of one are too few or too many for its shape."""
    found: dict[str, Tensor] = {}
    for name, entry in metadata.state_dict_metadata.items():
        shape, dtype = entry.size, entry.properties.dtype  # type: ignore[union-attr]
        pieces = entry.chunks  # type: ignore[union-attr]
        if not _tiles(shape, ((tuple(piece.offsets), tuple(piece.sizes)) for piece in pieces)):
            raise ValueError(f"{name}: its {len(pieces)} pieces do not fill {list(shape)}")
        same = like.get(name)
        parted = same is not None and is_sharded(same) and same.shape == shape
        found[name] = torch.empty_like(same, dtype=dtype) if parted and same is not None else torch.empty(shape, dtype=dtype)
    return found


def _tiles(shape: torch.Size, pieces: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether (offsets, sizes), cut along the first axis alone, cover a tensor exactly once."""
    end = 0
    for offsets, sizes in sorted(pieces):
        if prod(sizes) == 0 and prod(shape) > 0:
            continue
        if shape and (offsets[0] != end or any(offsets[1:]) or tuple(sizes[1:]) != tuple(shape[1:])):
            return False
        end += sizes[0] if shape else 1
    return end == (shape[0] if shape else 1)
