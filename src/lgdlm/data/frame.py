"""How a text is laid into a row, and which texts do not fit.

predicted: row = y_1 ... y_n                     counted = n
eos:       row = y_1 ... y_n EOS | EOS ... EOS   counted = n + 1, or n where the text brings its EOS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lgdlm.data.rows import Rows, blocks_of
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

    def needed_of(self, rows: Rows, indices: np.ndarray) -> np.ndarray:
        """Tokens that the whole texts `indices` int64 [k] need, int64 [k]: one more than they have where an EOS is still to be appended."""
        lengths = rows.lengths_of(indices)
        return lengths if self.eos_id is None else lengths + (rows.last_tokens_of(indices) != self.eos_id)

    def counted_of(self, rows: Rows, indices: np.ndarray) -> np.ndarray:
        """Tokens of the rows `indices` int64 [k] that count, int64 [k]."""
        needed = self.needed_of(rows, indices)
        return needed if self.max_length is None else np.minimum(needed, self.max_length)

    def widths(self, counted: np.ndarray) -> np.ndarray:
        """Width of each row, int64 [n]: rows of one width form a group without padding."""
        if self.eos_id is None:
            return counted
        if self.width is not None:
            return np.full_like(counted, self.width)
        widths = -(-counted // self.multiple) * self.multiple
        return widths if self.max_length is None else np.minimum(widths, self.max_length)


def frame_of(
    length_mode: str, *, eos_id: int | None = None, max_length: int | None = None, fill_multiple: int = 16, fill_width: int | None = None
) -> Frame:
    """The `Frame` of `model.length`: "predicted" or "eos" (which needs `eos_id`)."""
    if length_mode == "predicted":
        return Frame(max_length=max_length)
    if length_mode != "eos":
        raise InputError("CHOICE", "configuration", "model.length", f"expected predicted or eos, got {length_mode!r}")
    if eos_id is None:
        message = "eos needs a tokenizer with an end-of-text id; use model.length=predicted"
        raise InputError("NO_EOS", "configuration", "model.length", message)
    if fill_width is not None and max_length is None:
        max_length = fill_width
    return Frame(eos_id=eos_id, multiple=fill_multiple, width=fill_width, max_length=max_length)


def unfit(rows: Rows, frame: Frame, where: Path | str) -> list[InputError]:
    """A problem for every text that the frame would cut: TEXT_TOO_LONG, or EOS_INSIDE (an EOS before its end)."""
    problems: list[InputError] = []
    if frame.max_length is None and frame.eos_id is None:
        return problems
    early: list[InputError] = []
    for chosen in blocks_of(len(rows)):
        if frame.max_length is not None:
            needed = frame.needed_of(rows, chosen)
            for i in np.flatnonzero(needed > frame.max_length).tolist():
                message = f"needs {needed[i]} tokens, the model takes {frame.max_length}; raise model.max_seq_len or leave it out"
                problems.append(InputError("TEXT_TOO_LONG", where, rows.ids[chosen[i]], message))
        if frame.eos_id is not None:
            flat, lengths = rows.gather(chosen)
            ends = np.cumsum(lengths)
            inside = np.flatnonzero(flat == frame.eos_id)
            of = np.searchsorted(ends, inside, side="right")
            for i in np.unique(of[inside != ends[of] - 1]).tolist():
                message = f"holds the end-of-text id {frame.eos_id} before its end; leave the text out or use model.length=predicted"
                early.append(InputError("EOS_INSIDE", where, rows.ids[chosen[i]], message))
    return problems + early
