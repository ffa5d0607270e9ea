"""Unigram and interpolated Kneser-Ney baselines: what a text costs without any network.

    unigram   -log p(n) - sum_i log p(y_i)                                          length from its histogram
    order N   -sum_i log p(y_i | y_{i-N+1..i-1}) - log p(EOS | last N - 1)          length through EOS
    p_k(w | c) = max(a(c w) - d, 0) / a(c .) + d T(c) / a(c .) p_{k-1}(w | c without its first),   p_0 = 1 / (V + 1)

a: counts at the highest order, below it the number of different words seen in front (plain counts where the context begins the text);
T(c): different words after c; d = n1 / (n1 + 2 n2) per order from the numbers of n-grams seen once and twice.
N-grams are single int64 keys in sorted arrays, so everything is np.unique and np.searchsorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lgdlm.data.collate import Frame
from lgdlm.evaluation.documents import Documents


@dataclass(frozen=True)
class _Order:
    """All n-grams of one order: sorted keys with a(c w), and sorted context keys with a(c .) and T(c)."""

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    followers: np.ndarray
    discount: float


class KneserNey:
    """Fitted on token sequences over ids 0 .. `vocab_size` - 1; EOS is the id `vocab_size` here, the begin of text one more."""

    def __init__(self, sequences: Sequence[np.ndarray], vocab_size: int, order: int):
        if order < 1 or (vocab_size + 2) ** order >= 1 << 62:
            raise ValueError(f"order {order} over {vocab_size} ids: expected at least 1, and (ids + 2) ** order below 2 ** 62")
        if not len(sequences):
            raise ValueError("a baseline needs training texts")
        self.vocab_size, self.order, self.base = vocab_size, order, vocab_size + 2
        self.eos, self.begin = vocab_size, vocab_size + 1
        stream, first = self._stream(sequences)
        self._orders = [self._fit(stream, first, k) for k in range(1, order + 1)]

    def nats(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """-log p of each sequence with its EOS, float64 [n]."""
        stream, first = self._stream(sequences)
        at = np.flatnonzero(stream != self.begin)
        keys = [self._keys(stream, at, k) for k in range(1, self.order + 1)]
        owner = np.repeat(np.arange(len(sequences)), [len(s) + 1 for s in sequences])
        return np.bincount(owner, -np.log(self._probability(keys)), minlength=len(sequences))

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p(. | context) over the ids and EOS, float64 [V + 1]; the text begins before `context`."""
        history = np.array([self.begin] * (self.order - 1) + list(context), np.int64)
        words = np.arange(self.vocab_size + 1)
        keys = []
        for k in range(1, self.order + 1):
            past = sum(int(token) * self.base**power for power, token in enumerate(history[::-1][: k - 1], start=1))
            keys.append(words + past)
        return self._probability(keys)

    def _stream(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """begin * (order - 1), tokens, EOS of one sequence after another; and which entries begin a text."""
        pad = max(self.order - 1, 1)
        lengths = np.array([len(s) + pad + 1 for s in sequences])
        stream = np.full(int(lengths.sum()), self.begin, np.int64)
        ends = np.cumsum(lengths) - 1
        stream[ends] = self.eos
        inside = np.concatenate([np.arange(e - len(s), e) for e, s in zip(ends, sequences, strict=True)])
        stream[inside] = np.concatenate([np.asarray(s, np.int64) for s in sequences])
        assert bool(((stream >= 0) & (stream < self.base)).all()), "token ids lie inside the vocabulary"
        return stream, ends

    def _keys(self, stream: np.ndarray, at: np.ndarray, k: int) -> np.ndarray:
        """The n-gram that ends at each position as one number, the last word as its lowest digit."""
        keys = np.zeros(len(at), np.int64)
        for back in range(k):
            keys += stream[at - back] * self.base**back
        return keys

    def _fit(self, stream: np.ndarray, ends: np.ndarray, k: int) -> _Order:
        at = np.flatnonzero(stream != self.begin)
        grams, counts = np.unique(self._keys(stream, at, k), return_counts=True)
        if k < self.order:
            longer = np.unique(self._keys(stream, at, k + 1))
            suffix = longer % self.base**k
            fronts = np.bincount(np.searchsorted(grams, suffix), minlength=len(grams))
            begins = grams // self.base ** (k - 1) == self.begin  # never has more than the begin in front of it
            counts = np.where(begins, counts, fronts) if k > 1 else fronts
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        contexts, inverse = np.unique(grams // self.base, return_inverse=True)
        return _Order(
            grams=grams,
            counts=counts,
            contexts=contexts,
            totals=np.bincount(inverse, counts),
            followers=np.bincount(inverse),
            discount=once / (once + 2 * twice) if once else 0.5,  # nothing seen once: any discount leaves room for the unseen
        )

    def _probability(self, keys: list[np.ndarray]) -> np.ndarray:
        """Interpolation from the uniform distribution upwards; `keys[k - 1]` are the n-grams of order k."""
        p = np.full(len(keys[0]), 1.0 / (self.vocab_size + 1))
        for model, key in zip(self._orders, keys, strict=True):
            here, known = _find(model.contexts, key // self.base)
            gram, seen = _find(model.grams, key)
            kept = np.where(seen, model.counts[gram] - model.discount, 0.0).clip(min=0)
            mixed = (kept + model.discount * model.followers[here] * p) / model.totals[here]
            p = np.where(known, mixed, p)
        return p


def _find(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each key (0 where it is absent), and whether it is there."""
    at = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    seen = sorted_keys[at] == keys
    return np.where(seen, at, 0), seen


def length_nats(train_lengths: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """-log p(n) from the histogram of training lengths, add-one over 1 .. the longest of either, float64 [n]."""
    longest = int(max(train_lengths.max(), lengths.max()))
    counts = np.bincount(train_lengths, minlength=longest + 1)[1:] + 1.0
    return -np.log(counts[lengths - 1] / counts.sum())


def width_nats(train_lengths: np.ndarray, lengths: np.ndarray, frame: Frame) -> np.ndarray:
    """-log p(width of the row) where EOS ends the texts, float64 [n]: a filled row tells the length to the next multiple, so that is paid.

    From the histogram of training rows, add-one; rows of one fixed width tell nothing and cost nothing.
    """
    if frame.width is not None:
        return np.zeros(len(lengths))
    rows = [-(-frame.widths(n + 1) // frame.multiple) for n in (train_lengths, lengths)]
    return length_nats(*rows)


def unigram_nats(train: Documents, documents: Documents, vocab_size: int) -> np.ndarray:
    """Independent tokens and the length's histogram, float64 [n]; discounted towards uniform so that no token is impossible."""
    counts = np.bincount(np.concatenate(train.tokens), minlength=vocab_size).astype(np.float64)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    spared = discount * np.count_nonzero(counts)
    p = ((counts - discount).clip(min=0) + spared / vocab_size) / counts.sum()
    tokens = np.array([-np.log(p[ids]).sum() for ids in documents.tokens])
    return tokens + length_nats(train.lengths, documents.lengths)


def baseline_nats(train: Documents, documents: Documents, vocab_size: int) -> dict[str, np.ndarray]:
    """Nats of every document under each baseline, length included: the names that results carry."""
    found = {"unigram": unigram_nats(train, documents, vocab_size)}
    for name, order in (("Kneser-Ney bigram", 2), ("Kneser-Ney trigram", 3)):
        found[name] = KneserNey(train.tokens, vocab_size, order).nats(documents.tokens)
    return found
