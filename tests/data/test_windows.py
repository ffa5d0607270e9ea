"""Long epochs: an order that is computed, windows that are planned one at a time, and the order that short epochs always had."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data.epoch import group_rows
from lgdlm.data.loader import Loader
from lgdlm.data.permutation import Permutation, block_rows, rows_at
from lgdlm.data.synthetic import tiny_dataset
from lgdlm.data.windows import InOrder, Shuffled, Windows
from lgdlm.rng import Rng

DATA = tiny_dataset(n=503, vocab=32, latent_dim=4, seed=3)


@given(count=st.integers(1, 3000), seed=st.integers(0, 9), epoch=st.integers(1, 9))
def test_a_computed_permutation_is_one(count: int, seed: int, epoch: int) -> None:
    everything = np.arange(count)
    assert sorted(Permutation(count, seed, epoch, "test")(everything)) == everything.tolist()
    assert sorted(rows_at(everything, count, seed, epoch, "test")) == everything.tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 4095, 4096, 4097, 9000])
def test_a_permutation_is_one_at_the_borders_of_its_halves(count: int) -> None:
    assert len(set(Permutation(count, 1, 1, "test")(np.arange(count)).tolist())) == count


def test_any_part_of_an_order_can_be_computed_alone() -> None:
    count = 10_000_003
    whole = np.arange(5_000_000, 5_000_400)
    rows = rows_at(whole, count, 1, 2, "test")
    np.testing.assert_array_equal(rows[100:], rows_at(whole[100:], count, 1, 2, "test"))
    np.testing.assert_array_equal(rows[:1], rows_at(whole[:1], count, 1, 2, "test"))
    assert ((rows >= 0) & (rows < count)).all()


def test_seeds_epochs_and_purposes_are_different_orders() -> None:
    everything = np.arange(1000)
    orders = [rows_at(everything, 1000, *key) for key in ((1, 1, "a"), (2, 1, "a"), (1, 2, "a"), (1, 1, "b"))]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 20  # one in a thousand meets by chance


def test_places_are_shuffled_evenly() -> None:
    """The cell of a row is independent of the cell of its place: chi-square of 20 x 20 cells, 361 degrees, sigma 27."""
    count = 40_000
    assert block_rows(count) > 1
    table = np.zeros((20, 20))
    for epoch in range(1, 11):
        rows = Permutation(count, 7, epoch, "test")(np.arange(count))
        np.add.at(table, (np.arange(count) * 20 // count, rows * 20 // count), 1)
    expected = 10 * count / 400
    assert abs(float((np.square(table - expected) / expected).sum()) - 361) < 5 * 27


def test_rows_of_a_block_stay_neighbours_and_blocks_do_not() -> None:
    count = 256 * 8192
    size = block_rows(count)
    assert size == 256
    rows = rows_at(np.arange(64 * size), count, 1, 1, "test")
    steps = np.diff(rows).reshape(-1)
    neighbours = steps == 1
    assert neighbours.mean() > 0.98
    assert 50 <= (~neighbours).sum() <= 64


@given(count=st.integers(8, 400), batch=st.integers(1, 8), window=st.integers(1, 500))
def test_windows_tile_an_epoch(count: int, batch: int, window: int) -> None:
    windows = Windows.of(count, batch, window)
    bounds = [windows.bounds(i) for i in range(windows.count)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count // batch * batch
    assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    assert all((last - first) % batch == 0 and 0 < last - first <= max(window, batch) for first, last in bounds)
    places = [windows.place(k) for k in range(1, 2 * windows.steps + 1)]
    assert len(set(places)) == len(places)
    assert {epoch for epoch, _, _ in places} == {1, 2}
    for _, window_, step in places:
        first, last = windows.bounds(window_)
        assert step < (last - first) // batch


def table_of_a_short_epoch(widths: np.ndarray, batch_size: int, rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch in one table as it is defined: two sorted permutations, groups of one width between them."""

    def permutation(count: int, purpose: str) -> np.ndarray:
        return torch.argsort(Rng(seed, epoch, torch.arange(count)).uniform(purpose), stable=True).numpy()

    order = permutation(len(widths), "epoch order")[: len(widths) // batch_size * batch_size].tolist()
    order.sort(key=lambda i: widths[i])
    whole, rest = [], []
    for width in sorted(set(widths.tolist())):
        same = [i for i in order if widths[i] == width]
        cut = len(same) // rows * rows
        whole, rest = whole + same[:cut], rest + same[cut:]
    groups = np.array(whole + rest).reshape(-1, rows)
    return groups[permutation(len(groups), "group order")].reshape(-1, batch_size)


def test_a_short_epoch_has_the_order_it_always_had() -> None:
    loader = Loader(DATA, batch_size=24, bucket_rows=8, seed=5)
    for epoch in (1, 3):
        table = table_of_a_short_epoch(DATA.lengths, 24, group_rows(24, 8), 5, epoch)
        for step, indices in enumerate(table, start=(epoch - 1) * loader.steps_per_epoch + 1):
            np.testing.assert_array_equal(loader.indices(step), indices)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("window_rows", [1, 24, 100, 240, 503, 10_000])
def test_every_document_is_used_at_most_once_an_epoch_whatever_the_window(window_rows: int, shuffle: bool) -> None:
    loader = Loader(DATA, batch_size=24, bucket_rows=8, seed=2, window_rows=window_rows, shuffle=shuffle)
    rested = []
    for epoch in (1, 2, 3):
        steps = range((epoch - 1) * loader.steps_per_epoch + 1, epoch * loader.steps_per_epoch + 1)
        used = [i for k in steps for i in loader.indices(k).tolist()]
        assert len(used) == len(set(used)) == 503 // 24 * 24
        rested.append(frozenset(range(503)) - set(used))
    assert len(set(rested)) == (3 if shuffle else 1)  # none is left out for good


def test_steps_of_windows_do_not_depend_on_what_was_asked_before() -> None:
    def loader(prefetch: int = 0) -> Loader:
        return Loader(DATA, batch_size=24, bucket_rows=8, seed=5, window_rows=60, prefetch=prefetch)

    walked, ahead = loader(), loader(prefetch=4)
    names = {k: walked.step(k).sample_ids for k in range(1, 50)}
    for k in (7, 49, 1, 8, 9, 10, 2, 21, 20):
        assert loader().step(k).sample_ids == ahead.step(k).sample_ids == names[k]
    ahead.close()


def test_length_buckets_hold_within_windows() -> None:
    data = tiny_dataset(n=2000, seed=1)
    loader = Loader(data, batch_size=40, bucket_rows=8, seed=1, window_rows=500)
    padded = widths = 0
    for k in range(1, loader.steps_per_epoch + 1):
        for batch in loader.step(k).batches:
            widths += batch.attention_mask.numel()
            padded += int((~batch.attention_mask).sum())
    assert padded / widths < 0.01  # texts of 5 to 12 tokens in random batches of 8 pad a fifth


def test_ranks_share_the_rows_of_a_window() -> None:
    whole = Loader(DATA, batch_size=24, bucket_rows=4, seed=1, window_rows=100)
    shares = [Loader(DATA, batch_size=24, bucket_rows=4, seed=1, window_rows=100, rank=rank, world_size=3) for rank in range(3)]
    for k in (1, 5, 30):
        rows = [name for share in shares for batch in share.step(k).batches for name in batch.sample_ids]
        assert tuple(rows) == whole.step(k).sample_ids


def test_a_window_of_a_long_epoch_takes_the_memory_of_a_window() -> None:
    windows = Windows.of(1_000_000_000, 1024, 1 << 16)
    order = Shuffled(1_000_000_000, windows, seed=1)
    assert windows.count > 10_000
    order.rows(1, 0)  # what torch sets up once
    tracemalloc.start()
    rows = order.rows(3, windows.count - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(rows.tolist())) == len(rows)
    assert peak < 40 * (1 << 16) * 8


def test_in_order_is_in_order() -> None:
    windows = Windows.of(100, 10, 30)
    assert np.concatenate([InOrder(windows).rows(2, i) for i in range(windows.count)]).tolist() == list(range(100))
