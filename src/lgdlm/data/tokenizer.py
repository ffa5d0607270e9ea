"""From text to token ids and back: the interface, the table of tokenizers, and their folder.

    folder/tokenizer_identity.json  + vocabulary.json (rwkv, rwkv_compact, byte)  or  tokenizer.json (hf)

The mask is not a tokenizer's affair: its id is `vocab_size`, one beyond the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lgdlm.data.tokenizer_hf import HuggingFaceTokenizer, load_huggingface_tokenizer
from lgdlm.data.tokenizer_identity import FILE, read_identity
from lgdlm.data.vocabulary_tokenizer import byte_tokenizer, compact_tokenizer, load_vocabulary_tokenizer, world_tokenizer
from lgdlm.errors import InputError


class Tokenizer(Protocol):
    """What the other rooms may ask of a tokenizer."""

    kind: str
    vocab_size: int
    """Ids 0 .. vocab_size - 1, the mask not counted."""
    eos_id: int
    """The id that ends a text; `encode` never returns it."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises InputError (BAD_TEXT) for what cannot be encoded."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; nothing is cut, bytes that are not UTF-8 become U+FFFD."""

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for."""

    def identity(self) -> dict[str, Any]:
        """JSON-able {"kind", "vocab_size", "eos_id", "sha256"}: equal identities mean equal ids."""

    def save(self, folder: str | Path) -> None:
        """Write JSON files that `load_tokenizer` reads."""


TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {
    "rwkv": world_tokenizer,
    "rwkv_compact": compact_tokenizer,
    "byte": byte_tokenizer,
    "hf": HuggingFaceTokenizer.from_path,
}
LOADERS: dict[str, Callable[[Path, dict[str, Any]], Tokenizer]] = {
    "rwkv": load_vocabulary_tokenizer,
    "rwkv_compact": load_vocabulary_tokenizer,
    "byte": load_vocabulary_tokenizer,
    "hf": load_huggingface_tokenizer,
}


def make_tokenizer(
    kind: str,
    *,
    texts: Iterable[str] | None = None,
    size: int = 8192,
    path: str | Path | None = None,
    eos_token: str | None = None,
) -> Tokenizer:
    """A tokenizer by name, a key of TOKENIZERS.

    texts, size        rwkv_compact: the train texts it is fitted on, and how many ids it has
    path, eos_token    hf: the local folder or tokenizer.json, and its token that ends a text where the folder names none; a folder that
                       `save` wrote gives that tokenizer back, whatever its kind

    Raises InputError: UNKNOWN_VALUE, MISSING_KEY (an argument that this kind needs), MISSING_PACKAGE, MISSING_EOS and others of the kind.
    """
    if kind not in TOKENIZERS:
        raise InputError("UNKNOWN_VALUE", "tokenizer", "tokenizer", f"'{kind}' is not one of {', '.join(TOKENIZERS)}")
    arguments: dict[str, Any] = {}
    if kind == "rwkv_compact":
        assert texts is not None, "a compact vocabulary is fitted on the train texts"
        arguments = {"texts": texts, "size": size}
    elif kind == "hf":
        if path is None:
            raise InputError("MISSING_KEY", "tokenizer", "prepare.tokenizer", "tokenizer=hf needs the local folder of a tokenizer")
        if (Path(path) / FILE).is_file():
            return load_tokenizer(path)
        arguments = {"path": path, "eos_token": eos_token}
    return TOKENIZERS[kind](**arguments)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read what `tokenizer.save(folder)` wrote, checked against its hash.

    Raises InputError: MISSING_FILE, NOT_A_FILE, BAD_TOKENIZER; MISSING_PACKAGE for `hf`.
    """
    identity = read_identity(folder)
    kind = identity.get("kind")
    if kind not in LOADERS:
        raise InputError("BAD_TOKENIZER", Path(folder) / FILE, "kind", f"'{kind}' is not one of {', '.join(LOADERS)}")
    tokenizer = LOADERS[kind](Path(folder), identity)
    if tokenizer.identity() != identity:
        raise InputError("BAD_TOKENIZER", Path(folder) / FILE, "identity", "differs from the tokenizer beside it; run prepare again")
    return tokenizer
