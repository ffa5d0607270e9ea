"""The per-sample layout: what is read, what is accepted though unusual, and what is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import VOCAB, per_sample, read_list, write_latent, write_list, write_tokens

from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.errors import InputError


def opened(folders: tuple[Path, Path], split: str = "train", **options: object) -> PairedDataset:
    options.setdefault("vocab_size", VOCAB)
    return open_dataset(folders[0], split, token_dir=folders[1], **options)  # type: ignore[arg-type]


def test_tokens_and_latents_pair_by_stem(tmp_path: Path) -> None:
    data = opened(folders := per_sample(tmp_path))
    entries = read_list(folders[0], "train")
    assert len(data) == len(entries) == 12
    for i, entry in enumerate(entries):
        assert data.text(i) == data.texts[i] == entry["text"]
        assert bytes(data.tokens(i).tolist()).decode() == entry["text"]
        assert data.ids[i] == Path(entry["latent_path"]).stem
        np.testing.assert_array_equal(data.latents([i])[0, 0], np.load(folders[0] / entry["latent_path"]))
    np.testing.assert_array_equal(data.lengths, [len(e["text"].encode()) for e in entries])
    np.testing.assert_array_equal(data.last_tokens, [e["text"].encode()[-1] for e in entries])


def test_statistics_are_those_of_train_for_both_splits(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    train = opened(folders)
    latents = train.latents(np.arange(len(train)))[:, 0].astype(np.float64)
    for data in (train, opened(folders, "validation"), opened(folders, "validation", train=train)):
        np.testing.assert_allclose(data.manifest.latent_mean, latents.mean(0), rtol=1e-12)
        np.testing.assert_allclose(data.manifest.latent_std, latents.std(0), rtol=1e-12)


def test_unusual_but_valid_files_are_read(tmp_path: Path) -> None:
    latent_dir, token_dir = tmp_path / "with space \u00e9", tmp_path / "tok"
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((8, 3)).astype(np.float16)
    shapes: list[np.ndarray] = [
        latents[0],  # float16
        latents[1][None],  # [1, D]
        latents[2].astype(np.float64),
        latents[3].astype(">f4"),  # another byte order
        np.asfortranarray(latents[4][None].astype(np.float32)),
    ]
    stems = ["a b", "\u00e4\U0001f600", "deep/er/c", "t_tokens", "left"]
    texts = ["one", "CR\r\nLF", "e\u0301 decomposed", "x", "\u65e5\u672c"]
    entries = []
    for stem, text, latent in zip(stems, texts, shapes, strict=True):
        entries.append({"text": text, "latent_path": f"latents/train/{stem}.npy", "id": len(entries), "extra": [1]})
        write_latent(latent_dir / entries[-1]["latent_path"], latent)
    write_tokens(token_dir / "train/a b_tokens.npz", [5], padding=7)  # the other ending, one token, padded
    write_tokens(token_dir / "train/\u00e4\U0001f600.npz", [1, 2])
    write_tokens(token_dir / "train/c.npz", [3, 4])  # flat, though the latent lies deeper
    np.savez_compressed(token_dir / "train/t_tokens.npz", input_ids=np.array([[6, 7]], np.uint16), attention_mask=np.array([[True, True]]))
    np.savez(token_dir / "train/left.npz", input_ids=np.array([0, 0, 9], np.int32), attention_mask=np.array([0.0, 0.0, 1.0]))
    (latent_dir / "train_data.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(entries).encode())  # with a byte order mark
    data = opened((latent_dir, token_dir))
    assert list(data.ids) == ["0", "1", "2", "3", "4"]
    assert list(data.texts) == texts
    assert [data.tokens(i).tolist() for i in range(5)] == [[5], [1, 2], [3, 4], [6, 7], [9]]
    np.testing.assert_array_equal(data.latents(np.arange(5))[:, 0], latents[:5].astype(np.float32))


def test_links_inside_the_folder_are_accepted(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path)
    a, b = (latent_dir / f"latents/train/train_00{i}.npy" for i in (0, 1))
    b.unlink()
    os.link(a, b)
    moved = latent_dir / "elsewhere.npy"
    third = latent_dir / "latents/train/train_002.npy"
    third.rename(moved)
    third.symlink_to(moved)
    (tmp_path / "door").symlink_to(latent_dir)  # the folder itself may be reached through a link
    data = opened((tmp_path / "door", token_dir))
    np.testing.assert_array_equal(data.latents([0]), data.latents([1]))


def stem(folders: tuple[Path, Path], i: int = 3) -> Path:
    return folders[0] / f"latents/train/train_{i:03d}.npy"


def tokens_of(folders: tuple[Path, Path], i: int = 3) -> Path:
    return folders[1] / f"train/train_{i:03d}.npz"


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
    "half a surrogate": (lambda f: surrogate(f), "BAD_UTF8"),
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


def test_latents_of_another_width_than_the_model_are_one_error_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lgdlm convert .* projection=pca latent_dim=2") as refused:
        opened(per_sample(tmp_path), latent_dim=2)
    assert refused.value.code == "LATENT_DIM"


def test_the_majority_decides_the_width_unless_the_caller_does(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    np.save(stem(folders, 0), np.ones(7, np.float32))
    with pytest.raises(InputError, match="expected a latent of 4 numbers, got 7") as refused:
        opened(folders)
    assert refused.value.field == "train_000"


def test_a_vocabulary_is_demanded(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        opened(per_sample(tmp_path), vocab_size=None)
    assert refused.value.code == "NO_VOCABULARY"


def test_without_external_latents_none_are_read(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    for path in folders[0].rglob("*.npy"):
        path.write_bytes(b"broken")
    data = opened(folders, external_latents=False)
    assert data.latents([0]) is None
    assert not data.has_latents


def test_a_constant_dimension_cannot_be_standardised(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    for path in (folders[0] / "latents/train").iterdir():
        values = np.load(path)
        values[2] = 0.5
        np.save(path, values)
    with pytest.raises(InputError, match="dimension 2") as refused:
        opened(folders)
    assert refused.value.code == "CONSTANT_LATENT"


def test_a_limit_reads_no_more_than_it_must(tmp_path: Path) -> None:
    folders = per_sample(tmp_path)
    stem(folders, 9).write_bytes(b"broken, and beyond the limit")
    assert list(opened(folders, limit=5).ids) == [f"train_{i:03d}" for i in range(5)]
