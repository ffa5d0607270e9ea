"""Several sources in given proportions: exact on average, each source read whole before it is read again, the same for every resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documents import write
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data.joined import JoinedSplit
from lgdlm.data.loader import Loader
from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.mixture import MixedOrder, Mixture, mixed_statistics
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.sources import open_sources
from lgdlm.data.windows import Windows
from lgdlm.data.writing import Row
from lgdlm.errors import InputError

SIZES = {"a": 90, "b": 30, "c": 7}


def documents(name: str, count: int, scale: float = 1.0) -> list[Row]:
    rng = np.random.default_rng(sum(name.encode()))
    latents = (scale * rng.standard_normal((count, 3)) + scale).astype(np.float32)
    return [Row(f"{name}-{i}", f"text {name} {i}", rng.integers(1, 50, rng.integers(1, 9)), latents[i]) for i in range(count)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three packed folders of 90, 30 and 7 texts and as many latents, each of its own mean and spread."""
    for i, (name, count) in enumerate(SIZES.items()):
        write(tmp_path / name, {"train": documents(name, count, i + 1.0), "validation": documents(f"{name}v", 10)})
    return {name: tmp_path / name for name in SIZES}


def weighted(folders: dict[str, Path], *weights: float) -> dict[str, float]:
    return {str(folder): weight for folder, weight in zip(folders.values(), weights, strict=True)}


def order_of(mixture: Mixture, batch: int = 12, window_rows: int = 48, seed: int = 1) -> MixedOrder:
    return MixedOrder(mixture, Windows.of(sum(mixture.counts), batch, window_rows), seed)


def source_of(mixture: Mixture, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(mixture.starts, rows, side="right") - 1


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    counts=st.lists(st.integers(5, 60), min_size=5, max_size=5),
    window=st.integers(1, 80),
    seed=st.integers(0, 5),
)
def test_every_window_has_its_shares_to_less_than_a_row(weights: list[float], counts: list[int], window: int, seed: int) -> None:
    mixture = Mixture(tuple(counts[: len(weights)]), tuple(weights))
    order = order_of(mixture, batch=4, window_rows=window, seed=seed)
    for epoch in (1, 2):
        for number in range(order.windows.count):
            rows = order.rows(epoch, number)
            first, last = order.windows.bounds(number)
            assert len(rows) == last - first
            held = np.bincount(source_of(mixture, rows), minlength=len(weights))
            assert (np.abs(held - len(rows) * mixture.shares) < 1 + 1e-9).all()


def test_shares_are_exact_in_expectation() -> None:
    """c - M w is at most 1 and has mean 0: over 600 windows its mean has a deviation of at most 0.5 / sqrt(600) = 0.02."""
    mixture = Mixture((400, 400, 400), (0.123, 0.777, 0.1))
    order = order_of(mixture, batch=8, window_rows=8)
    held = np.array(
        [np.bincount(source_of(mixture, order.rows(*place)), minlength=3) for place in ((e, w) for e in range(1, 5) for w in range(150))]
    )
    assert (np.abs(held.mean(axis=0) - 8 * mixture.shares) < 0.1).all()
    assert held.std(axis=0).min() > 0.1  # else the windows were all alike, and a share below one row was never read


def test_a_source_is_read_whole_before_it_is_read_again() -> None:
    mixture = Mixture((90, 30, 7), (1, 1, 1))
    order = order_of(mixture)
    drawn: list[list[int]] = [[], [], []]
    for epoch in range(1, 6):
        for window in range(order.windows.count):
            rows = order.rows(epoch, window)
            for source, start in enumerate(mixture.starts):
                drawn[source].append(sorted(rows[source_of(mixture, rows) == source] - start))
    for source, count in enumerate(mixture.counts):
        times = np.bincount([row for window in drawn[source] for row in window], minlength=count)
        assert times.max() - times.min() <= 1


def test_a_source_s_own_order_does_not_depend_on_the_others() -> None:
    def first(weights: tuple[float, ...], counts: tuple[int, ...]) -> set[int]:
        rows = order_of(Mixture(counts, weights), batch=10, window_rows=1000).rows(1, 0)
        return {int(row) for row in rows if row < 90}

    alone, mixed = first((1.0,), (90,)), first((1.0, 2.0), (90, 270))
    assert alone == mixed == set(range(90))


