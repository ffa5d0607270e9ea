"""Input that is unusual and right: a table of changes after which sample 3 of train is read as the values given here.

Odd(change, latent, ids)    `latent` and `ids` are what reading gives back; None: what the sound world has
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from contract.bad_lists import coded, field, spelled, text_of_3
from contract.sound import DIM, LONGEST, World, arrays, npy_header, raw_npy

VALUES = [1.5, -0.25, 0.0, 1024.0]
IDS = [104, 105, 33]
ONES = [1, 1, 1]


@dataclass(frozen=True)
class Odd:
    """A change that is accepted, and what sample 3 is afterwards."""

    change: Callable[[World], object]
    latent: list[float] | None = None
    ids: list[int] | None = None


def latent(values: object, dtype: object = np.float32) -> Odd:
    return Odd(lambda world: np.save(world.latent(), np.array(values, dtype=dtype)), VALUES)  # type: ignore[call-overload]


def raw(data: bytes) -> Odd:
    return Odd(lambda world: world.latent().write_bytes(data), VALUES)


def tokens(**values: object) -> Odd:
    return Odd(lambda world: arrays(world.tokens(), **values), ids=IDS)


def named(name: str, folder: str = "", tokens: str = "") -> Odd:
    return Odd(lambda world: world.rename(name, folder=folder, tokens=tokens))


def linked_inside(world: World) -> None:
    """The latent is a link to a file of the same folder, which no sample names."""
    store = world.latent_dir / "store"
    store.mkdir()
    world.latent().symlink_to(world.latent().rename(store / "a.npy"))


def folder_linked(world: World) -> None:
    world.latent_dir.rename(world.folder / "elsewhere")
    world.latent_dir.symlink_to("elsewhere")


NFD = unicodedata.normalize("NFD", "\u00e9t\u00e9")
FLAT = np.array(VALUES, "<f4").tobytes()

LATENTS: dict[str, Odd] = {
    "float16": latent(VALUES, np.float16),
    "float64": latent(VALUES, np.float64),
    "the longest float": latent(VALUES, np.longdouble),
    "the other byte order": latent(VALUES, ">f4"),
    "float64 in the other byte order": latent(VALUES, ">f8"),
    "one row": latent([VALUES]),
    "one row in the order of Fortran": Odd(lambda w: np.save(w.latent(), np.asfortranarray([VALUES])), VALUES),
    "a header of version 2": raw(raw_npy(npy_header((DIM,)), FLAT, version=(2, 0))),
    "a header of Python 2": raw(raw_npy(npy_header("(4L,)"), FLAT)),
    "large, small and signed zeros": Odd(
        lambda w: np.save(w.latent(), np.array([1e30, 1e-40, -0.0, -3e38], np.float32)), [1e30, 1e-40, -0.0, -3e38]
    ),
    "a link inside the folder": Odd(linked_inside),
    "a hard link inside the folder": Odd(lambda w: os.link(w.latent(), w.latent_dir / "copy.npy")),
    "a folder that is a link": Odd(folder_linked),
}

NAMES: dict[str, Odd] = {
    "spaces": named(" a sample  of mine "),
    "emoji": named("\U0001f600 \U0001f1e6\U0001f1fa"),
    "composed accents": named("\u00e9t\u00e9"),
    "decomposed accents": named(NFD),
    "quotes, brackets and signs": named("a'b\"c[d]{e}$f;g&h=i,j#k%l"),
    "a line feed": named("a\nb"),
    "dots": named("a.b..c"),
    "a leading dash": named("-rf"),
    "200 characters": named("n" * 200),
    "a nested folder": named("train_003", folder="a/b c/d"),
    "tokens of the longer name": named("train_003", tokens="train_003_tokens.npz"),
    "a path that begins here": Odd(field(latent_path="./latents/train/train_003.npy")),
    "a path with two slashes": Odd(field(latent_path="latents//train/train_003.npy")),
}

TOKENS: dict[str, Odd] = {
    "int32": tokens(input_ids=np.array(IDS, np.int32), attention_mask=np.array(ONES, np.int32)),
    "uint8": tokens(input_ids=np.array(IDS, np.uint8), attention_mask=np.array(ONES, np.uint8)),
    "uint64": tokens(input_ids=np.array(IDS, np.uint64), attention_mask=ONES),
    "the other byte order": tokens(input_ids=np.array(IDS, ">i4"), attention_mask=ONES),
    "a mask of booleans": tokens(input_ids=IDS, attention_mask=[True] * 3),
    "a mask of fractions": tokens(input_ids=IDS, attention_mask=[1.0] * 3),
    "one row": tokens(input_ids=[IDS], attention_mask=[ONES]),
    "padding behind": tokens(input_ids=[*IDS, 0, 0], attention_mask=[*ONES, 0, 0]),
    "padding in front": tokens(input_ids=[0, 0, *IDS], attention_mask=[0, 0, *ONES]),
    "padding that is no token": tokens(input_ids=[*IDS, -100, 65536], attention_mask=[*ONES, 0, 0]),
    "more arrays": tokens(input_ids=IDS, attention_mask=ONES, length=3, words=["hi", "!"]),
    "compressed": Odd(lambda w: np.savez_compressed(w.tokens(), input_ids=IDS, attention_mask=ONES), ids=IDS),
    "one token": Odd(lambda w: arrays(w.tokens(), input_ids=[104], attention_mask=[1]), ids=[104]),
    "the end alone": Odd(lambda w: arrays(w.tokens(), input_ids=[0], attention_mask=[1]), ids=[0]),
    "as many as fit": Odd(lambda w: arrays(w.tokens(), input_ids=[7] * LONGEST, attention_mask=[1] * LONGEST), ids=[7] * LONGEST),
    "files of the system beside them": Odd(
        lambda w: (w.tokens().with_name(".DS_Store").write_text("x"), w.tokens().with_name("README").write_text("x"))
    ),
}

LISTS: dict[str, Odd] = {
    "a byte order mark": Odd(coded(lambda data: b"\xef\xbb\xbf" + data)),
    "CRLF": Odd(coded(lambda data: data.replace(b"}, {", b"},\r\n{") + b"\r\n")),
    "many lines": Odd(coded(lambda data: data.replace(b", ", b"\n,\n\n ").replace(b"{", b"{\n\t"))),
    "escapes": Odd(text_of_3('"caf\\u00e9 \\ud83d\\ude00 \\u0041\\/"')),
    "no space at all": Odd(coded(lambda data: data.replace(b'": "', b'":"').replace(b'", "', b'","'))),
    "ids of numbers": Odd(field(id=3)),
    "an id of null": Odd(field(id=None)),
    "an id of two lines": Odd(field(id="a\nb \U0001f600")),
    "one id in both splits": Odd(lambda w: (w.edit(3, id="x"), w.edit(1, "validation", id="x"))),
    "more fields": Odd(
        field(dataset="mine", doc_id=None, chunk_id=3, meta={"a": [1, {"b": None}]}, text_path="nowhere.txt", embedding_dim=4)
    ),
    "a long field": Odd(field(notes="x" * 3_000_000)),
    "a field of the same name inside": Odd(field(meta={"text": "", "latent_path": "../../x"})),
}

TEXTS: dict[str, Odd] = {
    "one character": Odd(field(text="x")),
    "many scripts": Odd(
        field(text="\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \u0928\u092e\u0938\u094d\u0924\u0947 \U0001f468\u200d\U0001f469")
    ),
    "decomposed accents": Odd(field(text=NFD)),
    "lines, tabs and other spaces": Odd(field(text="\ta\r\nb\u2028c\u00a0d\x0b")),
    "control characters": Odd(field(text="\x1b[31mred\x07\x7f\u202e")),
    "characters that are none yet": Odd(field(text="\ufffe\uffff\U0010ffff\ue000")),
    "the text of another sample": Odd(lambda w: w.edit(text=w.entries()[2]["text"])),
    "a text of the other split": Odd(lambda w: w.edit(text=w.entries("validation")[0]["text"])),
    "5 MB": Odd(field(text="word " * 1_000_000)),
    "JSON": Odd(spelled("[", " \n[")),
}

ODD: dict[str, Odd] = {
    f"{noun}: {name}": odd
    for noun, table in (("latent", LATENTS), ("name", NAMES), ("tokens", TOKENS), ("list", LISTS), ("text", TEXTS))
    for name, odd in table.items()
}
