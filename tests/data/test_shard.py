"""A shard's header is checked against its bytes, and its rows one by one."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from documents import rows, write
from safetensors.numpy import load_file

from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.packed import PackedSplit, PackedWriter
from lgdlm.data.paired import open_dataset
from lgdlm.data.shard import map_columns
from lgdlm.data.storage import write_json
from lgdlm.data.writing import Row
from lgdlm.errors import InputError


def test_columns_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(9)})
    path = tmp_path / "train-00000.safetensors"
    ours, theirs = map_columns(path), load_file(path)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert not ours[name].flags.writeable


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
