"""Rows a step, held over a change of ranks; and the ranges that ranks cut out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_world import data_folder

from lgdlm.config import Training
from lgdlm.data.loader import Loader
from lgdlm.data.paired import open_dataset
from lgdlm.errors import InputError
from lgdlm.training.distributed import World
from lgdlm.training.global_batch import global_batch


def training(micro: int, accumulation: int) -> Training:
    return Training(train_batch_size=micro, gradient_accumulation_steps=accumulation)


@given(micro=st.integers(1, 12), accumulation=st.integers(1, 4), ranks=st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_rows_stay_however_often_the_ranks_change(micro: int, accumulation: int, ranks: list[int]) -> None:
    record, rows = None, micro * accumulation * ranks[0]
    for size in ranks:
        if rows % size:
            with pytest.raises(InputError, match="training.train_batch_size"):
                global_batch(training(micro, accumulation), World(0, size), record)
            return
        batch = global_batch(training(micro, accumulation), World(0, size), record)
        record = batch.record
        assert batch.rows == record["rows"] == rows
        assert rows % (size * batch.accumulation) == 0
        assert rows // (size * batch.accumulation) <= micro
        if size * micro * accumulation == rows:
            assert batch.accumulation == accumulation


def test_another_batch_is_taken_at_its_word() -> None:
    before = global_batch(training(8, 1), World(0, 2)).record
    assert global_batch(training(8, 2), World(0, 1), before).rows == 16
    assert global_batch(training(4, 1), World(0, 1), before).rows == 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("ranks", "accumulation", "rows", "bucket"), [(2, 1, 12, 3), (4, 1, 24, 8), (4, 1, 24, 6), (3, 2, 36, 4), (1, 1, 12, 4)]
)
def test_ranks_that_are_cut_alike_have_equally_many_batches(ranks: int, accumulation: int, rows: int, bucket: int, data: Path) -> None:
    """Sharded ranks run each other's collectives in every batch; without `alike` their numbers may differ."""
    steps = []
    for alike in (False, True):
        options = {"batch_size": rows, "bucket_rows": bucket, "world_size": ranks, "accumulation": accumulation, "alike": alike}
        steps.append([Loader(open_dataset(data, "train"), rank=rank, **options).step(2) for rank in range(ranks)])
    apart, alike = steps
    assert len({tuple(batch.size for batch in step.batches) for step in alike}) == 1
    for one, other in zip(apart, alike, strict=True):
        assert one.sample_ids == other.sample_ids
        assert [r for b in one.batches for r in b.rows.tolist()] == [r for b in other.batches for r in b.rows.tolist()]
        assert [i for b in one.batches for i in b.sample_ids] == [i for b in other.batches for i in b.sample_ids]
    if (ranks, bucket) == (4, 8):
        assert len({len(step.batches) for step in apart}) > 1, "the case that needs it"
