"""Documents to a data folder, in either layout, with the statistics of what was written.

rows of each split -> writer of the layout -> counts, shards;   train latents -> mean, std
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lgdlm.data.manifest import Manifest
from lgdlm.data.packed import PackedWriter
from lgdlm.data.samples import SampleWriter
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import digest, ledger
from lgdlm.errors import InputError

BLOCK = 4096


class Row(NamedTuple):
    """One document as it is stored: `tokens` int [length], `latent` float32 [D] or None (the same for all)."""

    id: str
    text: str
    tokens: np.ndarray
    latent: np.ndarray | None


@dataclass(frozen=True)
class Written:
    """What a manifest says about the rows."""

    counts: dict[str, dict[str, int]]
    shards: dict[str, list[dict[str, Any]]]
    latent_dim: int | None
    latent_mean: tuple[float, ...] | None
    latent_std: tuple[float, ...] | None


def write_splits(folder: Path, layout: str, splits: Mapping[str, Iterable[Row]], vocab_size: int, source: str) -> Written:
    """Write every split into `folder` as `layout` ("packed" or "samples"); `source` names the per-sample files.

    Raises InputError CONSTANT_LATENT where a latent dimension never varies in train, StorageError where the disk refuses.
    """
    counts, shards = {}, {}
    statistics: LatentStatistics | None = None
    for split, rows in splits.items():
        writer = PackedWriter(folder, split, vocab_size) if layout == "packed" else SampleWriter(folder, split, source)
        block: list[np.ndarray] = []
        for row in rows:
            writer.add(row.id, row.text, row.tokens, row.latent)
            if split == "train" and row.latent is not None:
                statistics = statistics or LatentStatistics(len(row.latent))
                block.append(row.latent)
                if len(block) == BLOCK:
                    statistics.add(np.stack(block))
                    block = []
        if block and statistics is not None:
            statistics.add(np.stack(block))
        entries = writer.close()
        counts[split] = writer.counts
        if layout == "packed":
            shards[split] = entries
    if statistics is None:
        return Written(counts, shards, None, None, None)
    constant = np.flatnonzero(~(statistics.std > 0))
    if len(constant):
        message = f"dimension {constant[0]} of {len(statistics.mean)} never varies in train, so it cannot be standardised; lower latent_dim"
        raise InputError("CONSTANT_LATENT", folder.parent, "latent_dim", message)
    return Written(counts, shards, len(statistics.mean), tuple(statistics.mean.tolist()), tuple(statistics.std.tolist()))


def manifest_of(written: Written, folder: Path, layout: str, **facts: Any) -> Manifest:
    """The manifest of what lies in `folder`: every file that is neither a shard nor one of a sample's is hashed."""
    names = [entry.name for entry in folder.iterdir() if entry.name not in ("latents", "tokens")]
    shard_files = {entry["file"] for entries in written.shards.values() for entry in entries}
    files = {name: entry for name, entry in ledger_of(folder, names).items() if name not in shard_files}
    return Manifest(
        layout=layout,
        counts=written.counts,
        shards=written.shards,
        latent_dim=written.latent_dim,
        latent_mean=written.latent_mean,
        latent_std=written.latent_std,
        files=files,
        **facts,
    )


def ledger_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Ledger entries of files and of the files below folders, by relative path."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        found |= ledger(folder, name) if (folder / name).is_dir() else {name: digest(folder / name)}
    return found
