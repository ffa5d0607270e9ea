"""The RWKV World vocabulary, found in the data of an installed package.

    a line of rwkv_vocab_v20230424.txt:   id 'literal' length-in-bytes

65,536 ids: 0 ends a text, 1 to 256 are the single bytes, 257 to 65,529 longer strings, the rest are unused.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

from lgdlm.data.packaged import package_folder
from lgdlm.data.vocabulary import Vocabulary
from lgdlm.errors import InputError

WORLD_FILE = "rwkv_vocab_v20230424.txt"
WORLD_PACKAGES = {"pyrwkv_tokenizer": "pyrwkv-tokenizer==0.9.1", "rwkv": "rwkv==0.8.32"}  # module: requirement
WORLD_SIZE = 65536
WORLD_SHA256 = "d36e9fa767311cad482dfb059a908c285875d53eb6da03853da6fda1efdb77d4"  # of `Vocabulary.sha256`


def read_world_vocabulary() -> Vocabulary:
    """The RWKV World vocabulary (65,536 ids, of which 1 to 256 are the single bytes) from an installed package's data.

    Raises InputError: MISSING_PACKAGE (neither package is there), BAD_TOKENIZER (its file is another vocabulary).
    """
    path = _world_file()
    tokens = [b""] * WORLD_SIZE
    for line in path.read_text(encoding="utf-8").splitlines():
        number, rest = line.split(" ", 1)
        literal, size = rest.rsplit(" ", 1)
        value = ast.literal_eval(literal)
        tokens[int(number)] = value if isinstance(value, bytes) else value.encode("utf-8")
        assert len(tokens[int(number)]) == int(size), "a line gives the length of its token"
    vocabulary = Vocabulary(tokens)
    if vocabulary.sha256 != WORLD_SHA256:
        raise InputError("BAD_TOKENIZER", path, "vocabulary", f"is not the RWKV World vocabulary; run: {_remedy()}")
    return vocabulary


def _world_file() -> Path:
    for module, requirement in WORLD_PACKAGES.items():
        try:
            path = package_folder(module, requirement) / WORLD_FILE
        except InputError:
            continue
        if path.is_file():
            return path
    raise InputError("MISSING_PACKAGE", WORLD_FILE, "tokenizer", f"the vocabulary is in neither package; run: {_remedy()}")


def _remedy() -> str:
    return f"pip install {next(iter(WORLD_PACKAGES.values()))}"


def compiled_world_encoder() -> Callable[[str], list[int]] | None:
    """The encoder of `pyrwkv_tokenizer`, which gives the same ids as the vocabulary's own, or None where it is not installed."""
    try:
        from pyrwkv_tokenizer import RWKVTokenizer
    except ImportError:
        return None
    return RWKVTokenizer().encode
