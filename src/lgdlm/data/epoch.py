"""One epoch as a table: which documents make step 1, 2, 3, ...

    order  = a permutation by (seed, epoch);  its first steps * batch_size documents are used, the rest rest until another epoch
    groups = bucket_rows documents of one width; what a width leaves over is grouped with its neighbours in width
    table  = groups in shuffled order, cut into global batches          int64 [steps, batch_size]

The table does not know about ranks or accumulation, so neither can change which documents a step sees.
"""

from __future__ import annotations

import numpy as np
import torch

from lgdlm.rng import Rng


def group_rows(batch_size: int, bucket_rows: int) -> int:
    """The largest divisor of `batch_size` that is not above `bucket_rows`."""
    assert min(batch_size, bucket_rows) > 0, "rows are counted from 1"
    return max(rows for rows in range(1, min(batch_size, bucket_rows) + 1) if batch_size % rows == 0)


def plan_epoch(widths: np.ndarray, *, batch_size: int, rows: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The table of one epoch, int64 [n // batch_size, batch_size], of positions in `widths` int64 [n].

    Each run of `rows` entries (a divisor of `batch_size`) is a group. Deterministic in (seed, epoch); numpy's own generators
    are not used, so that a new numpy release cannot change a run.
    """
    steps = len(widths) // batch_size
    order = permutation(len(widths), seed, epoch, "epoch order") if shuffle else np.arange(len(widths))
    order = order[: steps * batch_size]
    order = order[np.argsort(widths[order], kind="stable")]
    grouped = _in_full_groups(widths[order], rows)
    groups = np.concatenate([order[grouped], order[~grouped]]).reshape(-1, rows)
    if shuffle:
        groups = groups[permutation(len(groups), seed, epoch, "group order")]
    return groups.reshape(steps, batch_size)


def permutation(count: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """A permutation of 0 .. count - 1, int64, by counter-based keys."""
    keys = Rng(seed, epoch, torch.arange(count)).uniform(purpose)
    return torch.argsort(keys, stable=True).numpy()


def _in_full_groups(widths: np.ndarray, rows: int) -> np.ndarray:
    """For sorted `widths`: which entries lie in the whole groups of their width, bool [n]."""
    if not len(widths):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.concatenate([[True], widths[1:] != widths[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(widths)]]))
    place = np.arange(len(widths)) - np.repeat(starts, counts)
    return place < np.repeat(counts // rows * rows, counts)
