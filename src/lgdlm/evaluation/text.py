"""L2T: how near a generated text is to its source, word for word and in meaning.

    token F1 = 2 |a and b| / (|a| + |b|) over bags of token ids;   distinct-n = different n-grams of words / all of them
    cosine and rank of the re-encoded text against the source, in the encoder's space and in the latent's

A baseline's text goes through the same functions as a generated one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lgdlm.evaluation.baselines import cosines, ranks
from lgdlm.evaluation.metric import mean_of


def overlap_statistics(texts: Sequence[str], sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Per-document statistics of `bleu` [n, 10] and `chrf` [n, 2] by sacrebleu (13a tokens, exponential smoothing).

    Raises ImportError when sacrebleu is not installed.
    """
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(effective_order=False), CHRF()
    scores = [bleu.corpus_score([text], [[source]]) for text, source in zip(texts, sources, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], np.float64)
    chars = [chrf.sentence_score(text, [source]).score for text, source in zip(texts, sources, strict=True)]
    return {"bleu": counts, "chrf": mean_of(np.array(chars))}


def token_statistics(tokens: Sequence[np.ndarray], sources: Sequence[np.ndarray], eos_id: int | None = None) -> dict[str, np.ndarray]:
    """Per-document statistics of `token_f1`, `length_error` and `length_exact` from token ids; a text ends before its first `eos_id`."""
    tokens, sources = ([before_end(ids, eos_id) for ids in texts] for texts in (tokens, sources))
    lengths = np.array([len(ids) for ids in tokens]), np.array([len(ids) for ids in sources])
    f1 = [token_f1(found, source) for found, source in zip(tokens, sources, strict=True)]
    return {
        "token_f1": mean_of(np.array(f1)),
        "length_error": mean_of(np.abs(lengths[0] - lengths[1])),
        "length_exact": mean_of(lengths[0] == lengths[1]),
    }


def before_end(ids: np.ndarray, eos_id: int | None) -> np.ndarray:
    """The ids in front of the first EOS: what is decoded."""
    if eos_id is None:
        return ids
    ends = np.flatnonzero(ids == eos_id)
    return ids[: int(ends[0])] if len(ends) else ids


def token_f1(found: Sequence[int] | np.ndarray, source: Sequence[int] | np.ndarray) -> float:
    """F1 of two bags of ids; 1 when both are empty."""
    if len(found) + len(source) == 0:
        return 1.0
    shared = (Counter(map(int, found)) & Counter(map(int, source))).total()
    return 2 * shared / (len(found) + len(source))


def distinct(texts: Sequence[str], n: int) -> tuple[int, int]:
    """Different n-grams of lower-case words and all of them, over all texts together."""
    assert n in (1, 2)
    words = [text.lower().split() for text in texts]
    grams = [w for row in words for w in row] if n == 1 else [pair for row in words for pair in pairwise(row)]
    return len(set(grams)), len(grams)


def meaning_statistics(encoded: np.ndarray, sources: np.ndarray, present: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Per-document statistics of `cosine`, `rank` and `r1` from vectors [n, E] of texts and of their sources, in one space.

    The rank is that of the own source among all sources; `r1` is 1 where it comes first. Where `present` bool [n] is False the text was
    blank and has no vector: cosine 0, the last rank.
    """
    own = np.arange(len(sources)) if present is None else np.flatnonzero(present)
    cosine, rank = np.zeros(len(sources)), np.full(len(sources), len(sources))
    if len(own):
        cosine[own], rank[own] = cosines(encoded[own], sources[own]), ranks(encoded[own], sources, own)
    return {"cosine": mean_of(cosine), "rank": mean_of(rank), "r1": mean_of(rank == 1)}
