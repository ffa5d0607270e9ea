"""The checks every sample must pass, whatever layout it lies in.

    0 <= token < V,   1 <= length,   latent finite,   text neither empty nor invalid,   ids distinct

Each failure becomes one `InputError` that names the sample; nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lgdlm.data.shard import Shard
from lgdlm.errors import InputError

Report = Callable[[InputError], None]


def verify_shard(shard: Shard, start: int, vocab_size: int, seen: dict[str, int], report: Report) -> None:
    """All rows of a shard; `start` is the first row's index in its split, `seen` the ids met so far with their index."""

    def name(row: int) -> str:
        try:
            return shard.id(row)
        except InputError:
            return f"#{start + row}"

    lengths = np.diff(shard.token_offsets)
    for row in np.flatnonzero(lengths == 0).tolist():
        report(InputError("NO_TOKENS", f"{shard.path}#{row}", name(row), "has no token; leave the text out"))
    strangers = np.flatnonzero(_outside(shard.tokens, vocab_size))
    for row in np.unique(np.searchsorted(shard.token_offsets, strangers, side="right") - 1).tolist():
        ids = shard.tokens[shard.token_offsets[row] : shard.token_offsets[row + 1]]
        worst = int(ids[_outside(ids, vocab_size)][0])
        report(token_problem(f"{shard.path}#{row}", name(row), worst, vocab_size))
    if shard.latents is not None:
        for row in np.flatnonzero(~np.isfinite(shard.latents).all(axis=1)).tolist():
            report(latent_problem(f"{shard.path}#{row}", name(row), shard.latents[row]))
    for row in range(shard.rows):
        try:
            sample, text = shard.id(row), shard.text(row)
        except InputError as problem:
            report(problem)
            continue
        where = f"{shard.path}#{row}"
        if not text.strip():
            report(InputError("EMPTY_TEXT", where, sample, "has an empty text; leave it out"))
        duplicate_id(where, sample, start + row, seen, report)


def duplicate_id(where: str, id: str, index: int, seen: dict[str, int], report: Report) -> None:
    """Report an id that `seen` holds already, and remember it."""
    if id in seen:
        report(InputError("DUPLICATE_ID", where, id, f"is also the id of sample {seen[id]}; ids must differ within a split"))
    seen.setdefault(id, index)


def token_problem(where: str, id: str, token: int, vocab_size: int) -> InputError:
    message = f"expected token ids in 0..{vocab_size - 1}, got {token}; tokenize again with the data's tokenizer"
    return InputError("TOKEN_RANGE", where, id, message)


def latent_problem(where: str, id: str, latent: np.ndarray) -> InputError:
    kind = "NaN" if np.isnan(latent).any() else "infinity"
    at = int(np.flatnonzero(~np.isfinite(latent.ravel()))[0])
    return InputError("NAN_LATENT", where, id, f"expected a finite latent, got {kind} in dimension {at}; encode the text again")


def _outside(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    outside = tokens >= vocab_size
    return outside if tokens.dtype.kind == "u" else outside | (tokens < 0)
