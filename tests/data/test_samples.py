"""The per-sample layout: what is read, what is accepted though unusual, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from folders import opened, per_sample, read_list, stem, write_latent, write_tokens

from lgdlm.errors import InputError


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
    np.testing.assert_array_equal(data.last_tokens_of(np.arange(12)), [e["text"].encode()[-1] for e in entries])


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
    for name, text, latent in zip(stems, texts, shapes, strict=True):
        entries.append({"text": text, "latent_path": f"latents/train/{name}.npy", "id": len(entries), "extra": [1]})
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
