"""Latents that must be refused: a table of damages to the latent of train sample 3."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contract.sound import DIM, World, npy_header, raw_npy

GIB = 1 << 30


@dataclass(frozen=True)
class Fixture:
    """A damage, the code it is refused with, and what its line names. `heavy`: it claims more memory than it may get."""

    damage: Callable[[World], object]
    code: str
    names: str = "train_003"
    heavy: bool = False


def latent(values: object, dtype: object = np.float32) -> Callable[[World], object]:
    return lambda world: np.save(world.latent(), np.array(values, dtype=dtype))  # type: ignore[call-overload]


def raw(data: bytes) -> Callable[[World], object]:
    return lambda world: world.latent().write_bytes(data)


def cut(size: int) -> Callable[[World], object]:
    return lambda world: world.latent().write_bytes(world.latent().read_bytes()[:size])


def replaced(make: Callable[[Path], object]) -> Callable[[World], object]:
    """Something else in the place of the file."""

    def damage(world: World) -> None:
        world.latent().unlink()
        make(world.latent())

    return damage


def moved_out(world: World) -> Path:
    return world.latent().rename(world.folder / "outside.npy")


def sparse(world: World) -> None:
    """32 GiB that are really there, and take no space."""
    world.latent().write_bytes(raw_npy(npy_header((8 * GIB,)), b""))
    with world.latent().open("ab") as file:
        file.truncate(file.tell() + 32 * GIB)


def objects(world: World) -> None:
    np.save(world.latent(), np.array([print] * DIM, dtype=object), allow_pickle=True)


def as_archive(world: World) -> None:
    np.savez(world.latent().with_suffix(""), latent=np.ones(DIM, np.float32))
    world.latent().with_suffix(".npz").replace(world.latent())


HUGE, CODE = (1 << 40, 1 << 40), "__import__('os').system('true')"

LATENTS: dict[str, Fixture] = {
    "NaN": Fixture(latent([1, np.nan, 1, 1]), "NAN_LATENT"),
    "infinity": Fixture(latent([1, np.inf, 1, 1]), "NAN_LATENT"),
    "minus infinity": Fixture(latent([1, 1, 1, -np.inf]), "NAN_LATENT"),
    "NaN in float16": Fixture(latent([np.nan] * DIM, np.float16), "NAN_LATENT"),
    "infinity in the other byte order": Fixture(latent([1, np.inf, 1, 1], ">f4"), "NAN_LATENT"),
    "beyond float32": Fixture(latent([1, 1e300, 1, 1], np.float64), "NAN_LATENT"),
    "one dimension more": Fixture(latent([1] * (DIM + 1)), "LATENT_DIM"),
    "one dimension less": Fixture(latent([1] * (DIM - 1)), "LATENT_DIM"),
    "an encoder's own width": Fixture(latent([1] * 1024), "LATENT_DIM"),
    "integers": Fixture(latent([1] * DIM, np.int64), "BAD_DTYPE"),
    "bytes": Fixture(latent([1] * DIM, np.uint8), "BAD_DTYPE"),
    "booleans": Fixture(latent([True] * DIM, bool), "BAD_DTYPE"),
    "complex numbers": Fixture(latent([1] * DIM, np.complex64), "BAD_DTYPE"),
    "strings": Fixture(latent(["0.1"] * DIM, "U8"), "BAD_DTYPE"),
    "dates": Fixture(latent([0] * DIM, "M8[s]"), "BAD_DTYPE"),
    "void": Fixture(latent([b"1234"] * DIM, "V4"), "BAD_DTYPE"),
    "fields": Fixture(latent([(1.0,)] * DIM, [("x", "f4")]), "BAD_DTYPE"),
    "objects": Fixture(objects, "BAD_DTYPE"),
    "an object's dtype over plain bytes": Fixture(raw(raw_npy(npy_header((2,), "'|O'"))), "BAD_DTYPE"),
    "a pickle": Fixture(raw(pickle.dumps([1.0] * DIM)), "BAD_NPY"),
    "an archive of that name": Fixture(as_archive, "BAD_NPY"),
    "two rows": Fixture(latent([[1] * DIM] * 2), "BAD_SHAPE"),
    "three axes": Fixture(latent([[[1] * DIM]]), "BAD_SHAPE"),
    "no axis": Fixture(latent(1.0), "BAD_SHAPE"),
    "no number": Fixture(latent([]), "BAD_SHAPE"),
    "no row": Fixture(latent(np.ones((0, DIM))), "BAD_SHAPE"),
    "nothing": Fixture(cut(0), "BAD_NPY"),
    "half a magic": Fixture(cut(4), "BAD_NPY"),
    "half a header": Fixture(cut(40), "BAD_NPY"),
    "a header alone": Fixture(cut(128), "BAD_NPY"),
    "one byte short": Fixture(cut(-1), "BAD_NPY"),
    "one byte long": Fixture(lambda w: w.latent().write_bytes(w.latent().read_bytes() + b"\0"), "BAD_NPY"),
    "another magic": Fixture(raw(b"\x94NUMPY" + bytes(122)), "BAD_NPY"),
    "a format from the future": Fixture(raw(raw_npy(npy_header((DIM,)), version=(9, 0))), "BAD_NPY"),
    "a header that claims 32 GiB": Fixture(raw(raw_npy(npy_header((8 * GIB,)))), "BAD_NPY", heavy=True),
    "a header that claims more than there is": Fixture(raw(raw_npy(npy_header(HUGE))), "BAD_NPY", heavy=True),
    "a header 4 GiB long": Fixture(raw(raw_npy(npy_header((DIM,)), version=(2, 0), claimed=(1 << 32) - 1)), "BAD_NPY", heavy=True),
    "32 GiB of zeros": Fixture(sparse, "BAD_SHAPE", heavy=True),
    "a negative shape": Fixture(raw(raw_npy(npy_header((-DIM,)))), "BAD_NPY"),
    "a shape that is no tuple": Fixture(raw(raw_npy(npy_header("'4'"))), "BAD_NPY"),
    "a shape of fractions": Fixture(raw(raw_npy(npy_header((4.0,)))), "BAD_NPY"),
    "a header of code": Fixture(raw(raw_npy(f"{{'descr': {CODE}, 'fortran_order': False, 'shape': (4,), }}")), "BAD_NPY"),
    "a header that is a list": Fixture(raw(raw_npy("['<f4', False, (4,)]")), "BAD_NPY"),
    "a header without a shape": Fixture(raw(raw_npy("{'descr': '<f4', 'fortran_order': False}")), "BAD_NPY"),
    "a header of brackets": Fixture(raw(raw_npy("(" * 9000)), "BAD_NPY"),
    "an unknown dtype": Fixture(raw(raw_npy(npy_header((DIM,), "'<q9'"))), "BAD_NPY"),
    "a dtype of many fields": Fixture(raw(raw_npy(npy_header((1,), str([(f"f{i}", "<f4") for i in range(500)])))), "BAD_DTYPE"),
    "a missing file": Fixture(lambda w: w.latent().unlink(), "MISSING_FILE"),
    "a file that nobody names": Fixture(lambda w: np.save(w.latent(99), np.ones(DIM, np.float32)), "UNPAIRED", "train_099"),
    "a FIFO": Fixture(replaced(os.mkfifo), "NOT_A_FILE"),
    "a folder": Fixture(replaced(Path.mkdir), "NOT_A_FILE"),
    "a device": Fixture(replaced(lambda p: p.symlink_to("/dev/zero")), "OUTSIDE"),
    "a link to itself": Fixture(replaced(lambda p: p.symlink_to(p.name)), "BAD_PATH"),
    "a link to nothing": Fixture(replaced(lambda p: p.symlink_to("nothing.npy")), "MISSING_FILE"),
    "a link out of the folder": Fixture(lambda w: w.latent().symlink_to(moved_out(w)), "OUTSIDE"),
    "a link through a folder outside": Fixture(lambda w: through_a_folder(w), "OUTSIDE"),
    "a hard link out of the folder": Fixture(lambda w: os.link(w.latent(), w.folder / "outside.npy"), "OUTSIDE"),
    "several at once": Fixture(lambda w: [np.save(w.latent(i), np.full(DIM, np.nan, np.float32)) for i in (3, 5, 7)], "NAN_LATENT"),
    "in the validation split": Fixture(lambda w: np.save(w.latent(1, "validation"), np.full(DIM, np.nan)), "NAN_LATENT", "validation_001"),
    "in both splits": Fixture(
        lambda w: [np.save(w.latent(1, s), np.full(DIM, np.nan)) for s in ("train", "validation")], "NAN_LATENT", "validation_001"
    ),
    "of another width in all of the validation split": Fixture(
        lambda w: [np.save(w.latent(i, "validation"), np.arange(5.0)) for i in range(4)], "LATENT_DIM", "validation_002"
    ),
    "of a wider one in all of the train split": Fixture(
        lambda w: [np.save(w.latent(i), np.arange(7.0)) for i in range(12)], "LATENT_DIM", "train_011"
    ),
    "of as many widths as samples": Fixture(
        lambda w: [np.save(w.latent(i), np.arange(9.0 + i)) for i in range(12)], "LATENT_DIM", "train_011"
    ),
    "of another width throughout": Fixture(
        lambda w: [np.save(p, np.arange(9.0)) for p in w.latent_dir.rglob("*.npy")], "LATENT_DIM", "got 9"
    ),
    "a dimension that never varies": Fixture(lambda w: constant(w), "CONSTANT_LATENT", "dimension 2"),
}


def through_a_folder(world: World) -> None:
    """latents/train/elsewhere leads out, and the path names a file below it."""
    outside = world.folder / "outside"
    outside.mkdir()
    world.latent().rename(outside / "train_003.npy")
    (world.latent_dir / "latents/train/elsewhere").symlink_to(outside)
    world.edit(latent_path="latents/train/elsewhere/train_003.npy")


def constant(world: World) -> None:
    for path in (world.latent_dir / "latents/train").iterdir():
        values = np.load(path)
        values[2] = 0.5
        np.save(path, values)


assert struct.calcsize("f") * DIM == 16, "the bytes that `raw_npy` gives are one latent"
