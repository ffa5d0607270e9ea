"""NumPy files from strangers: header first, sizes checked, then memory.

    .npy = magic, header {descr, fortran_order, shape}, then exactly prod(shape) * itemsize bytes
    .npz = a zip of .npy members

A header may claim any size. Here a claim is compared with the bytes that are really there before anything is
allocated, objects (pickles) are never read, and a zip member is inflated only up to its declared size.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from lgdlm.errors import InputError

MEMBER_BYTES = 1 << 28  # 256 MiB: no single text needs more
HEADER_BYTES = 1 << 16
DEFLATE_RATIO = 1040  # deflate cannot exceed 1032:1


def read_npy(file: BinaryIO, where: object, field: str, *, kinds: str, limit: int | None = None) -> np.ndarray:
    """The array of an open .npy file; `kinds` are the accepted dtype kinds ("f", "iu", "b").

    Raises InputError: BAD_NPY (not a .npy file, or its size differs from the header's claim), BAD_DTYPE.
    """
    size = os.fstat(file.fileno()).st_size
    dtype, shape, fortran = _header(file, where, field, kinds)
    return _body(file, size - file.tell(), dtype, shape, fortran, where, field, limit)


def map_npy(path: str | os.PathLike[str], where: object, field: str, *, kinds: str) -> np.ndarray:
    """The same, memory-mapped read-only: for arrays larger than memory."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        dtype, shape, fortran = _header(file, where, field, kinds)
        start = file.tell()
    _check_size(size - start, dtype, shape, where, field)
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C")


def read_npz(file: BinaryIO, where: object, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The named arrays of an open .npz file, each at most 256 MiB; `kinds` are the accepted dtype kinds of each.

    Raises InputError: BAD_NPZ (not a readable zip), MISSING_KEY (an array is absent), BAD_NPY, BAD_DTYPE.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: _member(archive, name, where, accepted) for name, accepted in kinds.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, struct.error, ValueError) as error:
        raise InputError("BAD_NPZ", where, "file", f"is not a readable .npz archive ({error}); write it again with numpy.savez") from None


def _member(archive: zipfile.ZipFile, name: str, where: object, kinds: str) -> np.ndarray:
    entries = [entry for entry in archive.infolist() if entry.filename in (f"{name}.npy", name)]
    if len(entries) != 1:
        held = ", ".join(sorted(entry.filename.removesuffix(".npy")[:20] for entry in archive.infolist())[:6]) or "nothing"
        raise InputError("MISSING_KEY", where, name, f"expected one array of this name, got {len(entries)}; the archive holds {held}")
    entry = entries[0]
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError("BAD_NPZ", where, name, f"is packed by method {entry.compress_type}, which numpy never uses; write it again")
    if entry.file_size > MEMBER_BYTES or entry.file_size > (entry.compress_size + 64) * DEFLATE_RATIO:
        raise InputError("BAD_NPZ", where, name, f"declares {entry.file_size} bytes, more than a text can have; write the file again")
    with archive.open(entry) as member:
        data = member.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise InputError("BAD_NPZ", where, name, f"holds {len(data)} bytes, its header says {entry.file_size}; write the file again")
    stream = io.BytesIO(data)
    dtype, shape, fortran = _header(stream, where, name, kinds)
    return _body(stream, len(data) - stream.tell(), dtype, shape, fortran, where, name, None)


def _header(file: BinaryIO, where: object, field: str, kinds: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"format version {version}")
        width, read = (2, npy.read_array_header_1_0) if version == (1, 0) else (4, npy.read_array_header_2_0)
        length = int.from_bytes(file.read(width), "little")
        if length > HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        file.seek(-width, os.SEEK_CUR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # headers of Python 2 are read, and numpy remarks on it
            shape, fortran, dtype = read(file, max_header_size=HEADER_BYTES)
    except (ValueError, EOFError, SyntaxError, TypeError, OSError, MemoryError, RecursionError, tokenize.TokenError) as error:
        reason = str(error).partition("<")[0][:80]  # what follows is the address of an object
        raise InputError("BAD_NPY", where, field, f"is not a .npy array ({reason}); write it again with numpy.save") from None
    if dtype.hasobject or dtype.fields is not None or dtype.kind not in kinds:
        wanted = " or ".join({"f": "float", "i": "integer", "u": "unsigned", "b": "bool"}[kind] for kind in kinds)
        raise InputError("BAD_DTYPE", where, field, f"expected dtype {wanted}, got {dtype}; convert it (objects are never read)")
    return dtype, shape, fortran


def _check_size(held: int, dtype: np.dtype, shape: tuple[int, ...], where: object, field: str) -> int:
    claimed = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or claimed != held:
        raise InputError("BAD_NPY", where, field, f"its header claims {claimed} bytes of data, the file holds {held}; write it again")
    return claimed


def _body(
    file: BinaryIO, held: int, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, where: object, field: str, limit: int | None
) -> np.ndarray:
    claimed = _check_size(held, dtype, shape, where, field)
    if limit is not None and claimed > limit:
        raise InputError("BAD_SHAPE", where, field, f"holds {claimed} bytes, more than the {limit} a sample may have")
    flat = np.frombuffer(file.read(claimed), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
