"""Rows of documents to one `Batch`.

    predicted: row = y_1 ... y_n                     width = longest n of the group
    eos:       row = y_1 ... y_n EOS | EOS ... EOS   width = next multiple, or fixed
               attention_mask  1 ... 1   1  | 1 ... 1    seen by the network
               fill_mask       0 ... 0   0  | 1 ... 1    filling: never counted; text and the first EOS are the rest

Padding (attention_mask 0) appears only in `predicted`, where texts of different lengths had to share a group.
"""

from __future__ import annotations

import numpy as np
import torch

from lgdlm.batch import Batch
from lgdlm.data.frame import Frame
from lgdlm.data.paired import PairedDataset
from lgdlm.errors import InputError


def collate(dataset: PairedDataset, indices: np.ndarray, rows: np.ndarray, frame: Frame) -> Batch:
    """The documents `indices` int64 [B] as a batch whose rows have the keys `rows` int64 [B].

    Raises InputError EOS_INSIDE where a text holds EOS before its end (only in eos mode, where that would end it).
    """
    flat, lengths = dataset.gather(indices)
    counted = frame.counted_of(dataset, indices)
    width = int(frame.widths(counted).max())
    ids = np.full((len(indices), width), frame.eos_id or 0, np.int64)
    column = np.arange(width)
    held = column < np.minimum(lengths, width)[:, None]
    held &= column < counted[:, None]
    source = np.arange(len(flat))
    position = source - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids[held] = flat[position < np.repeat(held.sum(axis=1), lengths)]
    mask = column < counted[:, None]
    fill = None  # in eos mode the row is real to its end: a network that saw where the filling starts would see the length
    if frame.eos_id is not None:
        early = (ids == frame.eos_id) & (column < counted[:, None] - 1)
        if early.any():
            row = int(np.flatnonzero(early.any(axis=1))[0])
            message = f"holds the end-of-text id {frame.eos_id} before its end; leave the text out or use model.length=predicted"
            raise InputError("EOS_INSIDE", dataset.folder or "data", dataset.ids[int(indices[row])], message)
        fill, mask = torch.from_numpy(~mask), np.ones_like(mask)
    latents = dataset.latents(indices)
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        latent=None if latents is None else torch.from_numpy(latents),
        rows=torch.from_numpy(np.asarray(rows, np.int64)),
        sample_ids=tuple(dataset.ids_of(indices)),
        fill_mask=fill,
    )
