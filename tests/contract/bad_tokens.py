"""Token files that must be refused: a table of damages to the tokens of train sample 3."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contract.bad_latents import GIB, Fixture
from contract.sound import LONGEST, World, arrays, npy_header, raw_npy

MIB = 1 << 20


def tokens(**values: object) -> Callable[[World], object]:
    return lambda world: arrays(world.tokens(), **values)


def raw(change: Callable[[bytes], bytes]) -> Callable[[World], object]:
    return lambda world: world.tokens().write_bytes(change(world.tokens().read_bytes()))


def replaced(make: Callable[[Path], object]) -> Callable[[World], object]:
    def damage(world: World) -> None:
        world.tokens().unlink()
        make(world.tokens())

    return damage


def archive(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Callable[[World], object]:
    """A zip of these members; `mask` stands for a sound attention_mask of two."""

    def damage(world: World) -> None:
        with zipfile.ZipFile(world.tokens(), "w", method) as file:
            for name, data in members.items():
                file.writestr(f"{name}.npy", data)

    return damage


def npy(values: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


def at_entry(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Other bytes in the first entry of the central directory and, where the field is there too, in its local header."""

    def change(data: bytes) -> bytes:
        central = data.index(b"PK\x01\x02")
        found = bytearray(data)
        found[central + offset : central + offset + len(value)] = value
        found[offset - 2 : offset - 2 + len(value)] = value
        return bytes(found)

    return change


def twice(world: World) -> None:
    with zipfile.ZipFile(world.tokens(), "a") as file, __import__("warnings").catch_warnings():
        __import__("warnings").simplefilter("ignore")
        file.writestr("input_ids.npy", npy([1, 2, 3]))


def zeros(count: int) -> bytes:
    """So many int64 zeros as a .npy file: real, and 1,000 times smaller in a zip."""
    return raw_npy(npy_header((count,), "'<i8'"), bytes(8 * count))


TWO = npy([1, 1])

