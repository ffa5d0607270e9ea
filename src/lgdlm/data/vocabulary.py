"""A vocabulary of byte strings and its greedy longest match.

    encode: at each position the longest token that the rest of the bytes starts with;   decode: join the tokens' bytes

It is free of loss when every single byte is a token. A trie finds the match in one walk over the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lgdlm.errors import InputError


class Vocabulary:
    """`tokens[i]` are the bytes of id i; b"" where the id has none (the end of a text, unused ids)."""

    def __init__(self, tokens: Sequence[bytes]):
        self.tokens = tuple(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, data: bytes) -> list[int]:
        """Ids of `data` by greedy longest match. Raises InputError (BAD_TEXT) where no token fits."""
        ids, start, size, root = [], 0, len(data), self._trie
        while start < size:
            node, at, best, end = root, start, None, start
            while at < size and (step := node.get(data[at])) is not None:
                at += 1
                token, node = step
                if token is not None:
                    best, end = token, at
            if best is None:
                raise InputError("BAD_TEXT", "text", repr(data[:40]), f"byte 0x{data[start]:02x} at {start} has no id in this vocabulary")
            ids.append(best)
            start = end
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; asserts that they are within the vocabulary."""
        assert all(0 <= i < len(self.tokens) for i in ids), "ids are within the vocabulary: the mask is not, and is never decoded"
        return b"".join([self.tokens[i] for i in ids])

    @cached_property
    def sha256(self) -> str:
        """Of the tokens in order, each behind its length."""
        return hashlib.sha256(b"".join(len(token).to_bytes(4, "big") + token for token in self.tokens)).hexdigest()

    def to_json(self) -> bytes:
        """A list of strings, a character a byte (Latin-1)."""
        return json.dumps([token.decode("latin-1") for token in self.tokens], ensure_ascii=False).encode("utf-8")

    @staticmethod
    def from_json(data: bytes, sha256: object, where: Path) -> Vocabulary:
        """Read `to_json` and check it against its hash. Raises InputError (BAD_TOKENIZER) about the file `where`."""
        try:
            vocabulary = Vocabulary([token.encode("latin-1") for token in json.loads(data)])
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("BAD_TOKENIZER", where, "vocabulary", f"cannot be read ({error}); run prepare again") from None
        if vocabulary.sha256 != sha256:
            raise InputError("BAD_TOKENIZER", where, "sha256", "differs from tokenizer_identity.json; run prepare again")
        return vocabulary

    @cached_property
    def _trie(self) -> dict[int, Any]:
        """byte -> (id of the token that ends here or None, children)."""
        root: dict[int, Any] = {}
        for i, token in enumerate(self.tokens):
            node = root
            for byte in token[:-1]:
                node = node.setdefault(byte, [None, {}])[1]
            if token:
                node.setdefault(token[-1], [None, {}])[0] = i
        return root


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises InputError (BAD_TEXT) for half of a surrogate pair, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"character {error.start} is half of a surrogate pair (U+{ord(text[error.start]):04X}), which has no UTF-8"
        raise InputError("BAD_TEXT", "text", repr(text[:40]), message) from None


def most_frequent(ids: Iterable[Sequence[int]], vocabulary: Vocabulary, size: int) -> Vocabulary:
    """The end id, the 256 bytes, and the `size` - 257 longer tokens that occur most often in `ids` (ties: the lower id).

    Where fewer occur, those with the lowest ids fill up. Raises InputError (UNKNOWN_VALUE) for a size that cannot be.
    """
    single = [bytes([byte]) for byte in range(256)]
    longer = [i for i, token in enumerate(vocabulary.tokens) if len(token) > 1]
    if not 257 <= size <= 257 + len(longer):
        raise InputError("UNKNOWN_VALUE", "tokenizer", "size", f"expected 257 to {257 + len(longer)} ids (256 are the bytes), got {size}")
    seen = [0] * len(vocabulary)
    for row in ids:
        for i in row:
            seen[i] += 1
    chosen = sorted(longer, key=lambda i: (-seen[i], i))[: size - 257]
    return Vocabulary([b"", *single, *(vocabulary.tokens[i] for i in chosen)])
