"""From the texts of a corpus to tokens and a split of exact size.

    rank by content hash -> reserve the lowest -> fit the tokenizer on the rest -> keep min <= tokens <= max
    -> hold out the first `count` survivors of the reserve; everything else that survived is train

The tokenizer never sees a held-out text, and a text too long or too short never counts as held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lgdlm.data.problems import refuse
from lgdlm.data.split import content_key, hold_out, ranking
from lgdlm.data.text import Counts, Text
from lgdlm.data.tokenizer import Tokenizer
from lgdlm.errors import InputError

Fit = Callable[[Sequence[str]], Tokenizer]
Progress = Callable[[int, int], None]
Tokenize = Callable[[Tokenizer, Sequence[Sequence[str]]], Iterator[list[np.ndarray]]]
BATCH = 4096


@dataclass(frozen=True)
class Selection:
    """`tokens[i]` belongs to `texts[i]`; `train` and `validation` are positions in rank order, int64."""

    texts: list[Text]
    tokens: list[np.ndarray]
    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray


def select(
    texts: Sequence[Text],
    fit: Fit,
    counts: Counts,
    *,
    validation: float,
    validation_kinds: Sequence[str] | None = None,
    min_tokens: int,
    max_tokens: int,
    seed: int,
    limit: int | None,
    on_progress: Progress,
    tokenize: Tokenize,
) -> Selection:
    """Choose, tokenize and split; what is left out is moved from `kept` to `dropped` in `counts`.

    validation        a count (>= 1) or a share of the surviving texts (< 1; above 0 one text at least); ignored where the source
                      prescribes its splits
    validation_kinds  the kinds that may be held out; None: all
    limit             so many texts of lowest rank: a seeded sample, with the validation texts of the whole corpus first
    tokenize          the token rows of parts of the texts, in order

    Raises InputError: EMPTY_CORPUS (no text survives), VALIDATION_SIZE (not so many texts can be held out).
    """
    keys = [content_key(text.text) for text in texts]
    order = ranking(keys, seed).tolist()
    if limit is not None and limit < len(order):
        _drop(counts, f"beyond limit={limit}", len(order) - limit)
        order = order[:limit]
    prescribed = any(texts[i].split for i in order)
    if prescribed:
        order = _without_overlap(texts, keys, order, counts)
    allowed = order if validation_kinds is None else _of_kinds(texts, keys, order, validation_kinds)
    reserve = [i for i in order if texts[i].split == "validation"] if prescribed else allowed[: _reserve_size(validation, len(order))]
    while True:
        reserved = {keys[i] for i in reserve}
        tokenizer = fit([texts[i].text for i in order if keys[i] not in reserved])
        tokens = _tokenize(tokenizer, texts, order, on_progress, tokenize)
        fitting = [i for i in order if min_tokens <= len(tokens[i]) <= max_tokens]
        inside, reserved_rows = set(fitting), set(reserve)
        wanted = sum(i in reserved_rows for i in fitting) if prescribed else _count(validation, len(fitting))
        held = hold_out([keys[i] for i in fitting], _positions(fitting, [i for i in reserve if i in inside]), wanted)
        if held.sum() == wanted or len(reserve) == len(allowed) or prescribed:
            break
        reserve = allowed[: 2 * len(reserve)]
    if fitting and held.all():
        message = f"all {len(fitting)} texts are held out and none is left to train on; {'give more' if prescribed else 'lower validation'}"
        raise InputError("EMPTY_CORPUS", "source", "validation", message)
    if not fitting:
        message = f"no text of {min_tokens} to {max_tokens} tokens is left to train on"
        raise InputError("EMPTY_CORPUS", "source", "min_tokens, max_tokens", message)
    if held.sum() != wanted:
        message = f"expected {wanted} texts to hold out, only {int(held.sum())} can be; lower validation"
        raise InputError("VALIDATION_SIZE", "source", "validation", message)
    for reason, number in (
        (f"fewer than {min_tokens} tokens", sum(len(tokens[i]) < min_tokens for i in order)),
        (f"more than {max_tokens} tokens", sum(len(tokens[i]) > max_tokens for i in order)),
    ):
        _drop(counts, reason, number)
    place = {i: position for position, i in enumerate(sorted(fitting))}
    train, validated = ([place[i] for i, out in zip(fitting, held, strict=True) if out == side] for side in (False, True))
    chosen = sorted(fitting)
    return Selection([texts[i] for i in chosen], [tokens[i] for i in chosen], tokenizer, np.array(train), np.array(validated, np.int64))


def _count(validation: float, rows: int) -> int:
    """A share above 0 is one text at least, where another is left to train on."""
    if validation >= 1:
        return int(validation)
    return max(round(validation * rows), 1 if validation > 0 and rows > 1 else 0)


def _reserve_size(validation: float, rows: int) -> int:
    """Half as many again as needed: some will be too long or too short."""
    return min(rows, -(-_count(validation, rows) * 3 // 2) + (16 if validation else 0))


def _tokenize(
    tokenizer: Tokenizer, texts: Sequence[Text], order: Sequence[int], on_progress: Progress, tokenize: Tokenize
) -> dict[int, np.ndarray]:
    tokens: dict[int, np.ndarray] = {}
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    found = tokenize(tokenizer, [[texts[i].text for i in part] for part in parts])
    for part in parts:
        try:
            rows = next(found)
        except InputError:
            refuse([problem for i in part if (problem := _not_encodable(tokenizer, texts[i]))])
            raise
        for i, ids in zip(part, rows, strict=True):
            tokens[int(i)] = ids
        on_progress(len(tokens), len(order))
    return tokens


def _not_encodable(tokenizer: Tokenizer, text: Text) -> InputError | None:
    """What the tokenizer says against a text, with the text's name."""
    try:
        tokenizer.encode(text.text)
    except InputError as problem:
        return InputError(problem.code, "text", text.id, problem.message)
    return None


def _of_kinds(texts: Sequence[Text], keys: Sequence[bytes], order: Sequence[int], kinds: Sequence[str]) -> list[int]:
    """Those of `order` whose kind, and that of every identical text, is one of `kinds`."""
    barred = {keys[i] for i in order if texts[i].kind not in kinds}
    return [i for i in order if keys[i] not in barred]


def _without_overlap(texts: Sequence[Text], keys: Sequence[bytes], order: Sequence[int], counts: Counts) -> list[int]:
    """`order` without the train texts that a prescribed validation split holds as well."""
    held = {keys[i] for i in order if texts[i].split == "validation"}
    kept = [i for i in order if texts[i].split == "validation" or keys[i] not in held]
    _drop(counts, "in validation as well", len(order) - len(kept))
    return kept


def _positions(values: Sequence[int], chosen: Sequence[int]) -> list[int]:
    place = {value: position for position, value in enumerate(values)}
    return [place[value] for value in chosen]


def _drop(counts: Counts, reason: str, number: int) -> None:
    if number:
        counts.kept -= number
        counts.dropped[reason] = counts.dropped.get(reason, 0) + number
