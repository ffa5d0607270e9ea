"""Baselines that need no network: the nearest training text, a random one.

    nearest(z) = argmax over training latents of cos(z, z')

Both answer L2T with a text that somebody wrote; they are scored exactly as generated texts are.
"""

from __future__ import annotations

import numpy as np

from lgdlm.evaluation.documents import Documents

CHUNK = 1 << 14  # training latents compared at once: bounds the memory of the product


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length 1, float32 [n, D]. Raises ValueError for a row of zeros, which has no direction."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (norms > 0).all():
        raise ValueError("a vector of zeros has no cosine")
    return vectors / norms


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`, float64 [n]."""
    return np.einsum("nd,nd->n", unit(a), unit(b), dtype=np.float64)


def nearest(corpus: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Index into `corpus` [m, D] of the row with the largest cosine to each query [n, D], int64 [n]; the first of equals."""
    wanted, best, where = unit(queries), np.full(len(queries), -np.inf, np.float32), np.zeros(len(queries), np.int64)
    for start in range(0, len(corpus), CHUNK):
        scores = wanted @ unit(corpus[start : start + CHUNK]).T
        top = scores.argmax(axis=1)
        value = scores[np.arange(len(top)), top]
        better = value > best
        best, where = np.where(better, value, best), np.where(better, top + start, where)
    return where


def ranks(found: np.ndarray, sources: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """Rank of each row's own source among all `sources` by cosine to `found`, int64 [n], 1 is best.

    `own` int64 [n] is the source's number, None where it stands in the same row.

    A source that ties with the own one ranks before it, so that equal vectors cannot look like a hit.
    """
    own = np.arange(len(found)) if own is None else own
    scores = unit(found) @ unit(sources).T
    rows = np.arange(len(found))
    theirs = scores[rows, own]
    scores[rows, own] = -np.inf
    return 1 + (scores >= theirs[:, None]).sum(axis=1)


def training_texts(train: Documents, documents: Documents, seed: int) -> dict[str, np.ndarray]:
    """Indices into the training split that answer each evaluated document, by baseline."""
    drawn = np.random.default_rng(seed).integers(len(train), size=len(documents))
    return {"nearest training text": nearest(train.latents, documents.latents), "random training text": drawn}
