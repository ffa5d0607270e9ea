"""One columnar shard: a safetensors file of flat columns, read in place.

    tokens uint16 | int32 [T],  token_offsets int64 [n + 1],  latents float32 [n, D] (absent without latents)
    text uint8 [bytes],  text_offsets int64 [n + 1],  id uint8 [bytes],  id_offsets int64 [n + 1]

    file = header length (8 bytes, little endian), JSON header, then the columns without gaps

The header is checked against the size of the file before a column is viewed, and columns are views of the mapped file:
opening a shard costs nothing, a row costs the pages it lies on.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

DTYPES = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64, "F16": np.float16, "F32": np.float32}
HEADER_BYTES = 1 << 20
COLUMNS = {
    "tokens": ("U16", "I32"),
    "token_offsets": ("I64",),
    "text": ("U8",),
    "text_offsets": ("I64",),
    "id": ("U8",),
    "id_offsets": ("I64",),
}


def map_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a safetensors file as read-only views of the mapped file. Raises InputError BAD_SHARD."""
    return _mapped(path)[1]


def _mapped(path: Path) -> tuple[mmap.mmap, dict[str, np.ndarray]]:
    """The mapped file and the columns in it.

    Raises InputError: BAD_SHARD when the header does not describe exactly the bytes that are there.
    """

    def bad(reason: str) -> InputError:
        return InputError("BAD_SHARD", path, "header", f"{reason}; the file is damaged: run prepare again")

    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_BYTES):
            raise bad(f"claims a header of {length} bytes in a file of {size}")
        try:
            header = parse(file.read(length))
        except ValueError:
            raise bad("is not JSON") from None
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if not isinstance(header, dict):
        raise bad("is not an object")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    columns: dict[str, np.ndarray] = {}
    end = 0
    try:
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (start, stop) = np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<"), entry["shape"], entry["data_offsets"]
            if not all(isinstance(n, int) and n >= 0 for n in [*shape, start, stop]):
                raise bad(f"{name} has no valid shape or offsets")
            if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > size - 8 - length:
                raise bad(f"{name} claims bytes {start} to {stop} of {size - 8 - length}")
            columns[name] = np.frombuffer(mapped, dtype, math.prod(shape), offset=8 + length + start).reshape(shape)
            end = stop
    except (KeyError, TypeError, ValueError, IndexError):
        raise bad("has an entry without dtype, shape or data_offsets") from None
    if end != size - 8 - length:
        raise bad(f"describes {end} bytes of {size - 8 - length}")
    return mapped, columns


class Shard:
    """The rows of one shard file; `rows`, `tokens`, `token_offsets`, `latents` (or None), `text(i)`, `id(i)`."""

    def __init__(self, path: Path, rows: int, latent_dim: int | None):
        self.path, self.rows = path, rows
        self._map, self.columns = _mapped(path)
        for name, dtypes in COLUMNS.items():
            column = self.columns.get(name)
            if column is None or column.ndim != 1 or column.dtype not in [np.dtype(DTYPES[d]) for d in dtypes]:
                raise InputError("BAD_SHARD", path, name, f"expected a flat column of {' or '.join(dtypes)}; run prepare again")
        self.tokens, self.token_offsets = self.columns["tokens"], self.columns["token_offsets"]
        for values, offsets in (("tokens", "token_offsets"), ("text", "text_offsets"), ("id", "id_offsets")):
            self._check_offsets(offsets, len(self.columns[values]))
        self.latents = self.columns.get("latents")
        wanted = None if latent_dim is None else (rows, latent_dim)
        held = None if self.latents is None else self.latents.shape
        if held != wanted or (self.latents is not None and self.latents.dtype != np.float32):
            raise InputError("BAD_SHARD", path, "latents", f"expected float32 {wanted}, got {held}; run prepare again")

    def _check_offsets(self, name: str, end: int) -> None:
        offsets = self.columns[name]
        sound = len(offsets) == self.rows + 1 and offsets[0] == 0 and offsets[-1] == end and bool((offsets[1:] >= offsets[:-1]).all())
        if not sound:
            raise InputError("BAD_SHARD", self.path, name, f"expected {self.rows + 1} rising offsets from 0 to {end}; run prepare again")

    def release(self) -> None:
        """Give back the memory of the pages read so far; they are mapped again when they are read again."""
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):  # where the system has it
            self._map.madvise(mmap.MADV_DONTNEED)

    def text(self, row: int) -> str:
        return self._string("text", row)

    def id(self, row: int) -> str:
        return self._string("id", row)

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of `rows` int64 [k]."""
        column, offsets = self.columns["id"], self.columns["id_offsets"]
        try:
            return [column[a:b].tobytes().decode() for a, b in zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)]
        except UnicodeDecodeError:
            return [self.id(int(row)) for row in rows]  # which names the one that is broken

    def id_bytes(self, row: int) -> bytes:
        offsets = self.columns["id_offsets"]
        return self.columns["id"][int(offsets[row]) : int(offsets[row + 1])].tobytes()

    def _string(self, name: str, row: int) -> str:
        offsets = self.columns[f"{name}_offsets"]
        start = int(offsets[row])
        try:
            return self.columns[name][start : int(offsets[row + 1])].tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"invalid UTF-8 at byte {start + error.start} of the column; run prepare again"
            raise InputError("BAD_UTF8", f"{self.path}#{row}", name, message) from None


class ShardBuffer:
    """Rows gathered in memory until they make a shard; `size` is their bytes so far."""

    def __init__(self) -> None:
        self.size = 0
        self._tokens: list[np.ndarray] = []
        self._texts: list[bytes] = []
        self._ids: list[bytes] = []
        self._latents: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, id: str, text: str, tokens: np.ndarray, latent: np.ndarray | None) -> None:
        self._tokens.append(tokens)
        self._texts.append(text.encode("utf-8"))
        self._ids.append(id.encode("utf-8"))
        if latent is not None:
            self._latents.append(latent)
        self.size += tokens.nbytes + len(self._texts[-1]) + len(self._ids[-1]) + 24 + (0 if latent is None else latent.nbytes)

    def serialise(self) -> bytes:
        """The shard as safetensors bytes."""
        from safetensors.numpy import save

        columns: dict[str, np.ndarray] = {"tokens": np.concatenate(self._tokens), "token_offsets": _offsets(self._tokens)}
        for name, values in (("text", self._texts), ("id", self._ids)):
            columns[name], columns[f"{name}_offsets"] = np.frombuffer(b"".join(values), np.uint8), _offsets(values)
        if self._latents:
            assert len(self._latents) == len(self._tokens), "all rows of a shard have a latent, or none"
            columns["latents"] = np.stack(self._latents)
        return save(columns)


def _offsets(values: list[Any]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int64)
