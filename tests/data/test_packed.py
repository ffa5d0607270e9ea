"""The packed layout: what is written is read, at random, and what was damaged is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import rows, write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from lgdlm.data import packed
from lgdlm.data.loader import Loader
from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.packed import PackedSplit, PackedWriter
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.shard import Shard
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.writing import Row
from lgdlm.errors import InputError, StorageError


def assert_holds(split: PackedSplit, expected: list[Row]) -> None:
    everything = np.arange(len(expected))
    assert list(split.ids) == [row.id for row in expected]
    assert list(split.texts) == [row.text for row in expected]
    np.testing.assert_array_equal(split.lengths, [len(row.tokens) for row in expected])
    np.testing.assert_array_equal(split.last_tokens_of(everything), [row.tokens[-1] for row in expected])
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


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_of_any_size_are_shared_by_ranks_as_one(sharded: PackedSplit, world: int, tmp_path: Path) -> None:
    """Forty shards, a few uneven ones and a single one give each rank the same rows, and all ranks together each row once."""
    writer = PackedWriter(tmp_path, "train", 50)
    for row in rows(40):
        writer.add(*row)
    shards = {"train": writer.close()}
    manifest = Manifest("packed", 50, {}, {"train": writer.counts}, 3, (0.0,) * 3, (1.0,) * 3, shards=shards)
    one = PairedDataset(PackedSplit(tmp_path, manifest, "train"), manifest, "train")
    many = PairedDataset(sharded, manifest, "train")
    for k in (1, 2, 5):
        taken = []
        for rank in range(world):
            steps = [Loader(data, batch_size=12, bucket_rows=3, seed=2, rank=rank, world_size=world).step(k) for data in (one, many)]
            batches = [step.batches for step in steps]
            assert steps[0].sample_ids == steps[1].sample_ids
            assert all(torch.equal(a.input_ids, b.input_ids) and torch.equal(a.latent, b.latent) for a, b in zip(*batches, strict=True))
            taken += [name for batch in batches[1] for name in batch.sample_ids]
        assert sorted(taken) == sorted(steps[1].sample_ids)
        assert len(set(taken)) == 12


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


def test_pages_are_given_back_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(60)
    split = PackedSplit(tmp_path, write(tmp_path, {"train": expected}), "train")
    released = []
    original = Shard.release
    monkeypatch.setattr(Shard, "release", lambda shard: (released.append(shard), original(shard)))
    monkeypatch.setattr(packed, "HELD_READS", 150)
    for _ in range(5):
        assert_holds(split, expected)
    assert 2 <= len(released) < 5 * 6  # now and then, not at every read
