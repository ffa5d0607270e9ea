"""Tokenizers that are a vocabulary: RWKV World, its lossless pruning, and bytes.

    rwkv           65,536 ids; 0 ends a text, 1 to 256 are the single bytes
    rwkv_compact   0 ends a text, 1 to 256 are the single bytes, then the most frequent longer tokens of the train texts
    byte           256 ids, the UTF-8 bytes themselves; 0 ends a text, so U+0000 cannot be encoded

All encode by greedy longest match, and every text comes back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lgdlm.data.tokenizer_identity import read_tokenizer_file, write_tokenizer_files
from lgdlm.data.vocabulary import Vocabulary, most_frequent, utf8
from lgdlm.data.world_vocabulary import compiled_world_encoder, read_world_vocabulary

FILE = "vocabulary.json"


class VocabularyTokenizer:
    """Text to ids by a vocabulary. Id 0 ends a text; the mask's id is `vocab_size`.

    `kind` is a key of TOKENIZERS; `encoder` replaces the vocabulary's own encoding by a faster one with the same ids.
    """

    eos_id = 0

    def __init__(self, kind: str, vocabulary: Vocabulary, encoder: Callable[[str], list[int]] | None = None):
        self.kind, self.vocabulary, self.vocab_size = kind, vocabulary, len(vocabulary)
        self._encoder = encoder

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end. Raises InputError (BAD_TEXT) for what has no ids."""
        data = utf8(text)
        return self._encoder(text) if self._encoder else self.vocabulary.encode(data)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. Nothing is cut: callers cut at the end id."""
        return self.vocabulary.decode(ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id; b"" for the end and for unused ids."""
        return self.vocabulary.decode([id])

    def identity(self) -> dict[str, Any]:
        """What a manifest and a checkpoint say about the tokenizer."""
        return {"kind": self.kind, "vocab_size": self.vocab_size, "eos_id": self.eos_id, "sha256": self.vocabulary.sha256}

    def save(self, folder: str | Path) -> None:
        """Write vocabulary.json and the identity; `load_tokenizer` needs no package to read them."""
        write_tokenizer_files(folder, self.identity(), FILE, self.vocabulary.to_json())


def world_tokenizer() -> VocabularyTokenizer:
    """The RWKV World tokenizer. Raises InputError (MISSING_PACKAGE)."""
    return VocabularyTokenizer("rwkv", read_world_vocabulary(), compiled_world_encoder())


def byte_tokenizer() -> VocabularyTokenizer:
    """UTF-8 bytes as ids."""
    return VocabularyTokenizer("byte", Vocabulary([b"", *(bytes([byte]) for byte in range(1, 256))]))


def compact_tokenizer(texts: Iterable[str], size: int = 8192) -> VocabularyTokenizer:
    """The World vocabulary pruned to the tokens that occur most often in `texts`: `size` ids in all, end and bytes included.

    Raises InputError: UNKNOWN_VALUE (a size below 257 or above the vocabulary), BAD_TEXT, MISSING_PACKAGE.
    """
    world = world_tokenizer()
    return VocabularyTokenizer("rwkv_compact", most_frequent(map(world.encode, texts), world.vocabulary, size))


def load_vocabulary_tokenizer(folder: Path, identity: dict[str, Any]) -> VocabularyTokenizer:
    """Read what `save` wrote; no package is needed. Raises InputError (BAD_TOKENIZER)."""
    vocabulary = Vocabulary.from_json(read_tokenizer_file(folder, FILE), identity.get("sha256"), folder / FILE)
    kind = identity["kind"]
    return VocabularyTokenizer(kind, vocabulary, compiled_world_encoder() if kind == "rwkv" else None)
