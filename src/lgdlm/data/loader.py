"""The data of step k, as a function of k.

    step(k) = collate(table(epoch, window)[step of the window]),   epoch, window and step from k alone

Nothing is remembered between steps: resuming at k is asking for k. The sample ids of step k do not depend on the number of
ranks or micro-batches; each takes a contiguous run of the global batch's rows. A step is made whole by one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from lgdlm.batch import Batch
from lgdlm.data.collate import collate
from lgdlm.data.epoch import group_rows, in_groups, shuffled_groups
from lgdlm.data.frame import Frame, frame_of, unfit
from lgdlm.data.mixture import MixedOrder
from lgdlm.data.paired import PairedDataset
from lgdlm.data.problems import refuse
from lgdlm.data.rows import blocks_of
from lgdlm.data.windows import WINDOW_ROWS, InOrder, Order, Shuffled, Windows
from lgdlm.errors import InputError


@dataclass(frozen=True)
class StepData:
    """What one optimizer step reads.

    batches      this rank's rows in order, each batch of one width (padded only where a group mixes lengths)
    tokens       counted tokens of the whole global batch, all ranks: the denominator of token means
    rows         rows of the whole global batch
    sample_ids   of the whole global batch, by row
    epoch        from 1
    """

    batches: list[Batch]
    tokens: int
    rows: int
    sample_ids: tuple[str, ...]
    epoch: int


class Loader:
    """Step k of training over a `PairedDataset`, k from 1.

    batch_size     rows of the global batch: all ranks and micro-batches together
    bucket_rows    rows of one length that stay together (lowered to a divisor of batch_size)
    accumulation   micro-batches of a rank
    length_mode    "predicted": rows are texts; "eos": rows end with `eos_id` and are filled with it to a multiple of
                   `fill_multiple`, or to `fill_width`
    max_length     longest text in counted tokens
    too_long       "error" (default), "drop" or "truncate" for texts beyond it; counted in `dropped` and `truncated`
    prefetch       steps made ready in a thread while the current one is used; 0: none
    alike          every rank's rows are cut at the same places, so that all have the same number of batches
    window_rows    documents planned at once: an epoch of no more is one table, a longer one several (see `windows`)

    An epoch has n // batch_size steps; the n % batch_size documents left over differ from epoch to epoch. Where the dataset is a
    mixture, a shuffled epoch has as many rows, drawn by the mixture's weights.
    Raises InputError: TEXT_TOO_LONG, FEW_SAMPLES (fewer than one batch), BATCH_SIZE (not divisible among ranks and micro-batches).
    """

    def __init__(
        self,
        dataset: PairedDataset,
        *,
        batch_size: int,
        bucket_rows: int = 32,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        length_mode: str = "predicted",
        eos_id: int | None = None,
        max_length: int | None = None,
        too_long: str = "error",
        fill_multiple: int = 16,
        fill_width: int | None = None,
        shuffle: bool = True,
        prefetch: int = 0,
        window_rows: int = WINDOW_ROWS,
        alike: bool = False,
    ):
        assert 0 <= rank < world_size, "a rank is below the world size"
        assert accumulation > 0 <= prefetch, "micro-batches from 1, prefetched steps from 0"
        if batch_size % (world_size * accumulation):
            message = f"{batch_size} rows cannot be shared evenly by {world_size} processes x {accumulation} micro-batches"
            raise InputError("BATCH_SIZE", "configuration", "training.train_batch_size", message)
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.group = group_rows(batch_size, bucket_rows)
        self.frame = frame_of(length_mode, eos_id=eos_id, max_length=max_length, fill_multiple=fill_multiple, fill_width=fill_width)
        self._kept, self.dropped, self.truncated = _fitting(dataset, self.frame, too_long)
        count = len(dataset) if self._kept is None else len(self._kept)
        if count < batch_size:
            message = f"expected at least one batch of {batch_size} rows, got {count} samples; lower training.train_batch_size"
            raise InputError("FEW_SAMPLES", dataset.folder or "data", "training.train_batch_size", message)
        self._windows = Windows.of(count, batch_size, window_rows)
        self._order = self._order_of(count)
        self.steps_per_epoch = self._windows.steps
        share = batch_size // (world_size * accumulation)
        first = rank * accumulation * share
        self._cuts = _cuts(first, first + accumulation * share, share, self.group)
        if alike:
            self._cuts = _alike(first, batch_size // world_size, batch_size, share, self.group)
        self._table = lru_cache(maxsize=2)(self._plan)  # the window in use, and the one that prefetching has reached
        self._ahead: dict[int, Future[StepData]] = {}
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(1, "prefetch") if prefetch else None

    def step(self, k: int) -> StepData:
        """The data of step k (from 1): the same on every call, whatever was asked before."""
        if self._pool is None:
            return self._make(k)
        wanted = range(k, k + self._prefetch + 1)
        self._ahead = {j: self._ahead.get(j) or self._pool.submit(self._make, j) for j in wanted}
        return self._ahead.pop(k).result()

    def close(self) -> None:
        """Stop the prefetch thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def epoch_of(self, k: int) -> int:
        """The epoch of step k, from 1."""
        return (k - 1) // self.steps_per_epoch + 1

    def indices(self, k: int) -> np.ndarray:
        """Positions in the dataset of the global batch of step k, int64 [batch_size], by row."""
        assert k >= 1, "steps count from 1"
        epoch, window, step = self._windows.place(k)
        return self._table(epoch, window)[step]

    def _order_of(self, count: int) -> Order:
        if not self.shuffle:
            return InOrder(self._windows)
        if self.dataset.mixture is None:
            return Shuffled(count, self._windows, self.seed)
        assert self._kept is None, "the shares of a mixture are those of all its texts"
        return MixedOrder(self.dataset.mixture, self._windows, self.seed)

    def _plan(self, epoch: int, window: int) -> np.ndarray:
        """The table of one window, int64 [its steps, batch_size], of positions in the dataset."""
        rows = self._order.rows(epoch, window)
        rows = rows if self._kept is None else self._kept[rows]
        groups = in_groups(rows, self.frame.widths(self.frame.counted_of(self.dataset, rows)), self.group)
        if self.shuffle:
            groups = shuffled_groups(groups, self.seed, epoch, window)
        return groups.reshape(-1, self.batch_size)

    def _make(self, k: int) -> StepData:
        indices = self.indices(k)
        return StepData(
            batches=[collate(self.dataset, indices[start:end], np.arange(start, end), self.frame) for start, end in self._cuts],
            tokens=int(self.frame.counted_of(self.dataset, indices).sum()),
            rows=len(indices),
            sample_ids=tuple(self.dataset.ids_of(indices)),
            epoch=self.epoch_of(k),
        )


