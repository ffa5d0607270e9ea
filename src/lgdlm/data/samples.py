"""The per-sample layout: one .npy and one .npz a sample, named in a JSON list.

    LATENT_DIR/train_data.json  validation_data.json   [{"text", "latent_path", "id"?}]
    LATENT_DIR/latents/<split>/<stem>.npy              float [D] or [1, D]
    TOKEN_DIR/<split>/<stem>.npz | <stem>_tokens.npz   input_ids int [S], attention_mask [S]

Opening a split reads every file once and reports every problem; afterwards files are read when they are asked for.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lgdlm.data.arrays import read_npy, read_npz
from lgdlm.data.confinement import Confinement
from lgdlm.data.rows import Strings
from lgdlm.data.sample_index import SampleEntry, TokenFiles, files_below, list_name, read_entries
from lgdlm.data.split import content_key
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import make_folder, storage
from lgdlm.data.verification import Report, latent_problem, token_problem, wrong_width
from lgdlm.errors import InputError

LATENT_BYTES = 1 << 24
BLOCK, BLOCK_BYTES = 4096, 1 << 26  # latents held at once in a scan: so many, and no more than that of memory
WIDTHS = 4  # of which statistics are kept: data of more than one width are refused anyway
TOKENS = "tokens"  # where our writer puts the token folder, below the latent folder


class SampleSplit:
    """Random access to one split of the per-sample layout, after a complete scan.

    lengths int64 [n], last_tokens int64 [n], ids, texts; `gather`, `latents` as in `PackedSplit`; `statistics` of the latents or None.

    `report` receives every problem of the scan (the split is then usable only to be thrown away); `latent_dim` and `vocab_size`
    are what the caller expects, None: whatever the files agree on. Raises InputError where nothing can be scanned.
    """

    def __init__(
        self,
        latent_dir: str | Path,
        token_dir: str | Path,
        split: str,
        report: Report,
        *,
        latent_dim: int | None = None,
        vocab_size: int | None = None,
        with_latents: bool = True,
        limit: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ):
        self.folder, self.split, self.with_latents, self._vocab_size = Path(latent_dir), split, with_latents, vocab_size
        self._latent_root, self._token_root = Confinement(latent_dir), Confinement(token_dir)
        entries, whole = read_entries(self.folder, split, report, with_latents=with_latents, limit=limit)
        files = TokenFiles(Path(token_dir), split)
        paths = [files.pair(entry, report) for entry in entries]
        self._entries = [entry for entry in entries if entry.sound]
        self._token_paths = [path for path, entry in zip(paths, entries, strict=True) if entry.sound]
        if whole:
            files.report_unpaired(list_name(split), report)
            self._report_unlisted(entries, report)
        self.statistics: LatentStatistics | None = None
        self.latent_dim: int | None = None
        self._scan(report, latent_dim, on_progress or (lambda done, total: None))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ids(self) -> Sequence[str]:
        return Strings(len(self._entries), lambda i: self._entries[i].id)

    def ids_of(self, indices: np.ndarray) -> list[str]:
        return [self._entries[int(i)].id for i in indices]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        return self.lengths[indices]

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        return self.last_tokens[indices]

    @property
    def texts(self) -> Sequence[str]:
        return Strings(len(self._entries), lambda i: self._entries[i].text)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token ids of the rows one after another, int64 [T], and their lengths, int64 [k]."""
        rows = [self._tokens(int(i)) for i in indices]
        return np.concatenate(rows) if rows else np.empty(0, np.int64), np.array([len(row) for row in rows], np.int64)

    def latents(self, indices: np.ndarray) -> np.ndarray | None:
        """float32 [k, D], or None where the split was opened without latents."""
        if not self.with_latents:
            return None
        rows = [self._latent(self._entries[int(i)]) for i in indices]
        return np.stack(rows) if rows else np.empty((0, self.latent_dim or 0), np.float32)

    def _latent(self, entry: SampleEntry) -> np.ndarray:
        with self._latent_root.open(entry.latent_path, entry.where, entry.id) as file:
            where = self.folder / str(entry.latent_path)
            latent = read_npy(file, where, entry.id, kinds="f", limit=LATENT_BYTES)
        if latent.ndim not in (1, 2) or (latent.ndim == 2 and latent.shape[0] != 1) or not latent.size:
            raise InputError("BAD_SHAPE", where, entry.id, f"expected a latent [D] or [1, D], got {list(latent.shape)}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is reported as such
            latent = latent.reshape(-1).astype(np.float32)
        if not np.isfinite(latent).all():
            raise latent_problem(str(where), entry.id, latent)
        return latent

    def _tokens(self, index: int) -> np.ndarray:
        entry, path = self._entries[index], self._token_paths[index]
        with self._token_root.open(path, entry.where, entry.id) as file:
            where = self._token_root.root / str(path)
            arrays = read_npz(file, where, {"input_ids": "iu", "attention_mask": "iubf"})
        ids, mask = (array.reshape(-1) if array.ndim == 2 and array.shape[0] == 1 else array for array in arrays.values())
        if ids.ndim != 1 or ids.shape != mask.shape:
            shapes = f"{list(ids.shape)} and {list(mask.shape)}"
            raise InputError("BAD_SHAPE", where, entry.id, f"expected input_ids and attention_mask of one length [S], got {shapes}")
        real = np.flatnonzero(mask)
        if not ((mask == 0) | (mask == 1)).all() or (len(real) and real[-1] - real[0] + 1 != len(real)):
            raise InputError("BAD_MASK", where, entry.id, "expected an attention_mask of zeros and one unbroken run of ones")
        if not len(real):
            raise InputError("NO_TOKENS", where, entry.id, "the attention_mask marks no token; leave the sample out")
        ids = ids[real].astype(np.int64)
        bad = ids[(ids < 0) | (ids >= (self._vocab_size or 1 << 31))]
        if len(bad):
            raise token_problem(str(where), entry.id, int(bad[0]), self._vocab_size or 1 << 31)
        return ids

    def _scan(self, report: Report, expected: int | None, on_progress: Callable[[int, int], None]) -> None:
        """Read every file once: lengths, last tokens, the latents' width and statistics."""
        n = len(self._entries)
        self.lengths, self.last_tokens, dims = np.zeros(n, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64)
        statistics: dict[int, LatentStatistics] = {}
        block: list[np.ndarray] = []
        held = 0
        for i, entry in enumerate(self._entries):
            try:
                if self._token_paths[i] is not None:  # else it has been reported
                    ids = self._tokens(i)
                    self.lengths[i], self.last_tokens[i] = len(ids), ids[-1]
            except InputError as problem:
                report(problem)
            if self.with_latents:
                try:
                    block.append(self._latent(entry))
                    dims[i] = len(block[-1])
                    held += block[-1].nbytes
                except InputError as problem:
                    report(problem)
            if len(block) == BLOCK or held > BLOCK_BYTES or i == n - 1:
                for dim in {len(latent) for latent in block}:
                    if dim == expected or dim in statistics or len(statistics) < WIDTHS:
                        statistics.setdefault(dim, LatentStatistics(dim)).add(np.stack([x for x in block if len(x) == dim]))
                block, held = [], 0
                on_progress(i + 1, n)
        if statistics:
            common = Counter(dims[dims > 0].tolist()).most_common(1)[0][0]
            self.latent_dim = expected or common
            self.statistics = statistics.get(self.latent_dim)
            # where none has the width that is expected it is the expectation, or the folder, that is wrong
            remedy = "encode it again" if self.latent_dim in dims else wrong_width(self.folder, common, self.latent_dim)
            for i in np.flatnonzero((dims > 0) & (dims != self.latent_dim)).tolist():
                where = self.folder / str(self._entries[i].latent_path)
                message = f"expected a latent of {self.latent_dim} numbers, got {dims[i]}; {remedy}"
                report(InputError("LATENT_DIM", where, self._entries[i].id, message))

    def _report_unlisted(self, entries: list[SampleEntry], report: Report) -> None:
        if not self.with_latents:
            return
        listed = {os.path.normpath(str(entry.latent_path)) for entry in entries}
        base = Path("latents", self.split)
        for name in files_below(self.folder / base, ".npy"):
            if os.path.normpath(base / name) not in listed:
                message = f"no sample of {list_name(self.split)} names this latent; remove the file or add the sample"
                report(InputError("UNPAIRED", self.folder / base / name, "latents", message))


class SampleWriter:
    """Writes one split as files; `add` rows, then `close`. The folder is meant to be renamed into place when all is written."""

    def __init__(self, folder: Path, split: str, source: str):
        self.folder, self.split, self.source = folder, split, source
        self.rows = self.tokens = self.bytes = 0
        for part in (folder / "latents" / split, folder / TOKENS / split):
            make_folder(part)
        with storage(folder):
            self._list: TextIO = (folder / list_name(split)).open("w", encoding="utf-8", newline="\n")
            self._list.write("[")

    def add(self, id: str, text: str, tokens: Sequence[int] | np.ndarray, latent: np.ndarray | None) -> None:
        """One row, as `PackedWriter.add`; its stem is <source>_<index>_<content hash>."""
        stem = f"{self.source}_{self.rows:08d}_{content_key(text).hex()[:16]}"
        ids = np.asarray(tokens, np.int64)
        entry: dict[str, Any] = {"text": text, "id": id, "dataset": self.source}
        with storage(self.folder):
            if latent is not None:
                entry["latent_path"] = f"latents/{self.split}/{stem}.npy"
                np.save(self.folder / entry["latent_path"], np.asarray(latent, np.float32), allow_pickle=False)
            else:
                entry["stem"] = stem
            np.savez(self.folder / TOKENS / self.split / f"{stem}.npz", input_ids=ids, attention_mask=np.ones_like(ids))
            self._list.write(("," if self.rows else "") + "\n" + json.dumps(entry, ensure_ascii=False))
        self.rows, self.tokens, self.bytes = self.rows + 1, self.tokens + len(ids), self.bytes + len(text.encode("utf-8"))

    def close(self) -> list[dict[str, Any]]:
        """End the list and flush it; the layout has no shards, so the ledger is empty."""
        with storage(self.folder):
            self._list.write("\n]\n")
            self._list.flush()
            os.fsync(self._list.fileno())
            self._list.close()
        return []

    @property
    def counts(self) -> dict[str, int]:
        return {"rows": self.rows, "tokens": self.tokens, "bytes": self.bytes}
