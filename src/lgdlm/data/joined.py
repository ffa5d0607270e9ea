"""The rows of several splits as those of one.

    rows   0 .. n_1 - 1 | n_1 .. n_1 + n_2 - 1 | ...     of part 1, of part 2, ...

Row i lies in part p = searchsorted(starts, i, right) - 1, at i - starts[p] of the rows chosen there. A question for many rows becomes
one for each part that holds any of them, and the answers are put back in the order asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lgdlm.data.rows import Rows, Strings


class JoinedSplit:
    """The chosen rows `chosen[i]` int64 of `parts[i]`, one part after another (`Rows`)."""

    def __init__(self, parts: Sequence[Rows], chosen: Sequence[np.ndarray | None]):
        self.parts = list(parts)
        self._chosen = list(chosen)
        held = [len(part) if rows is None else len(rows) for part, rows in zip(parts, chosen, strict=True)]
        self.starts = np.cumsum([0, *held])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def ids(self) -> Sequence[str]:
        return Strings(len(self), lambda i: self.ids_of(np.array([i]))[0])

    @property
    def texts(self) -> Sequence[str]:
        return Strings(len(self), self._text)

    def ids_of(self, indices: np.ndarray) -> list[str]:
        found = np.empty(len(indices), object)
        for part, rows, places in self._by_part(indices):
            found[places] = self.parts[part].ids_of(rows)
        return found.tolist()

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty(len(indices), np.int64)
        for part, rows, places in self._by_part(indices):
            found[places] = self.parts[part].lengths_of(rows)
        return found

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty(len(indices), np.int64)
        for part, rows, places in self._by_part(indices):
            found[places] = self.parts[part].last_tokens_of(rows)
        return found

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths_of(indices)
        ends = np.cumsum(lengths)
        flat = np.empty(int(ends[-1]) if len(ends) else 0, np.int64)
        for part, rows, places in self._by_part(indices):
            tokens, held = self.parts[part].gather(rows)
            inside = np.arange(len(tokens)) - np.repeat(np.cumsum(held) - held, held)
            flat[np.repeat(ends[places] - held, held) + inside] = tokens
        return flat, lengths

    def latents(self, indices: np.ndarray) -> np.ndarray | None:
        found: np.ndarray | None = None
        for part, rows, places in self._by_part(indices):
            latents = self.parts[part].latents(rows)
            if latents is None:
                return None
            found = np.empty((len(indices), latents.shape[-1]), np.float32) if found is None else found
            found[places] = latents
        return found

    def _text(self, index: int) -> str:
        ((part, rows, _),) = self._by_part(np.array([index]))
        return self.parts[part].texts[int(rows[0])]

    def _by_part(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(part, its rows, their places among `indices`)."""
        at = np.searchsorted(self.starts, indices, side="right") - 1
        for part in np.unique(at).tolist():
            places = np.flatnonzero(at == part)
            rows, chosen = np.asarray(indices)[places] - self.starts[part], self._chosen[part]
            yield part, rows if chosen is None else chosen[rows], places