def in_order(dataset: PairedDataset, batch_size: int, frame: Frame | None = None, indices: np.ndarray | None = None) -> Iterator[Batch]:
    """Every document (or those of `indices`) exactly once, in batches of one width, shortest first: for evaluation.

    `Batch.rows` are positions in the dataset, so a document's noise does not depend on the batch size.
    Raises InputError TEXT_TOO_LONG: nothing is cut in evaluation.
    """
    frame = frame or Frame()
    chosen = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
    _fitting(dataset, frame, "error")
    widths = frame.widths(frame.counted_of(dataset, chosen))
    order = np.argsort(widths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(widths[order])) + 1):
        for start in range(0, len(same), batch_size):
            group = chosen[same[start : start + batch_size]]
            yield collate(dataset, group, group, frame)


def _fitting(dataset: PairedDataset, frame: Frame, too_long: str) -> tuple[np.ndarray | None, int, int]:
    """Positions of the usable documents (None: all), and how many were dropped and truncated."""
    assert too_long in ("error", "drop", "truncate")
    if frame.max_length is None:
        return None, 0, 0
    long = np.zeros(len(dataset), bool)
    for block in blocks_of(len(dataset)):
        long[block] = frame.needed_of(dataset, block) > frame.max_length
    if not long.any():
        return None, 0, 0
    if too_long == "error":
        refuse(unfit(dataset, frame, dataset.folder or "data"))
    return (np.flatnonzero(~long), int(long.sum()), 0) if too_long == "drop" else (None, 0, int(long.sum()))


def _cuts(first: int, last: int, share: int, group: int) -> list[tuple[int, int]]:
    """Row ranges of a rank, cut at the borders of micro-batches and of groups."""
    borders = sorted({first, last, *range(first, last, share), *(g for g in range(0, last, group) if first < g)})
    return list(pairwise(borders))


def _alike(first: int, span: int, rows: int, share: int, group: int) -> list[tuple[int, int]]:
    """The ranges of the rank whose `span` rows begin at `first`, cut wherever any rank has to cut its own."""
    borders = {border - start for start in range(0, rows, span) for cut in _cuts(start, start + span, share, group) for border in cut}
    return [(first + start, first + end) for start, end in pairwise(sorted(borders))]
