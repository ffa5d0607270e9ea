"""The packed layout: columnar shards behind a manifest.

    OUT/manifest.json  OUT/tokenizer/  OUT/projection/  OUT/<split>-00000.safetensors  OUT/<split>-00001.safetensors ...

Row i of a split lies in shard s = searchsorted(starts, i, right) - 1 at i - starts[s]. Rows are gathered by arithmetic on
offsets, without a loop over rows: that is what makes packed loading hundreds of times faster than files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.confinement import Confinement
from lgdlm.data.manifest import Manifest
from lgdlm.data.open_files import allow_open_files
from lgdlm.data.rows import Strings
from lgdlm.data.shard import Shard, ShardBuffer
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import digest, write_bytes
from lgdlm.errors import InputError

SHARD_BYTES = 64 << 20
HELD_READS = 1 << 15  # of rows at random, before the pages behind them are given back; each may have mapped 64 KB around it


class PackedWriter:
    """Streams the rows of one split into shards of about `shard_bytes`; memory holds one shard.

    `add` rows, then `close() -> list` of ledger entries {"file", "rows", "bytes", "sha256"}.
    """

    def __init__(self, folder: Path, split: str, vocab_size: int, shard_bytes: int = SHARD_BYTES):
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self._dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
        self._buffer = ShardBuffer()
        self.entries: list[dict[str, Any]] = []
        self.rows = self.tokens = self.bytes = 0

    def add(self, id: str, text: str, tokens: Sequence[int] | np.ndarray, latent: np.ndarray | None) -> None:
        """One row: `tokens` [length], `latent` float [D] or None (the same for all rows)."""
        ids = np.asarray(tokens, dtype=self._dtype)
        self._buffer.add(id, text, ids, None if latent is None else np.ascontiguousarray(latent, dtype=np.float32))
        self.rows, self.tokens, self.bytes = self.rows + 1, self.tokens + len(ids), self.bytes + len(text.encode("utf-8"))
        if self._buffer.size >= self.shard_bytes:
            self._flush()

    def close(self) -> list[dict[str, Any]]:
        if len(self._buffer):
            self._flush()
        return self.entries

    @property
    def counts(self) -> dict[str, int]:
        return {"rows": self.rows, "tokens": self.tokens, "bytes": self.bytes}

    def _flush(self) -> None:
        name = f"{self.split}-{len(self.entries):05d}.safetensors"
        entry = write_bytes(self.folder / name, self._buffer.serialise())
        self.entries.append({"file": name, "rows": len(self._buffer), **entry})
        self._buffer = ShardBuffer()


class PackedSplit:
    """Random access to one split of a packed folder, memory-mapped.

    `gather(indices) -> (flat int64 [T], lengths)`, `latents(indices)`, `lengths_of`, `last_tokens_of` and `ids_of` read the rows
    asked for; `lengths` int64 [n] reads all and keeps them. ids, texts: sequences.
    Raises InputError: UNKNOWN_SPLIT, and what `Shard` and `Confinement` raise.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, split: str):
        self.folder, self.manifest, self.split = Path(folder), manifest, split
        if split not in manifest.counts:
            held = ", ".join(manifest.counts)
            remedy = "; prepare it with validation=N, texts that are held out" if split == "validation" else ""
            raise InputError("UNKNOWN_SPLIT", folder, "split", f"expected one of {held}, got {split!r}{remedy}")
        root = Confinement(folder)
        self.shards: list[Shard] = []
        entries = manifest.shards.get(split, [])
        allow_open_files(len(entries))
        for entry in entries:
            path = root.path(entry["file"], self.folder / "manifest.json", "shards")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise InputError("HASH", path, "bytes", f"expected {entry['bytes']}, got {size}; the file is damaged: run prepare again")
            self.shards.append(Shard(path, entry["rows"], manifest.latent_dim))
        self._starts = np.cumsum([0] + [shard.rows for shard in self.shards])
        self._reads = 0
        rows = manifest.counts[split]["rows"]
        if len(self) != rows:
            message = f"expected {rows} rows in {split}, the shards hold {len(self)}; run prepare again"
            raise InputError("BAD_MANIFEST", folder, "counts", message)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every text, int64 [n]."""
        return self.lengths_of(np.arange(len(self)))

    @property
    def ids(self) -> Sequence[str]:
        return Strings(len(self), self.id)

    @property
    def texts(self) -> Sequence[str]:
        return Strings(len(self), self.text)

    def id(self, index: int) -> str:
        shard, row = self._place(index)
        return shard.id(row)

    def text(self, index: int) -> str:
        shard, row = self._place(index)
        return shard.text(row)

    def ids_of(self, indices: np.ndarray) -> list[str]:
        """The ids of the rows, in their order."""
        found = np.empty(len(indices), object)
        for shard, rows, chosen in self._by_shard(indices):
            found[chosen] = shard.ids(rows)
        return found.tolist()

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of the rows, int64 [k]."""
        lengths = np.empty(len(indices), np.int64)
        for shard, rows, chosen in self._by_shard(indices):
            lengths[chosen] = shard.token_offsets[rows + 1] - shard.token_offsets[rows]
        return lengths

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        """The last id of the rows, int64 [k] (-1 where a text has no token)."""
        last = np.full(len(indices), -1, np.int64)
        for shard, rows, chosen in self._by_shard(indices):
            ends = shard.token_offsets[rows + 1]
            filled = ends > shard.token_offsets[rows]
            of_shard = np.full(len(rows), -1, np.int64)
            of_shard[filled] = shard.tokens[ends[filled] - 1]
            last[chosen] = of_shard
        return last

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token ids of the rows one after another, int64 [T], and their lengths, int64 [k]."""
        lengths = self.lengths_of(indices)
        flat = np.empty(int(lengths.sum()), np.int64)
        begins = np.cumsum(lengths) - lengths
        for shard, rows, chosen in self._by_shard(indices):
            where = _ranges(begins[chosen], lengths[chosen])
            flat[where] = shard.tokens[_ranges(shard.token_offsets[rows], lengths[chosen])]
        return flat, lengths

    def latents(self, indices: np.ndarray) -> np.ndarray | None:
        """float32 [k, D], or None where the folder has none."""
        dim = self.manifest.latent_dim
        if dim is None:
            return None
        out = np.empty((len(indices), dim), np.float32)
        for shard, rows, chosen in self._by_shard(indices):
            assert shard.latents is not None, "Shard checks the column"
            out[chosen] = shard.latents[rows]
        return out

    def verify(self, on_problem: Callable[[InputError], None]) -> None:
        """Read everything: hashes, token ids within the vocabulary, finite latents and their statistics, usable texts, distinct ids."""
        from lgdlm.data.distinct import DistinctIds
        from lgdlm.data.verification import duplicate_id, verify_shard, verify_statistics

        ids = DistinctIds(len(self))
        statistics = LatentStatistics(self.manifest.latent_dim or 0) if self.split == "train" else None
        for shard, entry, start in zip(self.shards, self.manifest.shards.get(self.split, []), self._starts, strict=False):
            found = digest(shard.path)["sha256"]
            if found != entry["sha256"]:
                message = f"expected {entry['sha256'][:12]}, got {found[:12]}; the file is damaged: run prepare again"
                on_problem(InputError("HASH", shard.path, "sha256", message))
            verify_shard(shard, int(start), self.manifest.vocab_size, on_problem)
            ids.add(shard.columns["id"], shard.columns["id_offsets"])
            if statistics is not None and shard.latents is not None:
                if np.isfinite(shard.latents).all():
                    statistics.add(shard.latents)
                else:  # reported sample by sample
                    statistics = None
            shard.release()
        for row, first in ids.repeated(self._id_bytes):
            shard, place = self._place(row)
            name = self._id_bytes(row).decode("utf-8", "backslashreplace")
            duplicate_id(f"{shard.path}#{place}", name, row, {name: first}, on_problem)
        verify_statistics(self.folder, statistics, self.manifest, on_problem)

    def _id_bytes(self, row: int) -> bytes:
        shard, place = self._place(row)
        return shard.id_bytes(place)

    def _place(self, index: int) -> tuple[Shard, int]:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[at], index - int(self._starts[at])

    def _by_shard(self, indices: np.ndarray) -> list[tuple[Shard, np.ndarray, np.ndarray | slice]]:
        indices = np.asarray(indices, np.int64)
        self._reads += len(indices)
        if self._reads > HELD_READS:  # else the whole folder would come to be counted as this process's memory
            self._reads = 0
            for shard in self.shards:
                shard.release()
        if len(self.shards) == 1:
            return [(self.shards[0], indices, slice(None))]
        at = np.searchsorted(self._starts, indices, side="right") - 1
        order = np.argsort(at, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(at[order])) + 1) if len(order) else []
        return [(self.shards[at[run[0]]], indices[run] - self._starts[at[run[0]]], run) for run in runs]


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenation of start, start + 1, ... start + length - 1 over all rows, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
