"""Lists of samples, texts and ids that must be refused: a table of damages to entry 3 of train, or to the list."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from contract.bad_latents import Fixture
from contract.sound import World

LIST = "train_data.json"
ENTRY = f"{LIST}#3"


def field(**values: object) -> Callable[[World], object]:
    return lambda world: world.edit(**values)


def spelled(old: str, new: str) -> Callable[[World], object]:
    """Another spelling in the text of the list; `train_003` is where the entry is."""
    return lambda world: world.rewrite(lambda text: text.replace(old, new, 1))


def coded(change: Callable[[bytes], bytes]) -> Callable[[World], object]:
    return lambda world: world.recode(change)


def text_of_3(spelling: str) -> Callable[[World], object]:
    """The text of entry 3 in a spelling that `json.dumps` would not give."""

    def damage(world: World) -> None:
        world.edit(text="MARK")
        world.rewrite(lambda text: text.replace('"MARK"', spelling, 1))

    return damage


def in_text(data: bytes) -> Callable[[World], object]:
    """Bytes inside the text of entry 3."""

    def damage(world: World) -> None:
        world.edit(text="MARK")
        world.recode(lambda text: text.replace(b"MARK", b"a " + data + b" b", 1))

    return damage


def instead(make: Callable[[Path], object]) -> Callable[[World], object]:
    def damage(world: World) -> None:
        world.listing().unlink()
        make(world.listing())

    return damage


def upwards(spelling: str) -> Callable[[World], object]:
    """A path to a file that exists above the data folder."""

    def damage(world: World) -> None:
        world.latent().rename(world.folder / "train_003.npy")
        world.edit(latent_path=spelling.format(folder=world.folder))

    return damage


PATHS: dict[str, Fixture] = {
    "up": Fixture(upwards("../train_003.npy"), "OUTSIDE"),
    "down and up": Fixture(upwards("latents/../../train_003.npy"), "OUTSIDE"),
    "here and up": Fixture(upwards("./../train_003.npy"), "OUTSIDE"),
    "up behind a folder that is not there": Fixture(upwards("nowhere/../../train_003.npy"), "OUTSIDE"),
    "up and back in": Fixture(field(latent_path="latents/validation/../train/train_003.npy"), "OUTSIDE"),
    "absolute": Fixture(upwards("{folder}/train_003.npy"), "OUTSIDE"),
    "absolute with two slashes": Fixture(upwards("//{folder}/train_003.npy"), "OUTSIDE"),
    "backslashes": Fixture(upwards("..\\train_003.npy"), "MISSING_FILE"),
    "percent signs": Fixture(upwards("%2e%2e/train_003.npy"), "MISSING_FILE"),
    "dots that look like dots": Fixture(upwards("\u2024\u2024/train_003.npy"), "MISSING_FILE"),
    "a home": Fixture(upwards("~/train_003.npy"), "MISSING_FILE"),
    "an address": Fixture(upwards("file://{folder}/train_003.npy"), "MISSING_FILE"),
    "a zero character": Fixture(field(latent_path="latents/train/train_003.npy\0.npy"), "BAD_PATH", ENTRY),
    "no path": Fixture(field(latent_path=""), "BAD_PATH", ENTRY),
    "the folder itself": Fixture(field(latent_path="."), "NOT_A_FILE", ENTRY),
    "a folder of data": Fixture(field(latent_path="latents/train"), "NOT_A_FILE", ENTRY),
    "half a surrogate": Fixture(spelled("latents/train/train_003", "latents/train/\\udcff_003"), "BAD_PATH", ENTRY),
    "longer than any path": Fixture(field(latent_path="x" * 5000 + ".npy"), "BAD_PATH", ENTRY),
    "a number": Fixture(field(latent_path=3), "BAD_ENTRY", ENTRY),
    "a list": Fixture(field(latent_path=["latents/train/train_003.npy"]), "BAD_ENTRY", ENTRY),
    "null": Fixture(field(latent_path=None), "BAD_ENTRY", ENTRY),
    "left out": Fixture(field(latent_path=...), "BAD_ENTRY", ENTRY),
    "another sample's": Fixture(field(id="x", latent_path="latents/train/train_002.npy"), "DUPLICATE_STEM", ENTRY),
}

TEXTS: dict[str, Fixture] = {
    "empty": Fixture(field(text=""), "EMPTY_TEXT"),
    "spaces": Fixture(field(text=" \t\r\n"), "EMPTY_TEXT"),
    "spaces of other scripts": Fixture(field(text="\u2003\u3000\u00a0"), "EMPTY_TEXT"),
    "a zero character": Fixture(field(text="a\0b"), "BAD_TEXT"),
    "a high half": Fixture(text_of_3('"a \\ud800 b"'), "BAD_TEXT"),
    "a low half": Fixture(text_of_3('"\\udfff"'), "BAD_TEXT"),
    "halves the wrong way round": Fixture(text_of_3('"\\ude00\\ud83d"'), "BAD_TEXT"),
    "10 MB in one line": Fixture(field(text="word " * 2_000_000), "TEXT_SIZE", heavy=True),
    "a number": Fixture(field(text=7), "BAD_ENTRY"),
    "a list": Fixture(field(text=["a"]), "BAD_ENTRY"),
    "null": Fixture(field(text=None), "BAD_ENTRY"),
    "left out": Fixture(field(text=...), "BAD_ENTRY"),
    "Latin-1": Fixture(in_text(b"\xe9"), "BAD_UTF8", "0xe9"),
    "a stray continuation": Fixture(in_text(b"\x80"), "BAD_UTF8", "0x80"),
    "an overlong slash": Fixture(in_text(b"\xc0\xaf"), "BAD_UTF8", "0xc0"),
    "a surrogate in three bytes": Fixture(in_text(b"\xed\xa0\x80"), "BAD_UTF8", "0xed"),
    "beyond Unicode": Fixture(in_text(b"\xf5\x80\x80\x80"), "BAD_UTF8", "0xf5"),
    "a character cut at the end": Fixture(coded(lambda data: data + b"\xe2\x82"), "BAD_UTF8", "0xe2"),
    "UTF-16": Fixture(coded(lambda data: data.decode().encode("utf-16")), "BAD_UTF8", LIST),
    "several at once": Fixture(lambda w: [w.edit(i, text="") for i in (3, 4, 5)], "EMPTY_TEXT"),
}

IDS: dict[str, Fixture] = {
    "twice": Fixture(field(id="train_002"), "DUPLICATE_ID", ENTRY),
    "a number and its digits": Fixture(lambda w: [w.edit(2, id=7), w.edit(3, id="7")], "DUPLICATE_ID", ENTRY),
    "twice in validation": Fixture(lambda w: w.edit(1, "validation", id="validation_000"), "DUPLICATE_ID", "validation_data.json#1"),
    "empty": Fixture(field(id=""), "BAD_ENTRY"),
    "true": Fixture(field(id=True), "BAD_ENTRY"),
    "a fraction": Fixture(field(id=1.5), "BAD_ENTRY"),
    "a list": Fixture(field(id=["a"]), "BAD_ENTRY"),
    "with a zero character": Fixture(field(id="a\0b"), "BAD_TEXT", ENTRY),
    "half a surrogate": Fixture(lambda w: (w.edit(id="MARK"), spelled("MARK", "a\\ud800")(w)), "BAD_TEXT", ENTRY),
}

LISTS: dict[str, Fixture] = {
    "cut in the middle": Fixture(coded(lambda data: data[: len(data) // 2]), "BAD_JSON", LIST),
    "cut by one character": Fixture(coded(lambda data: data[:-1]), "BAD_JSON", LIST),
    "cut to one character": Fixture(coded(lambda data: data[:1]), "BAD_JSON", LIST),
    "nothing": Fixture(coded(lambda data: b""), "BAD_JSON", LIST),
    "spaces": Fixture(coded(lambda data: b"  \n "), "BAD_JSON", LIST),
    "no sample": Fixture(coded(lambda data: b"[]"), "EMPTY_CORPUS", LIST),
    "an object": Fixture(coded(lambda data: b'{"samples": ' + data + b"}"), "BAD_JSON", LIST),
    "a string": Fixture(coded(lambda data: b'"[]"'), "BAD_JSON", LIST),
    "a line each": Fixture(coded(lambda data: data[1:-1].replace(b"}, {", b"}\n{")), "BAD_JSON", LIST),
    "two lists": Fixture(coded(lambda data: data + data), "BAD_JSON", LIST),
    "a comma at the end": Fixture(coded(lambda data: data[:-1] + b",]"), "BAD_JSON", LIST),
    "a comment": Fixture(coded(lambda data: b"// samples\n" + data), "BAD_JSON", f"{LIST}:1"),
    "single quotes": Fixture(coded(lambda data: data.replace(b'"', b"'")), "BAD_JSON", LIST),
    "a line feed in a string": Fixture(text_of_3('"a\nb"'), "BAD_JSON", LIST),
    "an unknown escape": Fixture(text_of_3('"a\\xb"'), "BAD_JSON", LIST),
    "an entry that is a list": Fixture(spelled("[{", "[[], {"), "BAD_JSON", f"{LIST}#0"),
    "an entry that is null": Fixture(spelled("[{", "[null, {"), "BAD_JSON", f"{LIST}#0"),
    "an entry that is a string": Fixture(spelled("[{", '["train_000", {'), "BAD_JSON", f"{LIST}#0"),
    "NaN": Fixture(text_of_3('"a", "score": NaN'), "BAD_JSON", ENTRY),
    "infinity": Fixture(text_of_3('"a", "score": [1, -Infinity]'), "BAD_JSON", ENTRY),
    "a key twice": Fixture(text_of_3('"a", "text": "b"'), "BAD_JSON", ENTRY),
    "a path twice": Fixture(text_of_3('"a", "latent_path": "latents/train/train_003.npy"'), "BAD_JSON", ENTRY),
    "a key twice inside": Fixture(text_of_3('"a", "meta": {"x": 1, "x": 2}'), "BAD_JSON", ENTRY),
    "lists in lists": Fixture(text_of_3('"a", "deep": ' + "[" * 100_000 + "]" * 100_000), "BAD_JSON", LIST, heavy=True),
    "objects in objects": Fixture(text_of_3('"a", "deep": ' + '{"a":' * 50_000 + "1" + "}" * 50_000), "BAD_JSON", LIST, heavy=True),
    "lists to begin with": Fixture(coded(lambda data: b"[" * 100_000), "BAD_JSON", LIST, heavy=True),
    "a number of 5,000 digits": Fixture(text_of_3('"a", "id": ' + "7" * 5000), "BAD_JSON", LIST),
    "not there": Fixture(lambda w: w.listing().unlink(), "MISSING_FILE", LIST),
    "not there for validation": Fixture(lambda w: w.listing("validation").unlink(), "MISSING_FILE", "validation_data.json"),
    "a FIFO": Fixture(instead(os.mkfifo), "NOT_A_FILE", LIST),
    "a folder": Fixture(instead(Path.mkdir), "NOT_A_FILE", LIST),
    "a device": Fixture(instead(lambda p: p.symlink_to("/dev/zero")), "OUTSIDE", LIST),
    "a link out of the folder": Fixture(lambda w: w.listing().symlink_to(w.listing().rename(w.folder / "outside.json")), "OUTSIDE", LIST),
    "lines and shards": Fixture(lambda w: w.listing().rename(w.listing().with_suffix(".jsonl")), "LAYOUT", "train_data.jsonl"),
    "no folder": Fixture(lambda w: w.latent_dir.rename(w.folder / "elsewhere"), "MISSING_FILE", "data.latent_dir"),
    "a file for a folder": Fixture(
        lambda w: w.latent_dir.rename(w.folder / "x") and w.latent_dir.write_text("x"), "MISSING_FILE", "data.latent_dir"
    ),
}
