"""The files of a saved tokenizer: its identity, and the one file the identity's hash is of.

folder/tokenizer_identity.json {"kind", "vocab_size", "eos_id", "sha256"}  +  vocabulary.json or tokenizer.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgdlm.data.confinement import Confinement
from lgdlm.data.storage import make_folder, write_bytes, write_json
from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

FILE = "tokenizer_identity.json"


def write_tokenizer_files(folder: str | Path, identity: dict[str, Any], name: str, data: bytes) -> None:
    """Write `data` as file `name`, then the identity: a folder with an identity is complete."""
    folder = make_folder(Path(folder))
    write_bytes(folder / name, data)
    write_json(folder / FILE, identity)


def read_identity(folder: str | Path) -> dict[str, Any]:
    """The identity in a folder. Raises InputError: MISSING_FILE, NOT_A_FILE, BAD_TOKENIZER."""
    path = Path(folder) / FILE
    try:
        identity = parse(read_tokenizer_file(folder, FILE))
    except ValueError as error:
        raise InputError("BAD_TOKENIZER", path, "file", f"is not readable as JSON ({error}); run prepare again") from None
    if not isinstance(identity, dict):
        raise InputError("BAD_TOKENIZER", path, "file", "expected an object; run prepare again")
    return identity


def read_tokenizer_file(folder: str | Path, name: str) -> bytes:
    """The bytes of one file of the folder. Raises InputError: MISSING_FILE, NOT_A_FILE, OUTSIDE, UNREADABLE."""
    with Confinement(folder).open(name, Path(folder) / name, "tokenizer") as file:
        return file.read()
