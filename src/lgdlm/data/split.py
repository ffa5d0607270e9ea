"""Which documents are held out: a function of the seed and of their content, nothing else.

    key(text)  = BLAKE2b(normal form of text)            identical texts have one key
    rank(text) = BLAKE2b(seed, key(text))                 a seeded order that does not depend on the corpus order

The held-out documents are those of lowest rank. Adding documents to a corpus or reordering it moves few others.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

KEY_BYTES = 16


def normal_form(text: str) -> str:
    """The text as compared: NFKC, case folded, runs of white space as one space, trimmed."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def content_key(text: str) -> bytes:
    """16 bytes that two texts share exactly if their normal forms are equal."""
    return hashlib.blake2b(normal_form(text).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def ranking(keys: Sequence[bytes], seed: int) -> np.ndarray:
    """Positions of `keys` from lowest to highest rank, int64 [n]; equal keys stay together, in corpus order."""
    salt = hashlib.blake2b(f"split {int(seed)}".encode(), digest_size=32).digest()
    ranks = [hashlib.blake2b(key, key=salt, digest_size=KEY_BYTES).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda i: (ranks[i], i)), dtype=np.int64)


def hold_out(keys: Sequence[bytes], order: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """The held-out mask, bool [n]: `count` documents, taken in `order`, identical texts never separated.

    A group of identical texts that would overshoot `count` is passed over for the next that fits, so the size is exact
    whenever the remaining texts are distinct.
    """
    groups: dict[bytes, list[int]] = {}
    for i in order:
        groups.setdefault(keys[i], []).append(int(i))
    members: dict[bytes, list[int]] = {key: [] for key in groups}
    for i, key in enumerate(keys):
        if key in members:
            members[key].append(i)
    held = np.zeros(len(keys), dtype=bool)
    left = count
    for group in members.values():
        if left and len(group) <= left:
            held[group] = True
            left -= len(group)
    return held
