"""The loader is a function of (seed, step): nothing else may change what a step reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.batch import Batch
from lgdlm.data.collate import Frame, collate
from lgdlm.data.epoch import group_rows, in_groups
from lgdlm.data.loader import Loader, StepData, in_order
from lgdlm.data.manifest import Manifest
from lgdlm.data.paired import PairedDataset
from lgdlm.data.synthetic import MemorySplit, tiny_dataset
from lgdlm.errors import InputError

DATA = tiny_dataset(n=203, vocab=32, latent_dim=4, seed=3)
EOS = 0


def of_tokens(*rows: list[int]) -> PairedDataset:
    """A dataset of exactly these token rows."""
    store = MemorySplit([f"s{i}" for i in range(len(rows))], ["t"] * len(rows), [np.array(row) for row in rows], None)
    return PairedDataset(store, Manifest("packed", 32, {}, {}), "train")


def assert_equal(a: StepData, b: StepData) -> None:
    assert (a.tokens, a.rows, a.sample_ids, a.epoch, len(a.batches)) == (b.tokens, b.rows, b.sample_ids, b.epoch, len(b.batches))
    for x, y in zip(a.batches, b.batches, strict=True):
        for name in ("input_ids", "attention_mask", "latent", "rows"):
            assert torch.equal(getattr(x, name), getattr(y, name))


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    steps = list(range(1, 30))
    walked = Loader(DATA, batch_size=24, bucket_rows=8, seed=5)
    forwards = {k: walked.step(k) for k in steps}
    ahead = Loader(DATA, batch_size=24, bucket_rows=8, seed=5, prefetch=3)
    for k in [7, 29, 1, 8, 9, 10, 2]:
        assert_equal(Loader(DATA, batch_size=24, bucket_rows=8, seed=5).step(k), forwards[k])
        assert_equal(ahead.step(k), forwards[k])
    ahead.close()


@given(
    world=st.sampled_from([1, 2, 3, 4]),
    accumulation=st.sampled_from([1, 2, 3]),
    bucket=st.sampled_from([1, 2, 5, 8, 100]),
    k=st.integers(1, 20),
)
def test_ranks_and_micro_batches_share_the_rows_of_one_global_batch(world: int, accumulation: int, bucket: int, k: int) -> None:
    whole = Loader(DATA, batch_size=72, bucket_rows=bucket, seed=1).step(k)
    shares = [
        Loader(DATA, batch_size=72, bucket_rows=bucket, seed=1, rank=r, world_size=world, accumulation=accumulation).step(k)
        for r in range(world)
    ]
    for share in shares:
        assert (share.sample_ids, share.tokens, share.rows, share.epoch) == (whole.sample_ids, whole.tokens, whole.rows, whole.epoch)
    batches = [batch for share in shares for batch in share.batches]
    assert torch.cat([batch.rows for batch in batches]).tolist() == list(range(72))
    assert [name for batch in batches for name in batch.sample_ids] == list(whole.sample_ids)
    assert sum(batch.tokens for batch in batches) == whole.tokens
    assert all(sum(batch.size for batch in share.batches) == 72 // world for share in shares)
    for share in shares:  # a micro-batch is a whole number of batches
        ends = np.cumsum([batch.size for batch in share.batches])
        assert set(np.arange(1, accumulation + 1) * 72 // (world * accumulation)) <= set(ends)


def test_an_epoch_uses_every_document_at_most_once_and_rests_few() -> None:
    loader = Loader(DATA, batch_size=24, bucket_rows=8, seed=2)
    assert loader.steps_per_epoch == 203 // 24
    rested = []
    for epoch in (1, 2, 3):
        steps = range((epoch - 1) * loader.steps_per_epoch + 1, epoch * loader.steps_per_epoch + 1)
        used = [i for k in steps for i in loader.indices(k)]
        assert len(used) == len(set(used)) == loader.steps_per_epoch * 24
        assert {loader.step(k).epoch for k in steps} == {epoch}
        rested.append(frozenset(range(203)) - set(used))
    assert len(set(rested)) == 3  # others each time: none is left out for good


def test_epochs_and_seeds_differ() -> None:
    a, b = (Loader(DATA, batch_size=24, seed=seed) for seed in (1, 2))
    assert a.step(1).sample_ids != a.step(1 + a.steps_per_epoch).sample_ids
    assert a.step(1).sample_ids != b.step(1).sample_ids


def test_without_shuffling_every_epoch_is_the_same() -> None:
    loader = Loader(DATA, batch_size=24, shuffle=False)
    assert loader.step(1).sample_ids == loader.step(1 + loader.steps_per_epoch).sample_ids


@given(st.lists(st.integers(1, 6), min_size=24, max_size=150), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 99))
def test_groups_have_one_length_and_leftovers_near_lengths(lengths: list[int], rows: int, seed: int) -> None:
    widths = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(widths))[: len(widths) // 12 * 12]
    table = in_groups(order, widths[order], rows)
    assert sorted(table.ravel()) == sorted(order)
    groups = widths[table]
    mixed = [group for group in groups if group.min() != group.max()]
    used = np.bincount(widths[order], minlength=7)
    assert len(mixed) <= -(-int((used % rows).sum()) // rows)  # only what whole groups left over
    spans = sorted((group.min(), group.max()) for group in mixed)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))  # neighbours in length


@pytest.mark.parametrize(("batch", "bucket", "rows"), [(128, 32, 32), (96, 64, 48), (7, 3, 1), (7, 7, 7), (12, 100, 12), (30, 8, 6)])
def test_bucket_rows_becomes_a_divisor(batch: int, bucket: int, rows: int) -> None:
    assert group_rows(batch, bucket) == rows


def test_batches_hold_the_documents_they_name() -> None:
    for batch in Loader(DATA, batch_size=40, bucket_rows=8, seed=0).step(2).batches:
        for r, name in enumerate(batch.sample_ids):
            i = int(name.removeprefix("train-"))
            n = int(DATA.lengths[i])
            assert batch.input_ids[r, :n].tolist() == DATA.tokens(i).tolist()
            assert batch.attention_mask[r].tolist() == [True] * n + [False] * (batch.input_ids.shape[1] - n)
            np.testing.assert_array_equal(batch.latent[r], DATA.latents([i])[0])
        assert batch.fill_mask is None
        assert int(batch.attention_mask.sum(1).max()) == batch.input_ids.shape[1]  # no wider than its longest


def test_without_latents_the_batch_has_none() -> None:
    data = tiny_dataset(n=16, latent_dim=None)
    assert all(batch.latent is None for batch in Loader(data, batch_size=8).step(1).batches)


def rows_of(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    return [(batch.input_ids[r].tolist(), batch.text_mask[r].int().tolist(), batch.fill_mask[r].int().tolist()) for r in range(batch.size)]


def test_eos_ends_a_text_once_and_fills_the_rest() -> None:
    data = of_tokens([5, 6], [7, EOS], [1, 2, 3, 4])
    batch = collate(data, np.arange(3), np.arange(3), Frame(eos_id=EOS, multiple=4))
    assert rows_of(batch) == [
        ([5, 6, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]),
        ([7, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]),
        ([1, 2, 3, 4, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]),
    ]
    assert batch.attention_mask.all()  # the network may not see where the filling starts
    assert batch.tokens == 3 + 2 + 5


def test_filling_never_exceeds_the_longest_text_allowed() -> None:
    step = Loader(of_tokens([5] * 17, [6] * 18), batch_size=2, length_mode="eos", eos_id=EOS, max_length=20, fill_multiple=16).step(1)
    assert [batch.input_ids.shape[1] for batch in step.batches] == [20]


def test_eos_rows_have_a_fixed_width_where_one_is_asked() -> None:
    data = of_tokens([5, 6], [7], [8, 9, 10])
    step = Loader(data, batch_size=3, length_mode="eos", eos_id=EOS, fill_width=6).step(1)
    assert [tuple(batch.input_ids.shape) for batch in step.batches] == [(3, 6)]
    assert step.tokens == 3 + 2 + 4


def test_a_text_that_ends_early_is_refused_in_eos_mode_only() -> None:
    data = of_tokens([5, EOS, 6], [7, 8, 9])
    with pytest.raises(InputError) as refused:
        Loader(data, batch_size=2, length_mode="eos", eos_id=EOS).step(1)
    assert (refused.value.code, refused.value.field) == ("EOS_INSIDE", "s0")
    assert Loader(data, batch_size=2).step(1).tokens == 6


def test_eos_needs_an_id() -> None:
    with pytest.raises(InputError, match="predicted"):
        Loader(DATA, batch_size=8, length_mode="eos")


LONG = of_tokens([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1], [2], [1, 2, 3, EOS])


def test_long_texts_are_refused_by_name_unless_told_otherwise() -> None:
    with pytest.raises(InputError, match="needs 5 tokens, the model takes 4") as refused:
        Loader(LONG, batch_size=2, max_length=4)
    assert (refused.value.code, refused.value.field) == ("TEXT_TOO_LONG", "s2")


def test_dropped_and_truncated_texts_are_counted() -> None:
    dropping = Loader(LONG, batch_size=5, max_length=4, too_long="drop")
    assert (dropping.dropped, dropping.truncated) == (1, 0)
    assert "s2" not in dropping.step(1).sample_ids
    cutting = Loader(LONG, batch_size=6, bucket_rows=6, max_length=4, too_long="truncate", shuffle=False)
    assert (cutting.dropped, cutting.truncated) == (0, 1)
    step = cutting.step(1)
    row = step.sample_ids.index("s2")
    assert step.batches[0].input_ids[row].tolist() == [1, 2, 3, 4]
    assert step.tokens == sum(batch.tokens for batch in step.batches) == 3 + 4 + 4 + 1 + 1 + 4


def test_a_truncated_text_has_no_eos() -> None:
    # with its EOS a text of four needs five; one that brings its EOS needs no more
    cutting = Loader(LONG, batch_size=6, bucket_rows=6, length_mode="eos", eos_id=EOS, fill_width=4, too_long="truncate", shuffle=False)
    assert cutting.truncated == 2
    (batch,) = cutting.step(1).batches
    by_id = dict(zip(batch.sample_ids, rows_of(batch), strict=True))
    assert by_id["s1"] == ([1, 2, 3, 4], [1, 1, 1, 1], [0, 0, 0, 0])
    assert by_id["s5"] == ([1, 2, 3, 0], [1, 1, 1, 1], [0, 0, 0, 0])
    assert by_id["s3"] == ([1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1])


def test_too_few_samples_and_uneven_shares_are_refused() -> None:
    with pytest.raises(InputError, match="203") as refused:
        Loader(DATA, batch_size=204)
    assert refused.value.code == "FEW_SAMPLES"
    with pytest.raises(InputError) as refused:
        Loader(DATA, batch_size=10, world_size=2, accumulation=3)
    assert refused.value.code == "BATCH_SIZE"


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_in_order_visits_everything_once_without_padding(batch_size: int) -> None:
    batches = list(in_order(DATA, batch_size))
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(len(DATA)))
    assert all(batch.attention_mask.all() and batch.size <= batch_size for batch in batches)
    assert [DATA.ids[i] for i in batches[0].rows] == list(batches[0].sample_ids)
    chosen = np.array([5, 2, 9])
    assert sorted(i for batch in in_order(DATA, 2, indices=chosen) for i in batch.rows.tolist()) == [2, 5, 9]


def test_the_tiny_data_keep_their_promise() -> None:
    train, held = tiny_dataset(n=300, seed=1), tiny_dataset(n=300, seed=1, split="validation")
    assert train.manifest.latent_mean == held.manifest.latent_mean
    assert not set(train.texts) & set(held.texts)
    again = tiny_dataset(n=300, seed=1)
    assert list(again.texts) == list(train.texts)

    def bags(data: PairedDataset) -> np.ndarray:
        return np.stack([np.bincount(data.tokens(i), minlength=32) / np.sqrt(data.lengths[i]) for i in range(len(data))])

    weights, *_ = np.linalg.lstsq(bags(train), train.latents(np.arange(300))[:, 0], rcond=None)
    truth = held.latents(np.arange(300))[:, 0]
    residual = np.square(bags(held) @ weights - truth).mean() / truth.var()
    assert residual < 0.02  # the latent is linear in the bag of tokens
