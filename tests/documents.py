"""Documents for tests of whole data folders: rows to write, texts to prepare, and an encoder that hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.manifest import Manifest
from lgdlm.data.prepare import Prepared, prepare
from lgdlm.data.writing import Row, manifest_of, write_splits

TEXTS = ["one", "zwei \u00e4\u00f6", "\u4e09\u3064\u306e\u732b", "four\r\nlines", "\U0001f600 five"]
DIM = 12


def rows(count: int, dim: int | None = 3, seed: int = 0, vocab: int = 50) -> list[Row]:
    """`count` documents with texts of several scripts; the latent is None where `dim` is."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((count, dim or 1)).astype(np.float32)
    return [
        Row(f"id \u00e9 {i}", f"{TEXTS[i % 5]} {seed} {i}", rng.integers(0, vocab, rng.integers(1, 9)), latents[i] if dim else None)
        for i in range(count)
    ]


def write(folder: Path, splits: dict[str, list[Row]], vocab: int = 50) -> Manifest:
    """A packed folder without a tokenizer."""
    folder.mkdir(exist_ok=True)
    written = write_splits(folder, "packed", splits, vocab, "test")
    manifest = manifest_of(written, folder, "packed", vocab_size=vocab, tokenizer={"kind": "test", "vocab_size": vocab})
    manifest.write(folder)
    return manifest


class HashEncoder:
    """A deterministic encoder that counts its work and can be told to die."""

    dim, truncated = DIM, 0

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.dies_after: int | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.dies_after is not None and len(self.encoded) >= self.dies_after:
            raise KeyboardInterrupt
        self.encoded += texts
        return np.stack([vector(text) for text in texts])

    def identity(self) -> dict[str, Any]:
        return {"name": "hash", "dim": DIM}


def vector(text: str) -> np.ndarray:
    """What `HashEncoder` answers for a text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def prepare_bytes(path: Path, out: Path, **options: Any) -> Prepared:
    """`prepare` of a user's file with byte tokens, 30 texts held out, some too short and some too long."""
    defaults: dict[str, Any] = {"tokenizer": "byte", "encoder": "hash", "latent_dim": 5, "validation": 30, "seed": 3}
    return prepare("file", out, path=path, **{**defaults, "min_tokens": 12, "max_tokens": 40, **options})
