"""One window of an epoch as a table: which documents make step 1, 2, 3, ...

    groups = bucket_rows documents of one width; what a width leaves over is grouped with its neighbours in width
    table  = groups in shuffled order, cut into global batches          int64 [steps, batch_size]

The table does not know about ranks or accumulation, so neither can change which documents a step sees.
"""

from __future__ import annotations

import numpy as np

from lgdlm.data.windows import permutation


def group_rows(batch_size: int, bucket_rows: int) -> int:
    """The largest divisor of `batch_size` that is not above `bucket_rows`."""
    assert min(batch_size, bucket_rows) > 0, "rows are counted from 1"
    return max(rows for rows in range(1, min(batch_size, bucket_rows) + 1) if batch_size % rows == 0)


def in_groups(order: np.ndarray, widths: np.ndarray, rows: int) -> np.ndarray:
    """The documents `order` int64 [m], of `widths` int64 [m], in groups of `rows` of one width, narrow to wide: int64 [m // rows, rows].

    `rows` divides m. What the widths leave over makes the last groups, each of neighbours in width.
    """
    by_width = np.argsort(widths, kind="stable")
    order = order[by_width]
    grouped = _in_full_groups(widths[by_width], rows)
    return np.concatenate([order[grouped], order[~grouped]]).reshape(-1, rows)


def shuffled_groups(groups: np.ndarray, seed: int, epoch: int, window: int) -> np.ndarray:
    """The groups of a window in an order by (seed, epoch, window)."""
    return groups[permutation(len(groups), seed, epoch, f"group order {window}" if window else "group order")]


def _in_full_groups(widths: np.ndarray, rows: int) -> np.ndarray:
    """For sorted `widths`: which entries lie in the whole groups of their width, bool [n]."""
    if not len(widths):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.concatenate([[True], widths[1:] != widths[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(widths)]]))
    place = np.arange(len(widths)) - np.repeat(starts, counts)
    return place < np.repeat(counts // rows * rows, counts)
