"""The texts that are measured: a fixed choice by content, and their parts in memory.

    order = ascending SHA-256(seed, text);   evaluated = the first `count` of the held-out split

The choice depends on the texts alone: files may be reordered, and a larger `count` contains a smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lgdlm.data.paired import PairedDataset
from lgdlm.errors import InputError

Reader = Callable[[Sequence[np.ndarray]], np.ndarray]  # tokens of texts to raw latents float32 [n, L * D]


@dataclass(frozen=True)
class Documents:
    """`ids`, `texts` strings; `tokens` int64 arrays of the real tokens, without EOS; `latents` float32 [n, L * D] raw."""

    ids: Sequence[str]
    texts: Sequence[str]
    tokens: Sequence[np.ndarray]
    latents: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.texts) == len(self.tokens) == len(self.latents)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each, int64 [n]."""
        return np.array([len(ids) for ids in self.tokens], np.int64)

    @property
    def bytes(self) -> np.ndarray:
        """UTF-8 bytes of each text, int64 [n]."""
        return np.array([len(text.encode()) for text in self.texts], np.int64)

    def select(self, index: np.ndarray) -> Documents:
        """Some of the documents, in the order of `index`."""
        return Documents([self.ids[i] for i in index], [self.texts[i] for i in index], [self.tokens[i] for i in index], self.latents[index])


def held_out(texts: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Indices int64 of the `count` texts with the smallest hashes, smallest first; fewer when there are fewer.

    Equal texts are taken once: a duplicate would count twice and be its own rival in retrieval.
    """
    first: dict[bytes, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(hashlib.sha256(f"{seed}\0{text}".encode()).digest(), i)
    return np.array([first[key] for key in sorted(first)[:count]], np.int64)


def keys_of(documents: Documents) -> np.ndarray:
    """One random-number key a document from its tokens, int64 [n]: what is drawn for it does not depend on its neighbours."""
    digests = [hashlib.sha256(np.ascontiguousarray(ids, np.int64).tobytes()).digest() for ids in documents.tokens]
    return np.array([int.from_bytes(digest[:7], "big") for digest in digests], np.int64)


def derangement(count: int, seed: int) -> np.ndarray:
    """A fixed permutation without a fixed point, int64 [count]: one cycle through all in random order.

    Raises ValueError for fewer than two, of which there is none.
    """
    if count < 2:
        raise ValueError("a latent of another text needs at least two texts")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def read_documents(dataset: PairedDataset, index: np.ndarray, eos_id: int | None = None, read: Reader | None = None) -> Documents:
    """The chosen rows of a `PairedDataset`. `read` gives the latents of their tokens where the data has none.

    `eos_id`: of a model whose texts end with EOS; one that closes the stored tokens is then no real token. None: tokens as they are.
    Raises InputError: NO_LATENTS when the data has none, ZERO_LATENT for a latent without a direction.
    """
    flat, lengths = dataset.gather(index)
    tokens = np.split(flat, np.cumsum(lengths)[:-1])
    if eos_id is not None:
        tokens = [row[:-1] if len(row) and row[-1] == eos_id else row for row in tokens]
    latents = dataset.latents(index)
    if latents is None and read is not None:
        latents = read(tokens)
    if latents is None:
        raise InputError(
            "NO_LATENTS",
            dataset.folder or "data",
            "latents",
            "evaluation compares texts with their latents; prepare the data with an encoder",
        )
    texts, ids = dataset.texts, dataset.ids
    vectors = np.asarray(latents, np.float32).reshape(len(index), -1)
    if not (directed := vectors.any(axis=1)).all():
        name = ids[int(index[int(np.flatnonzero(~directed)[0])])]
        raise InputError(
            "ZERO_LATENT", dataset.folder or "data", name, "its latent is all zeros and has no direction to compare; encode it again"
        )
    return Documents([ids[int(i)] for i in index], [texts[int(i)] for i in index], tokens, vectors)
