"""Rows of documents to one `Batch`.

    predicted: row = y_1 ... y_n                     width = longest n of the group
    eos:       row = y_1 ... y_n EOS | EOS ... EOS   width = next multiple, or fixed
               attention_mask  1 ... 1   1  | 1 ... 1    seen by the network
               fill_mask       0 ... 0   0  | 1 ... 1    filling: never counted; text and the first EOS are the rest

Padding (attention_mask 0) appears only in `predicted`, where texts of different lengths had to share a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lgdlm.batch import Batch
from lgdlm.data.paired import PairedDataset
from lgdlm.errors import InputError


@dataclass(frozen=True)
class Frame:
    """How a text is laid into a row.

    eos_id      None: the length is predicted, the row is the text; else the text ends with this id and is filled with it
    multiple    width of a filled row is rounded up to it, not beyond max_length
    width       or is this, for every row
    max_length  counted tokens (with the first EOS) beyond it are cut; None: no bound
    """

    eos_id: int | None = None
    multiple: int = 1
    width: int | None = None
    max_length: int | None = None

    def needed(self, lengths: np.ndarray, last_tokens: np.ndarray) -> np.ndarray:
        """Tokens a whole text needs, int64 [n]: one more than it has where its EOS is still to be appended."""
        return lengths if self.eos_id is None else lengths + (last_tokens != self.eos_id)

    def counted(self, lengths: np.ndarray, last_tokens: np.ndarray) -> np.ndarray:
        """Tokens of the row that count, int64 [n]."""
        needed = self.needed(lengths, last_tokens)
        return needed if self.max_length is None else np.minimum(needed, self.max_length)

    def widths(self, counted: np.ndarray) -> np.ndarray:
        """Width of each row, int64 [n]: rows of one width form a group without padding."""
        if self.eos_id is None:
            return counted
        if self.width is not None:
            return np.full_like(counted, self.width)
        widths = -(-counted // self.multiple) * self.multiple
        return widths if self.max_length is None else np.minimum(widths, self.max_length)


def collate(dataset: PairedDataset, indices: np.ndarray, rows: np.ndarray, frame: Frame) -> Batch:
    """The documents `indices` int64 [B] as a batch whose rows have the keys `rows` int64 [B].

    Raises InputError EOS_INSIDE where a text holds EOS before its end (only in eos mode, where that would end it).
    """
    flat, lengths = dataset.gather(indices)
    counted = frame.counted(lengths, dataset.last_tokens[indices])
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
        sample_ids=tuple(dataset.ids[int(i)] for i in indices),
        fill_mask=fill,
    )