def test_windows_can_be_asked_for_in_any_order() -> None:
    mixture = Mixture((90, 30, 7), (5, 3, 2))
    order = order_of(mixture)
    walked = {(e, w): order.rows(e, w) for e in (1, 2, 3) for w in range(order.windows.count)}
    for place in ((3, 1), (1, 0), (2, 2), (1, 1)):
        np.testing.assert_array_equal(order_of(mixture).rows(*place), walked[place])
    assert not np.array_equal(walked[1, 0], order_of(mixture, seed=2).rows(1, 0))


def test_statistics_are_those_of_the_weighted_pool() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(loc, scale, (size, 4)) for loc, scale, size in ((0, 1, 50), (5, 2, 80))]
    pool = np.concatenate([np.repeat(parts[0], 3 * 80, axis=0), np.repeat(parts[1], 50, axis=0)])  # weights 3 : 1
    mean, std = mixed_statistics(np.array([0.75, 0.25]), [p.mean(0) for p in parts], [p.std(0) for p in parts])
    np.testing.assert_allclose(mean, pool.mean(0), rtol=1e-9)
    np.testing.assert_allclose(std, pool.std(0), rtol=1e-9)


def test_joined_rows_are_those_of_the_folders(folders: dict[str, Path]) -> None:
    joined = open_sources(weighted(folders, 1, 1, 1))
    parts = [open_dataset(folder) for folder in folders.values()]
    assert len(joined) == sum(SIZES.values())
    assert list(joined.ids) == [name for part in parts for name in part.ids]
    assert list(joined.texts) == [text for part in parts for text in part.texts]
    chosen = np.random.default_rng(0).permutation(len(joined))
    everything = [part.gather(np.arange(len(part))) for part in parts]
    rows = [row for flat, lengths in everything for row in np.split(flat, np.cumsum(lengths)[:-1])]
    flat, lengths = joined.gather(chosen)
    np.testing.assert_array_equal(flat, np.concatenate([rows[i] for i in chosen]))
    np.testing.assert_array_equal(lengths, [len(rows[i]) for i in chosen])
    np.testing.assert_array_equal(joined.last_tokens_of(chosen), [rows[i][-1] for i in chosen])
    assert joined.ids_of(chosen) == [joined.ids[i] for i in chosen]
    latents = np.concatenate([part.latents(np.arange(len(part))) for part in parts])
    np.testing.assert_array_equal(joined.latents(chosen), latents[chosen])
    assert joined.manifest.counts == {
        "train": {"rows": 127, **{k: sum(p.manifest.counts["train"][k] for p in parts) for k in ("tokens", "bytes")}}
    }


def test_training_reads_the_mixture_and_goes_on_where_it_stopped(folders: dict[str, Path]) -> None:
    def loader(rank: int = 0, world: int = 1) -> Loader:
        return Loader(open_sources(weighted(folders, 5, 3, 2)), batch_size=12, bucket_rows=4, seed=9, rank=rank, world_size=world)

    walked = loader()
    names = {k: walked.step(k).sample_ids for k in range(1, 61)}
    for k in (37, 2, 60):
        assert loader().step(k).sample_ids == names[k]
        halves = [[name for batch in loader(rank, 2).step(k).batches for name in batch.sample_ids] for rank in (0, 1)]
        assert (*halves[0], *halves[1]) == names[k]
    read = [name.split("-")[0] for k in range(1, 61) for name in names[k]]
    shares = {name: read.count(name) / len(read) for name in SIZES}
    assert shares == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.01)


def test_validation_has_the_first_texts_of_each_in_the_same_shares(folders: dict[str, Path]) -> None:
    train = open_sources(weighted(folders, 5, 3, 2))
    held = open_sources(weighted(folders, 5, 3, 2), "validation", limit=10, train=train)
    assert list(held.ids) == ["av-0", "av-1", "av-2", "av-3", "av-4", "bv-0", "bv-1", "bv-2", "cv-0", "cv-1"]
    assert (held.manifest.latent_mean, held.manifest.latent_std) == (train.manifest.latent_mean, train.manifest.latent_std)
    assert held.mixture is None
    shuffled = Loader(held, batch_size=5, shuffle=False)
    assert sorted(name for k in (1, 2) for name in shuffled.step(k).sample_ids) == sorted(held.ids)


