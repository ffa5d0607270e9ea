"""The packed layout: columnar shards behind a manifest.

    OUT/manifest.json  OUT/tokenizer/  OUT/projection/  OUT/<split>-00000.safetensors  OUT/<split>-00001.safetensors ...

Row i of a split lies in shard s = searchsorted(starts, i, right) - 1 at i - starts[s]. Rows are gathered by arithmetic on
offsets, without a loop over rows: that is what makes packed loading hundreds of times faster than files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.confinement import Confinement
from lgdlm.data.manifest import Manifest
from lgdlm.data.shard import Shard, ShardBuffer
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import digest, write_bytes
from lgdlm.errors import InputError

SHARD_BYTES = 64 << 20


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

    lengths int64 [n], last_tokens int64 [n], ids, texts; `gather(indices) -> (flat int64 [T], lengths)`, `latents(indices)`.
    Raises InputError: UNKNOWN_SPLIT, and what `Shard` and `Confinement` raise.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, split: str):
        self.folder, self.manifest, self.split = Path(folder), manifest, split
        if split not in manifest.counts:
            held = ", ".join(manifest.counts)
            raise InputError("UNKNOWN_SPLIT", folder, "split", f"expected one of {held}, got {split!r}")
        root = Confinement(folder)
        self.shards: list[Shard] = []
        for entry in manifest.shards.get(split, []):
            path = root.path(entry["file"], self.folder / "manifest.json", "shards")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise InputError("HASH", path, "bytes", f"expected {entry['bytes']}, got {size}; the file is damaged: run prepare again")
            self.shards.append(Shard(path, entry["rows"], manifest.latent_dim))
        self._starts = np.cumsum([0] + [shard.rows for shard in self.shards])
        self.lengths = self._joined([np.diff(shard.token_offsets) for shard in self.shards])
        rows = manifest.counts[split]["rows"]
        if len(self.lengths) != rows:
            message = f"expected {rows} rows in {split}, the shards hold {len(self.lengths)}; run prepare again"
            raise InputError("BAD_MANIFEST", folder, "counts", message)

    @property
    def last_tokens(self) -> np.ndarray:
        """The last id of every text, int64 [n] (-1 where a text has no token)."""
        parts = []
        for shard in self.shards:
            ends, filled = shard.token_offsets[1:], np.diff(shard.token_offsets) > 0
            last = np.full(shard.rows, -1, np.int64)
            last[filled] = shard.tokens[ends[filled] - 1]
            parts.append(last)
        return self._joined(parts)

    @property
    def ids(self) -> Sequence[str]:
        return Strings(len(self.lengths), self.id)

    @property
    def texts(self) -> Sequence[str]:
        return Strings(len(self.lengths), self.text)

    def id(self, index: int) -> str:
        shard, row = self._place(index)
        return shard.id(row)

    def text(self, index: int) -> str:
        shard, row = self._place(index)
        return shard.text(row)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token ids of the rows one after another, int64 [T], and their lengths, int64 [k]."""
        lengths = self.lengths[indices]
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
        from lgdlm.data.verification import verify_shard, verify_statistics

        seen: dict[str, int] = {}
        statistics = LatentStatistics(self.manifest.latent_dim or 0) if self.split == "train" else None
        for shard, entry, start in zip(self.shards, self.manifest.shards.get(self.split, []), self._starts, strict=False):
            found = digest(shard.path)["sha256"]
            if found != entry["sha256"]:
                message = f"expected {entry['sha256'][:12]}, got {found[:12]}; the file is damaged: run prepare again"
                on_problem(InputError("HASH", shard.path, "sha256", message))
            verify_shard(shard, int(start), self.manifest.vocab_size, seen, on_problem)
            if statistics is not None and shard.latents is not None:
                if np.isfinite(shard.latents).all():
                    statistics.add(shard.latents)
                else:  # reported sample by sample
                    statistics = None
        verify_statistics(self.folder, statistics, self.manifest, on_problem)

    def _place(self, index: int) -> tuple[Shard, int]:
        index = int(index)
        if not 0 <= index < len(self.lengths):
            raise IndexError(index)
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[at], index - int(self._starts[at])

    def _by_shard(self, indices: np.ndarray) -> list[tuple[Shard, np.ndarray, np.ndarray | slice]]:
        indices = np.asarray(indices, np.int64)
        if len(self.shards) == 1:
            return [(self.shards[0], indices, slice(None))]
        at = np.searchsorted(self._starts, indices, side="right") - 1
        return [(self.shards[s], indices[at == s] - self._starts[s], at == s) for s in np.unique(at)]

    @staticmethod
    def _joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


class Strings(Sequence[str]):
    """`count` strings decoded when they are asked for."""

    def __init__(self, count: int, read: Callable[[int], str]):
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._read(int(index) % self._count)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenation of start, start + 1, ... start + length - 1 over all rows, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