TOKENS: dict[str, Fixture] = {
    "a bomb": Fixture(lambda w: archive(input_ids=bytes(300 * MIB), attention_mask=TWO)(w), "BAD_NPZ", heavy=True),
    "a bomb that is an array": Fixture(lambda w: archive(input_ids=zeros(40 * MIB), attention_mask=TWO)(w), "BAD_NPZ", heavy=True),
    "a size that lies": Fixture(raw(at_entry(24, struct.pack("<I", 1 << 31))), "BAD_NPZ", heavy=True),
    "a header that claims 32 GiB": Fixture(
        archive(input_ids=raw_npy(npy_header((4 * GIB,), "'<i8'")), attention_mask=TWO), "BAD_NPY", heavy=True
    ),
    "another packing": Fixture(archive(zipfile.ZIP_LZMA, input_ids=npy([1, 2]), attention_mask=TWO), "BAD_NPZ"),
    "an unknown packing": Fixture(raw(at_entry(10, struct.pack("<H", 99))), "BAD_NPZ"),
    "a password": Fixture(raw(at_entry(8, struct.pack("<H", 1))), "BAD_NPZ"),
    "another check sum": Fixture(raw(at_entry(16, b"\1\2\3\4")), "BAD_NPZ"),
    "no mask": Fixture(tokens(input_ids=[1, 2]), "MISSING_KEY"),
    "no ids": Fixture(tokens(attention_mask=[1, 1]), "MISSING_KEY"),
    "other keys": Fixture(tokens(ids=[1, 2], mask=[1, 1]), "MISSING_KEY"),
    "no array": Fixture(archive(), "MISSING_KEY"),
    "a key twice": Fixture(twice, "MISSING_KEY"),
    "a mask shorter than the ids": Fixture(tokens(input_ids=[1, 2, 3], attention_mask=[1, 1]), "BAD_SHAPE"),
    "a mask longer than the ids": Fixture(tokens(input_ids=[1, 2], attention_mask=[1, 1, 1]), "BAD_SHAPE"),
    "two rows": Fixture(tokens(input_ids=[[1, 2]] * 2, attention_mask=[[1, 1]] * 2), "BAD_SHAPE"),
    "no axis": Fixture(tokens(input_ids=1, attention_mask=1), "BAD_SHAPE"),
    "an id beyond the vocabulary": Fixture(tokens(input_ids=[1, 256], attention_mask=[1, 1]), "TOKEN_RANGE"),
    "a negative id": Fixture(tokens(input_ids=[-1, 2], attention_mask=[1, 1]), "TOKEN_RANGE"),
    "the largest id there is": Fixture(tokens(input_ids=np.array([1, 2**64 - 1], np.uint64), attention_mask=[1, 1]), "TOKEN_RANGE"),
    "fractions": Fixture(tokens(input_ids=[1.0, 2.0], attention_mask=[1, 1]), "BAD_DTYPE"),
    "booleans": Fixture(tokens(input_ids=[True, False], attention_mask=[1, 1]), "BAD_DTYPE"),
    "words": Fixture(tokens(input_ids=["a", "b"], attention_mask=[1, 1]), "BAD_DTYPE"),
    "objects": Fixture(
        lambda w: np.savez(w.tokens(), allow_pickle=True, input_ids=np.array([print] * 2, object), attention_mask=np.ones(2)), "BAD_DTYPE"
    ),
    "a mask of objects": Fixture(
        lambda w: np.savez(w.tokens(), allow_pickle=True, input_ids=np.ones(2, int), attention_mask=np.array([None] * 2)), "BAD_DTYPE"
    ),
    "a mask of twos": Fixture(tokens(input_ids=[1, 2], attention_mask=[1, 2]), "BAD_MASK"),
    "a mask below zero": Fixture(tokens(input_ids=[1, 2], attention_mask=[-1, 1]), "BAD_MASK"),
    "a mask of NaN": Fixture(tokens(input_ids=[1, 2], attention_mask=[1, np.nan]), "BAD_MASK"),
    "a mask with a hole": Fixture(tokens(input_ids=[1, 2, 3], attention_mask=[1, 0, 1]), "BAD_MASK"),
    "nothing masked in": Fixture(tokens(input_ids=[1, 2], attention_mask=[0, 0]), "NO_TOKENS"),
    "zero tokens": Fixture(tokens(input_ids=np.zeros(0, int), attention_mask=np.zeros(0, int)), "NO_TOKENS"),
    "one token too many": Fixture(tokens(input_ids=[1] * (LONGEST + 1), attention_mask=[1] * (LONGEST + 1)), "TEXT_TOO_LONG"),
    "several too long": Fixture(
        lambda w: [arrays(w.tokens(i), input_ids=[1] * 99, attention_mask=[1] * 99) for i in (3, 5)], "TEXT_TOO_LONG"
    ),
    "nothing": Fixture(raw(lambda data: b""), "BAD_NPZ"),
    "cut at the front": Fixture(raw(lambda data: data[9:]), "BAD_NPZ"),
    "cut in the middle": Fixture(raw(lambda data: data[: len(data) // 2]), "BAD_NPZ"),
    "cut by one byte": Fixture(raw(lambda data: data[:-1]), "BAD_NPZ"),
    "no archive": Fixture(raw(lambda data: b"input_ids: 1 2 3\n" * 20), "BAD_NPZ"),
    "an array of that name": Fixture(raw(lambda data: npy([1, 2])), "BAD_NPZ"),
    "not there": Fixture(lambda w: w.tokens().unlink(), "MISSING_TOKENS"),
    "there twice": Fixture(lambda w: arrays(w.tokens().with_name("train_003_tokens.npz"), input_ids=[1], attention_mask=[1]), "UNPAIRED"),
    "of nobody": Fixture(lambda w: arrays(w.tokens(99), input_ids=[1], attention_mask=[1]), "UNPAIRED", "train_099"),
    "another stem": Fixture(lambda w: w.tokens().rename(w.tokens(98)), "MISSING_TOKENS"),
    "a FIFO": Fixture(replaced(os.mkfifo), "NOT_A_FILE"),
    "a folder": Fixture(replaced(Path.mkdir), "MISSING_TOKENS"),
    "a device": Fixture(replaced(lambda p: p.symlink_to("/dev/urandom")), "OUTSIDE"),
    "a link out of the folder": Fixture(lambda w: w.tokens().symlink_to(w.tokens().rename(w.folder / "outside.npz")), "OUTSIDE"),
    "a hard link out of the folder": Fixture(lambda w: os.link(w.tokens(), w.folder / "outside.npz"), "OUTSIDE"),
    "no folder": Fixture(lambda w: w.token_dir.rename(w.folder / "elsewhere"), "MISSING_FILE", "data.token_dir"),
    "no folder of the split": Fixture(lambda w: (w.token_dir / "validation").rename(w.folder / "x"), "MISSING_FILE", "data.token_dir"),
}
