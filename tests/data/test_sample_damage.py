"""Damaged and hostile per-sample files are refused, and the sample is named."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import VOCAB, opened, per_sample, read_list, stem, tokens_of, write_latent, write_list, write_tokens

from lgdlm.errors import InputError


def edit(folders: tuple[Path, Path], i: int, **values: object) -> None:
    entries = read_list(folders[0], "train")
    entries[i] = {key: value for key, value in {**entries[i], **values}.items() if value is not ...}
    write_list(folders[0], "train", entries)


def latent(values: np.ndarray) -> Callable[[tuple[Path, Path]], None]:
    return lambda folders: np.save(stem(folders), values)


def arrays(**values: object) -> Callable[[tuple[Path, Path]], None]:
    return lambda folders: np.savez(tokens_of(folders), **{name: np.array(value) for name, value in values.items()})


def truncated(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def claims_much(folders: tuple[Path, Path]) -> None:
    with stem(folders).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)})
        file.write(bytes(16))


def garbled(folders: tuple[Path, Path]) -> None:
    data = stem(folders).read_bytes()
    at = data.index(b"(4,)")
    stem(folders).write_bytes(data[:at] + b"(9000000000000,)" + data[at + 16 :])


def bomb(folders: tuple[Path, Path]) -> None:
    tokens_of(folders).unlink()
    with zipfile.ZipFile(tokens_of(folders), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input_ids.npy", b"\0" * (300 << 20))


def pickled(folders: tuple[Path, Path]) -> None:
    stem(folders).write_bytes(pickle.dumps([1.0]))


def objects(folders: tuple[Path, Path]) -> None:
    np.save(stem(folders), np.array([print], dtype=object), allow_pickle=True)


def fifo(folders: tuple[Path, Path]) -> None:
    stem(folders).unlink()
    os.mkfifo(stem(folders))


def link_out(folders: tuple[Path, Path]) -> None:
    outside = folders[0].parent / "outside.npy"
    stem(folders).rename(outside)
    stem(folders).symlink_to(outside)


def hard_link_out(folders: tuple[Path, Path]) -> None:
    os.link(stem(folders), folders[0].parent / "outside.npy")


CASES: dict[str, tuple[Callable[[tuple[Path, Path]], object], str]] = {
    "nan": (latent(np.array([1, np.nan, 1, 1], np.float32)), "NAN_LATENT"),
    "infinite": (latent(np.array([1, np.inf, 1, 1], np.float32)), "NAN_LATENT"),
    "beyond float32": (latent(np.array([1, 1e300, 1, 1])), "NAN_LATENT"),
    "another width": (latent(np.ones(5, np.float32)), "LATENT_DIM"),
    "integers": (latent(np.ones(4, np.int64)), "BAD_DTYPE"),
    "complex": (latent(np.ones(4, np.complex64)), "BAD_DTYPE"),
    "a matrix": (latent(np.ones((2, 4), np.float32)), "BAD_SHAPE"),
    "empty": (latent(np.ones(0, np.float32)), "BAD_SHAPE"),
    "objects": (objects, "BAD_DTYPE"),
    "a pickle": (pickled, "BAD_NPY"),
    "cut latent": (lambda f: truncated(stem(f), 130), "BAD_NPY"),
    "cut header": (lambda f: truncated(stem(f), 20), "BAD_NPY"),
    "nothing": (lambda f: truncated(stem(f), 0), "BAD_NPY"),
    "a header that claims terabytes": (claims_much, "BAD_NPY"),
    "a garbled header": (garbled, "BAD_NPY"),
    "missing latent": (lambda f: stem(f).unlink(), "MISSING_FILE"),
    "missing tokens": (lambda f: tokens_of(f).unlink(), "MISSING_TOKENS"),
    "surplus tokens": (lambda f: write_tokens(f[1] / "train/stranger.npz", [1]), "UNPAIRED"),
    "surplus latent": (lambda f: write_latent(f[0] / "latents/train/stranger.npy", np.ones(4, np.float32)), "UNPAIRED"),
    "cut tokens": (lambda f: truncated(tokens_of(f), 60), "BAD_NPZ"),
    "a zip bomb": (bomb, "BAD_NPZ"),
    "token beyond the vocabulary": (arrays(input_ids=[1, VOCAB], attention_mask=[1, 1]), "TOKEN_RANGE"),
    "negative token": (arrays(input_ids=[1, -1], attention_mask=[1, 1]), "TOKEN_RANGE"),
    "unequal lengths": (arrays(input_ids=[1, 2, 3], attention_mask=[1, 1]), "BAD_SHAPE"),
    "no mask": (arrays(input_ids=[1, 2, 3]), "MISSING_KEY"),
    "mask with a hole": (arrays(input_ids=[1, 2, 3], attention_mask=[1, 0, 1]), "BAD_MASK"),
    "mask of twos": (arrays(input_ids=[1, 2], attention_mask=[1, 2]), "BAD_MASK"),
    "mask of nan": (arrays(input_ids=[1, 2], attention_mask=[1, np.nan]), "BAD_MASK"),
    "nothing masked in": (arrays(input_ids=[1, 2], attention_mask=[0, 0]), "NO_TOKENS"),
    "float tokens": (arrays(input_ids=[1.0, 2.0], attention_mask=[1, 1]), "BAD_DTYPE"),
    "empty text": (lambda f: edit(f, 3, text=" \n"), "EMPTY_TEXT"),
    "no text": (lambda f: edit(f, 3, text=...), "BAD_ENTRY"),
    "no latent_path": (lambda f: edit(f, 3, latent_path=...), "BAD_ENTRY"),
    "half a surrogate": (lambda f: surrogate(f), "BAD_TEXT"),
    "duplicate id": (lambda f: edit(f, 3, id="train_002"), "DUPLICATE_ID"),
    "the same files twice": (lambda f: edit(f, 3, id="other", latent_path="latents/train/train_002.npy"), "DUPLICATE_STEM"),
    "path upwards": (lambda f: edit(f, 3, latent_path="latents/../../train_003.npy"), "OUTSIDE"),
    "absolute path": (lambda f: edit(f, 3, latent_path=str(stem(f).resolve())), "OUTSIDE"),
    "symbolic link out": (link_out, "OUTSIDE"),
    "hard link out": (hard_link_out, "OUTSIDE"),
    "zero byte in a path": (lambda f: edit(f, 3, latent_path="latents/train/train_003\0.npy"), "BAD_PATH"),
    "a pipe": (fifo, "NOT_A_FILE"),
    "a folder": (lambda f: (stem(f).unlink(), stem(f).mkdir()), "NOT_A_FILE"),
}


def surrogate(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "train_data.json"
    entries = read_list(folders[0], "train")
    entries[3]["text"] = "MARK"
    path.write_text(json.dumps(entries).replace("MARK", "\\ud800 x"))


@pytest.mark.parametrize("name", CASES)
def test_damage_is_refused_and_the_sample_named(name: str, tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    damage, code = CASES[name]
    damage(folders)
    with pytest.raises(InputError) as refused:
        opened(folders, latent_dim=4)
    line = refused.value.line()
    listed = Path(line.split("listed in ")[1].split(" ")[0]).read_text() if "listed in " in line else line
    guilty = [row for row in listed.splitlines() if f"E_{code} " in row]
    assert guilty, listed
    assert any("train_003" in row or "train_data.json#3" in row or "stranger" in row for row in guilty), listed


def test_cut_json_names_its_line_and_bad_utf8_its_byte(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    path = folders[0] / "train_data.json"
    entries = read_list(folders[0], "train")
    whole = json.dumps(entries, indent=0)
    path.write_text(whole[: whole.index("train_005")])
    with pytest.raises(InputError) as refused:
        opened(folders)
    assert refused.value.code == "BAD_JSON"
    assert refused.value.where.endswith(f"train_data.json:{whole[: whole.index('train_005')].count(chr(10)) + 1}")
    data = whole.encode()
    at = data.index(b"train_005")
    path.write_bytes(data[:at] + b"\xff" + data[at:])
    with pytest.raises(InputError, match=str(at)) as refused:
        opened(folders)
    assert refused.value.code == "BAD_UTF8"


def test_all_problems_are_counted_and_listed(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    for i in (1, 4, 7):
        stem(folders, i).unlink()
    tokens_of(folders, 9).unlink()
    with pytest.raises(InputError, match="problem 1 of 4") as refused:
        opened(folders)
    listed = Path(str(refused.value).split("listed in ")[1].split(" ")[0]).read_text()
    assert len(listed.splitlines()) == 4
    assert all(f"train_{i:03d}" in listed for i in (1, 4, 7, 9))
