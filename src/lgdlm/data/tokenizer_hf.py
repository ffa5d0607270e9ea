"""Any local Hugging Face tokenizer, held as its `tokenizer.json`.

    encode adds no special ids and reads the names of special tokens inside a text as plain text; decode skips nothing

Whether a text comes back as it was is the tokenizer's own affair: byte-level BPE does, lower-casing WordPiece does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgdlm.data.tokenizer_identity import read_tokenizer_file, write_tokenizer_files
from lgdlm.data.vocabulary import utf8
from lgdlm.errors import InputError

FILE = "tokenizer.json"


class HuggingFaceTokenizer:
    """A `tokenizers.Tokenizer` behind our interface. `eos_token` is the token (a string of its vocabulary) that ends a text."""

    kind = "hf"

    def __init__(self, serialised: str, eos_token: str, where: Path):
        """`serialised` is the content of tokenizer.json, read at `where`.

        Raises InputError: MISSING_PACKAGE, BAD_TOKENIZER, UNKNOWN_VALUE (`eos_token` is not in the vocabulary).
        """
        self._tokenizer = _parse(serialised, where)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "</s>" written in a text is four characters, not its end
        self._sha256 = hashlib.sha256(serialised.encode("utf-8")).hexdigest()
        self._serialised, self.eos_token = serialised, eos_token
        eos_id = self._tokenizer.token_to_id(eos_token)
        if eos_id is None:
            message = f"'{eos_token}' is not in the vocabulary; name the token that ends a text"
            raise InputError("UNKNOWN_VALUE", where, "eos_token", message)
        self.eos_id: int = eos_id
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self._bytes = _byte_alphabet() if '"ByteLevel"' in json.dumps(json.loads(serialised).get("decoder")) else None

    @staticmethod
    def from_path(path: str | Path, eos_token: str | None = None) -> HuggingFaceTokenizer:
        """From a folder that `save_pretrained` wrote, or from a tokenizer.json.

        Raises InputError: MISSING_FILE, MISSING_EOS (none is known and none is given), BAD_TOKENIZER, MISSING_PACKAGE.
        """
        path = Path(path)
        if not path.exists():
            raise InputError("MISSING_FILE", path, "prepare.tokenizer", "does not exist; give a local folder or tokenizer.json")
        serialised, declared = (path.read_text(encoding="utf-8"), None) if path.is_file() else _from_folder(path)
        eos_token = eos_token or declared
        if eos_token is None:
            message = "the tokenizer names no end-of-text token; say which of its tokens ends a text: tokenizer.eos_token=..."
            raise InputError("MISSING_EOS", path, "eos_token", message)
        return HuggingFaceTokenizer(serialised, eos_token, path)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids. Raises InputError (BAD_TEXT)."""
        utf8(text)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts."""
        for text in texts:
            utf8(text)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens by their names. Nothing is cut: callers cut at the end id."""
        assert all(0 <= i < self.vocab_size for i in ids), "ids are within the vocabulary: the mask is not, and is never decoded"
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id: exact for byte-level vocabularies, elsewhere those of the decoded token; b"" for the end."""
        token = self._tokenizer.id_to_token(id)
        if token is None or id == self.eos_id:
            return b""
        if self._bytes and all(character in self._bytes for character in token):
            return bytes(self._bytes[character] for character in token)
        return self.decode([id]).encode("utf-8")

    def identity(self) -> dict[str, Any]:
        """What a manifest and a checkpoint say about the tokenizer."""
        facts = {"kind": self.kind, "vocab_size": self.vocab_size, "eos_id": self.eos_id}
        return {**facts, "eos_token": self.eos_token, "sha256": self._sha256}

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and the identity."""
        write_tokenizer_files(folder, self.identity(), FILE, self._serialised.encode("utf-8"))


def load_huggingface_tokenizer(folder: Path, identity: dict[str, Any]) -> HuggingFaceTokenizer:
    """Read what `save` wrote. Raises InputError (BAD_TOKENIZER, MISSING_PACKAGE)."""
    data = read_tokenizer_file(folder, FILE)
    if hashlib.sha256(data).hexdigest() != identity.get("sha256"):
        raise InputError("BAD_TOKENIZER", folder / FILE, "sha256", "differs from tokenizer_identity.json; run prepare again")
    return HuggingFaceTokenizer(data.decode("utf-8"), str(identity.get("eos_token")), folder / FILE)


def _from_folder(folder: Path) -> tuple[str, str | None]:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError("MISSING_PACKAGE", "transformers", "package", "tokenizer=hf needs it; run: pip install transformers") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parsers raise
        raise InputError("BAD_TOKENIZER", folder, "tokenizer", f"cannot be loaded: {str(error)[:120]}") from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError("BAD_TOKENIZER", folder, "tokenizer", "is not a fast tokenizer; save it with a tokenizer.json")
    return backend.to_str(), tokenizer.eos_token


def _parse(serialised: str, where: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("MISSING_PACKAGE", "tokenizers", "package", "tokenizer=hf needs it; run: pip install transformers") from None
    try:
        return Tokenizer.from_str(serialised)
    except Exception as error:  # the library raises a bare Exception
        raise InputError("BAD_TOKENIZER", where, "file", f"is no tokenizer.json: {str(error)[:120]}") from None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 characters stand for themselves, the others for U+0100 and upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
