"""Latents that a user hands to a command: `.npy` files by name, the name being the sample's id, or the lines that `sample` itself writes.

    x.npy       [D], [L, D]         one latent, id "x"
                [n, D], [n, L, D]   n latents, ids "x-0", "x-1", ... (n = 1: "x")
    folder/     <id>.npy of one latent each, also in sub-folders (id "sub/x")
    x.jsonl     {"id", "latent"} a line, as t2l and joint write them

Everything is read and checked before anything is sampled; with several problems all of them are listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from lgdlm.data.arrays import read_npy
from lgdlm.data.confinement import Confinement
from lgdlm.data.entries import Entry, read_jsonl
from lgdlm.data.problems import refuse
from lgdlm.data.projection import Projection
from lgdlm.errors import InputError

FILE_BYTES = 1 << 32
LINES = (".jsonl", ".ndjson")


def check_latents(path: Path) -> None:
    """That there is something to read, before a model is loaded for it. Raises InputError MISSING_FILE."""
    if not path.exists():
        message = "does not exist: a .npy file, a folder of them, or a .jsonl file of latents is expected"
        raise InputError("MISSING_FILE", path, "sampling.input", message)


def read_latents(path: Path, shape: tuple[int, int], projection: Projection | None, project: bool | None) -> dict[str, np.ndarray]:
    """Float32 [L, D] by id, in the order of the names or lines; `shape` is the model's (L, D).

    With `project`, latents of the projection's input width are projected; None: of `.npy` files the width must say whose they are, and
    lines are the model's own. Raises InputError: MISSING_FILE, BAD_NPY, BAD_DTYPE, BAD_SHAPE, LATENT_DIM, NAN_LATENT, CONFIG (the width
    does not say it), and those of `read_jsonl`.
    """
    if project and projection is None:
        raise InputError("CONFIG", "command-line", "sampling.project", "this checkpoint has no projection: its data was given as latents")
    check_latents(path)
    if path.suffix.lower() in LINES and path.is_file():
        return _of_lines(path, shape, projection, bool(project))
    found, problems = dict[str, np.ndarray](), list[InputError]()
    inside = Confinement(path if path.is_dir() else path.parent)
    files = [file for file in path.rglob("*.npy") if not file.name.startswith(".")] if path.is_dir() else []
    names = sorted(file.relative_to(path).as_posix() for file in files) if path.is_dir() else [path.name]
    if not names:
        raise InputError("MISSING_FILE", path, "sampling.input", "the folder holds no .npy file")
    for name in names:
        where = path / name if path.is_dir() else path
        try:
            with inside.open(name, where, "latent") if path.is_dir() else _named(path) as file:
                array = read_npy(file, where, "latent", kinds="f", limit=FILE_BYTES)
            rows = _rows(array, where, shape, projection, project)
            if path.is_dir() and len(rows) != 1:
                message = f"one latent a file is expected in a folder, got {len(rows)}; name the file itself, or write one file a latent"
                raise InputError("BAD_SHAPE", where, "latent", message)
        except InputError as problem:
            problems.append(problem)
            continue
        stem = name.removesuffix(".npy")
        found.update({stem if len(rows) == 1 else f"{stem}-{i}": row for i, row in enumerate(rows)})
    refuse(problems)
    return found


def _of_lines(path: Path, shape: tuple[int, int], projection: Projection | None, project: bool) -> dict[str, np.ndarray]:
    found, problems = dict[str, np.ndarray](), list[InputError]()
    for number, entry in enumerate(read_jsonl(path)):
        if isinstance(entry, InputError):
            problems.append(entry)
        elif isinstance(entry, Entry):
            try:
                name = entry.values.get("id", f"{path.stem}-{number}")
                if not isinstance(name, str | int) or str(name) in found:
                    raise InputError("DUPLICATE_ID", entry.where, "id", f"a text that no other line has is expected, got {name!r:.40}")
                found[str(name)] = _of_line(entry, shape, projection, project)
            except InputError as problem:
                problems.append(problem)
    refuse(problems)
    if not found:
        raise InputError("MISSING_FILE", path, "sampling.input", "the file holds no latent")
    return found


def _of_line(entry: Entry, shape: tuple[int, int], projection: Projection | None, project: bool) -> np.ndarray:
    try:
        array = np.asarray(entry.values.get("latent"))
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fi":
        message = f'expected {{"id": ..., "latent": [{shape[1]} numbers]}}, as mode=t2l writes it'
        raise InputError("BAD_DTYPE", entry.where, "latent", message)
    rows = _rows(array, entry.where, shape, projection, project)
    if len(rows) != 1:
        raise InputError("BAD_SHAPE", entry.where, "latent", f"one latent a line is expected, got {len(rows)}")
    return rows[0]


def _named(path: Path) -> BinaryIO:
    """A file that the user named himself: it may be a link, but a FIFO or a device would block."""
    if not path.is_file():
        raise InputError("NOT_A_FILE", path, "sampling.input", "is neither a regular file nor a folder")
    return path.open("rb")


def _rows(array: np.ndarray, where: object, shape: tuple[int, int], projection: Projection | None, project: bool | None) -> np.ndarray:
    """[n, L, D] of one file or line."""
    length, dim = shape
    width = array.shape[-1] if array.ndim else 0
    if project is None and projection is not None and projection.kind != "identity" and width == dim == projection.input_dim:
        message = f"{dim} numbers before and after {projection.kind}: say project=true (the encoder's) or project=false (the model's own)"
        raise InputError("CONFIG", where, "sampling.project", message)
    if project and projection is not None and width == projection.input_dim != 0:
        array = projection(array.reshape(-1, width).astype(np.float32)).reshape(*array.shape[:-1], projection.dim)
    elif width != dim:
        raise InputError("LATENT_DIM", where, "latent", f"expected {dim} dimensions, got {width}; {_advice(width, dim, projection)}")
    if array.ndim == 1:
        array = array[None]
    if array.ndim == 2:
        array = array[:, None] if length == 1 else array[None]
    if array.ndim != 3 or array.shape[1] != length or not len(array):
        raise InputError("BAD_SHAPE", where, "latent", f"expected [{length}, {dim}] or [n, {length}, {dim}], got {list(array.shape)}")
    with np.errstate(over="ignore"):
        rows = array.astype(np.float32)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))[0])
        raise InputError("NAN_LATENT", f"{where}#{bad}", "latent", "holds NaN or infinity (in float32); encode its text again")
    return rows


def _advice(width: int, dim: int, projection: Projection | None) -> str:
    if projection is not None and width == projection.input_dim:
        return f"add sampling.project=true to project {width} to {dim} as the training data was"
    encoded = "" if projection is None else f", or the encoder's {projection.input_dim} with sampling.project=true"
    return f"give the model's own {dim}, as mode=t2l writes them{encoded}"