def test_a_limit_is_shared_and_leaves_no_source_out(folders: dict[str, Path]) -> None:
    limited = open_sources(weighted(folders, 90, 9, 0.1), limit=20)
    assert [name.split("-")[0] for name in limited.ids] == ["a"] * 18 + ["b"] * 2 + ["c"]
    assert limited.mixture.counts == (18, 2, 1)


def test_a_text_that_another_source_trains_on_is_not_held_out(tmp_path: Path) -> None:
    shared = documents("a", 40)
    write(tmp_path / "x", {"train": shared, "validation": documents("xv", 6)})
    write(tmp_path / "y", {"train": documents("y", 40), "validation": [*documents("yv", 4), *shared[:3]]})
    both = {str(tmp_path / "x"): 1.0, str(tmp_path / "y"): 1.0}
    held = open_sources(both, "validation", train=open_sources(both))
    assert not {*held.texts} & {row.text for row in shared}
    assert len(held) == 10
    assert held.manifest.dropped == {"in train of a source": 3}


def test_a_source_may_have_held_out_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    write(tmp_path / "d", {"train": documents("d", 20)})
    four = {**weighted(folders, 1, 1, 1), str(tmp_path / "d"): 3.0}
    train = open_sources(four)
    held = open_sources(four, "validation", train=train)
    assert len(held) == 30
    assert held.manifest.latent_mean == train.manifest.latent_mean
    with pytest.raises(InputError, match="validation"):
        open_sources({str(tmp_path / "d"): 1.0}, "validation", train=train)


def test_one_folder_as_a_source_has_its_own_statistics(folders: dict[str, Path]) -> None:
    alone = open_sources({str(folders["a"]): 2.5})
    np.testing.assert_allclose(alone.manifest.latent_mean, read_manifest(folders["a"]).latent_mean, rtol=1e-12)
    np.testing.assert_allclose(alone.manifest.latent_std, read_manifest(folders["a"]).latent_std, rtol=1e-12)


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("TOKENIZER", {"tokenizer": {"kind": "test", "vocab_size": 50, "sha256": "another"}}),
        ("VOCABULARY", {"vocab_size": 60}),
        ("PROJECTION", {"projection": {"kind": "pca", "sha256": "another"}}),
        ("ENCODER", {"encoder": {"name": "another"}}),
    ],
)
def test_folders_of_different_spaces_are_not_mixed(folders: dict[str, Path], code: str, changed: dict[str, object]) -> None:
    fields = read_manifest(folders["b"])
    Manifest(**{**fields.__dict__, **changed}).write(folders["b"])
    with pytest.raises(InputError, match="cannot be mixed") as refused:
        open_sources(weighted(folders, 1, 1, 1))
    assert (refused.value.code, refused.value.where) == (code, str(folders["b"]))
    assert len(refused.value.line().encode()) <= 300
    if code in ("PROJECTION", "ENCODER"):  # of latents that are not read
        assert len(open_sources(weighted(folders, 1, 1, 1), external_latents=False)) == 127


def test_an_encoder_that_lay_elsewhere_is_the_same(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        fields = read_manifest(folder)
        Manifest(**{**fields.__dict__, "encoder": {"name": "e", "sha256": "same", "path": f"/{name}", "truncated": len(name)}}).write(
            folder
        )
    assert len(open_sources(weighted(folders, 1, 1, 1))) == 127


def test_latents_of_another_width_are_refused(tmp_path: Path) -> None:
    for name, dim in (("x", 3), ("y", 4)):
        rows = [
            Row(row.id, row.text, row.tokens, np.resize(row.latent, dim) + np.arange(dim, dtype=np.float32)) for row in documents(name, 20)
        ]
        write(tmp_path / name, {"train": rows})
    with pytest.raises(InputError, match="latent_dim=3") as refused:
        open_sources({str(tmp_path / "x"): 1.0, str(tmp_path / "y"): 1.0})
    assert refused.value.code == "LATENT_DIM"


def test_joined_parts_of_chosen_rows(folders: dict[str, Path]) -> None:
    parts: list[PairedDataset] = [open_dataset(folder) for folder in folders.values()]
    chosen = [np.array([5, 2]), None, np.array([], np.int64)]
    joined = JoinedSplit([part.store for part in parts], chosen)
    assert list(joined.ids)[:3] == ["a-5", "a-2", "b-0"]
    assert len(joined) == 32
    assert joined.texts[1] == "text a 2"
