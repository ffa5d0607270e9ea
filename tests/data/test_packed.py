"""The packed layout: what is written is read, at random, and what was damaged is refused."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.packed import PackedSplit, PackedWriter
from lgdlm.data.paired import open_dataset
from lgdlm.data.shard import map_columns
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import write_json
from lgdlm.data.writing import Row, manifest_of, write_splits
from lgdlm.errors import InputError, StorageError

TEXTS = ["one", "zwei \u00e4\u00f6", "\u4e09\u3064\u306e\u732b", "four\r\nlines", "\U0001f600 five"]


def rows(count: int, dim: int | None = 3, seed: int = 0, vocab: int = 50) -> list[Row]:
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((count, dim or 1)).astype(np.float32)
    return [
        Row(f"id \u00e9 {i}", f"{TEXTS[i % 5]} {seed} {i}", rng.integers(0, vocab, rng.integers(1, 9)), latents[i] if dim else None)
        for i in range(count)
    ]


def write(folder: Path, splits: dict[str, list[Row]], vocab: int = 50) -> Manifest:
    folder.mkdir(exist_ok=True)
    written = write_splits(folder, "packed", splits, vocab, "test")
    manifest = manifest_of(written, folder, "packed", vocab_size=vocab, tokenizer={"kind": "test", "vocab_size": vocab})
    manifest.write(folder)
    return manifest


def assert_holds(split: PackedSplit, expected: list[Row]) -> None:
    everything = np.arange(len(expected))
    assert list(split.ids) == [row.id for row in expected]
    assert list(split.texts) == [row.text for row in expected]
    np.testing.assert_array_equal(split.lengths, [len(row.tokens) for row in expected])
    np.testing.assert_array_equal(split.last_tokens, [row.tokens[-1] for row in expected])
    np.testing.assert_array_equal(split.gather(everything)[0], np.concatenate([row.tokens for row in expected]))
    if expected[0].latent is not None:
        np.testing.assert_array_equal(split.latents(everything), np.stack([row.latent for row in expected]))


@pytest.mark.parametrize(("dim", "vocab"), [(3, 50), (None, 50), (3, 65_536), (3, 100_000)])
def test_what_was_written_is_read(tmp_path: Path, dim: int | None, vocab: int) -> None:
    splits = {"train": rows(23, dim, vocab=vocab), "validation": rows(5, dim, seed=1, vocab=vocab)}
    manifest = write(tmp_path, splits, vocab)
    assert read_manifest(tmp_path) == manifest
    for name, expected in splits.items():
        assert_holds(PackedSplit(tmp_path, manifest, name), expected)
    dtype = load_file(tmp_path / "train-00000.safetensors")["tokens"].dtype
    assert dtype == (np.uint16 if vocab <= 65_536 else np.int32)


@pytest.fixture(scope="module", params=[1, 300, 10_000])
def sharded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    """`rows(40)` in shards of one row each, of a few rows, and in one shard."""
    folder = tmp_path_factory.mktemp("packed")
    writer = PackedWriter(folder, "train", 50, request.param)
    for row in rows(40):
        writer.add(*row)
    shards = {"train": writer.close()}
    assert {1: len(shards["train"]) == 40, 300: 2 < len(shards["train"]) < 40, 10_000: len(shards["train"]) == 1}[request.param]
    return PackedSplit(folder, Manifest("packed", 50, {}, {"train": writer.counts}, 3, (0.0,) * 3, (1.0,) * 3, shards=shards), "train")


@given(order=st.lists(st.integers(0, 39), max_size=60))
def test_random_access_over_any_shards_equals_the_rows(order: list[int], sharded: PackedSplit) -> None:
    split, expected = sharded, rows(40)
    indices = np.array(order, np.int64)
    flat, lengths = split.gather(indices)
    np.testing.assert_array_equal(flat, np.concatenate([np.empty(0, int), *(expected[i].tokens for i in order)]))
    np.testing.assert_array_equal(lengths, [len(expected[i].tokens) for i in order])
    np.testing.assert_array_equal(split.latents(indices), np.array([expected[i].latent for i in order]).reshape(-1, 3))
    assert [split.text(i) for i in order] == [expected[i].text for i in order]


def test_shards_are_one_sequence(sharded: PackedSplit) -> None:
    assert_holds(sharded, rows(40))
    assert sharded.ids[-1] == "id \u00e9 39"
    assert sharded.texts[38:] == [row.text for row in rows(40)[38:]]
    with pytest.raises(IndexError):
        sharded.text(40)


def test_columns_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(9)})
    path = tmp_path / "train-00000.safetensors"
    ours, theirs = map_columns(path), load_file(path)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert not ours[name].flags.writeable


def test_statistics_are_of_train_alone(tmp_path: Path) -> None:
    train = rows(5000, 4)
    manifest = write(tmp_path, {"train": train, "validation": rows(50, 4, seed=9)})
    latents = np.stack([row.latent for row in train]).astype(np.float64)
    np.testing.assert_allclose(manifest.latent_mean, latents.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(manifest.latent_std, latents.std(0), rtol=1e-12)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.floats(-1e4, 1e4))
def test_blocks_of_any_size_give_one_answer(sizes: list[int], offset: float) -> None:
    values = np.random.default_rng(0).standard_normal((sum(sizes), 2)) + offset
    statistics = LatentStatistics(2)
    for block in np.split(values, np.cumsum(sizes)[:-1]):
        statistics.add(block)
    np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.std, values.std(0), rtol=1e-9, atol=1e-9)


def test_a_constant_dimension_is_refused_when_written(tmp_path: Path) -> None:
    same = [replace_latent(row, 1, 0.25) for row in rows(9)]
    with pytest.raises(InputError, match="dimension 1 of 3") as refused:
        write(tmp_path, {"train": same})
    assert refused.value.code == "CONSTANT_LATENT"


def replace_latent(row: Row, at: int, value: float) -> Row:
    latent = row.latent.copy()
    latent[at] = value
    return row._replace(latent=latent)


@pytest.mark.parametrize("at", [0, 9, 60, 700, -1])
def test_a_flipped_bit_is_refused(tmp_path: Path, at: int) -> None:
    write(tmp_path, {"train": rows(30)})
    path = tmp_path / "train-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        open_dataset(tmp_path)
    assert "train-00000.safetensors" in refused.value.line()


def with_header(path: Path, change: object) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


HEADERS = {
    "shape beyond the data": lambda h: h["latents"].update(shape=[1 << 40, 3]),
    "negative shape": lambda h: h["latents"].update(shape=[-30, -3]),
    "offset beyond the file": lambda h: h["latents"].update(data_offsets=[0, 1 << 50]),
    "overlap": lambda h: h["tokens"].update(data_offsets=h["latents"]["data_offsets"]),
    "unknown dtype": lambda h: h["tokens"].update(dtype="F64"),
    "no dtype": lambda h: h["tokens"].pop("dtype"),
    "entry of another kind": lambda h: h.update(tokens=3),
    "a column less": lambda h: h.pop("tokens"),
    "boolean shape": lambda h: h["tokens"].update(shape=["x"]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_checked_against_the_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"train": rows(30)})
    with_header(tmp_path / "train-00000.safetensors", HEADERS[name])
    with pytest.raises(InputError) as refused:
        map_columns(tmp_path / "train-00000.safetensors")
    assert refused.value.code == "BAD_SHARD"


@pytest.mark.parametrize("data", [b"", b"\1", struct.pack("<Q", 1 << 62), struct.pack("<Q", 4) + b"nul", struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError) as refused:
        map_columns(tmp_path / "x")
    assert refused.value.code == "BAD_SHARD"


def test_offsets_must_rise(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    manifest = write(tmp_path, {"train": rows(30)})
    path = tmp_path / "train-00000.safetensors"
    columns = {name: column.copy() for name, column in load_file(path).items()}
    columns["token_offsets"][3] = 10**9
    save_file(columns, path)
    with pytest.raises(InputError, match="rising offsets"):
        PackedSplit(tmp_path, manifest, "train")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (Row("a", "x", np.array([50]), np.ones(3, np.float32)), "TOKEN_RANGE"),
        (Row("a", "x", np.array([1]), np.array([1, np.nan, 1], np.float32)), "NAN_LATENT"),
        (Row("a", "  ", np.array([1]), np.ones(3, np.float32)), "EMPTY_TEXT"),
        (Row("id \u00e9 3", "x", np.array([1]), np.ones(3, np.float32)), "DUPLICATE_ID"),
        (Row("a", "x", np.array([], int), np.ones(3, np.float32)), "NO_TOKENS"),
    ],
)
def test_bad_rows_are_refused_by_name(tmp_path: Path, row: Row, code: str) -> None:
    writer = PackedWriter(tmp_path, "train", 50)
    for good in [*rows(7), row]:
        writer.add(*good)
    Manifest("packed", 50, {}, {"train": writer.counts} | {}, 3, (0.0,) * 3, (1.0,) * 3, shards={"train": writer.close()}).write(tmp_path)
    with pytest.raises(InputError) as refused:
        open_dataset(tmp_path)
    assert refused.value.code == code
    assert refused.value.field == row.id
    assert refused.value.where.endswith("#7")


FIELDS = {
    "schema": 2,
    "layout": "loose",
    "vocab_size": -1,
    "latent_dim": True,
    "latent_mean": [0.0],
    "latent_std": [1.0, 0.0, 1.0],
    "counts": {"train": {"rows": -1}},
    "shards": {"train": [{"file": 3}]},
    "tokenizer": [],
    "colour": 1,
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_is_checked_field_by_field(tmp_path: Path, field: str) -> None:
    write(tmp_path, {"train": rows(9)})
    values = json.loads((tmp_path / "manifest.json").read_text())
    write_json(tmp_path / "manifest.json", {**values, field: FIELDS[field]})
    with pytest.raises(InputError) as refused:
        read_manifest(tmp_path)
    assert refused.value.field == field


def test_shards_stay_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    manifest = write(folder, {"train": rows(9)})
    entry = manifest.shards["train"][0]
    (folder / entry["file"]).rename(tmp_path / entry["file"])
    outside = replace(manifest, shards={"train": [{**entry, "file": f"../{entry['file']}"}]})
    with pytest.raises(InputError) as refused:
        PackedSplit(folder, outside, "train")
    assert refused.value.code == "OUTSIDE"


def test_an_unknown_split_lists_the_known(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(9)})
    with pytest.raises(InputError, match="train") as refused:
        open_dataset(tmp_path, "test")
    assert refused.value.code == "UNKNOWN_SPLIT"


def test_missing_latents_are_an_error_or_none_never_zeros(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(9, dim=None)})
    with pytest.raises(InputError) as refused:
        open_dataset(tmp_path)
    assert refused.value.code == "NO_LATENTS"
    assert open_dataset(tmp_path, external_latents=False).latents([0, 1]) is None


def test_latents_come_as_rows_of_one_vector(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(9)})
    latents = open_dataset(tmp_path).latents(np.array([4, 4, 0]))
    assert latents.shape == (3, 1, 3)
    assert latents.dtype == np.float32


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as refused:
        write(tmp_path, {"train": rows(9)})
    assert refused.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []
