"""Which strings of a column need to be read one by one to know that they are usable texts.

A string is beyond doubt when    its slice of the column is UTF-8 and it begins at a character,
                                 it has a byte that no white space has,   no byte 0,   and at most TEXT_BYTES bytes

Everything beyond doubt passes `text.flaw`; the rest is looked at. Arithmetic on whole columns is what makes ten million texts
checkable in the time a file takes to read.
"""

from __future__ import annotations

import numpy as np

from lgdlm.data.text import TEXT_BYTES

PART_BYTES = 1 << 22

# bytes that begin (or are) a character which is no white space: printable ASCII, and first bytes other than those of
# U+0085, U+00A0 (C2), U+1680 (E1), U+2000 to U+205F (E2) and U+3000 (E3)
SOLID = np.zeros(256, bool)
SOLID[0x21:0x7F] = SOLID[0xC3:0xE1] = SOLID[0xE4:0xF5] = True


def doubtful(column: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """For strings `column[offsets[i]:offsets[i + 1]]`, uint8: whether each has to be looked at, bool [n]."""
    found = np.empty(len(offsets) - 1, bool)
    first = 0
    while first < len(found):
        last = int(np.searchsorted(offsets, offsets[first] + PART_BYTES, side="right")) - 1
        last = min(max(last, first + 1), len(found))
        found[first:last] = _doubtful_part(column[int(offsets[first]) : int(offsets[last])], offsets[first : last + 1] - offsets[first])
        first = last
    return found


def _doubtful_part(part: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    lengths = np.diff(offsets)
    doubt = (lengths == 0) | (lengths > TEXT_BYTES)
    if doubt.all():
        return doubt
    try:
        part.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return np.ones_like(doubt)
    begins = offsets[:-1][~doubt]
    sums = np.concatenate([[0], np.cumsum(SOLID[part])])
    zeros = np.concatenate([[0], np.cumsum(part == 0)])
    ends = offsets[1:][~doubt]
    solid, holds_zero = sums[ends] > sums[begins], zeros[ends] > zeros[begins]
    inside = (part[begins] & 0xC0) == 0x80  # begins within a character
    cut = np.zeros_like(doubt)
    cut[:-1] = (offsets[1:-1] < len(part)) & ((part[np.minimum(offsets[1:-1], len(part) - 1)] & 0xC0) == 0x80)
    doubt[~doubt] = ~solid | holds_zero | inside
    return doubt | cut
