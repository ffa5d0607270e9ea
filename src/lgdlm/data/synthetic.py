"""Tiny paired data with a known relation, for unit tests and for a first look at a configuration.

    text  = a sentence of a grammar: det adj? noun verb det adj? noun
    z     = W bag(y) / sqrt(n) + noise,   bag(y) counts of ids, W fixed by the seed

The latent is a linear function of the bag of tokens, so a linear encoder can recover it and a decoder has something to read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.manifest import Manifest
from lgdlm.data.paired import PairedDataset
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import make_folder, write_aside, write_bytes


class MemorySplit:
    """A split held in memory: lists of ids, texts and token arrays, latents float32 [n, D] or None."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str], tokens: Sequence[np.ndarray], latents: np.ndarray | None):
        assert len(ids) == len(texts) == len(tokens) == len(tokens if latents is None else latents), "one of each a document"
        self.ids, self.texts, self._tokens, self._latents = ids, texts, [np.asarray(row, np.int64) for row in tokens], latents
        self.lengths = np.array([len(row) for row in self._tokens], np.int64)
        self.last_tokens = np.array([row[-1] for row in self._tokens], np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def ids_of(self, indices: np.ndarray) -> list[str]:
        return [self.ids[int(i)] for i in indices]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        return self.lengths[indices]

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        return self.last_tokens[indices]

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._tokens[int(i)] for i in indices]
        return np.concatenate(rows) if rows else np.empty(0, np.int64), self.lengths[indices]

    def latents(self, indices: np.ndarray) -> np.ndarray | None:
        return None if self._latents is None else self._latents[indices]


def tiny_dataset(
    n: int = 64, vocab: int = 32, latent_dim: int | None = 4, seed: int = 0, split: str = "train", noise: float = 0.05, longest: int = 12
) -> PairedDataset:
    """`n` sentences of 5 to `longest` tokens over ids 1 .. vocab - 1 (0 is EOS and never occurs), deterministic in the seed.

    `split` shares W and the statistics with the train split of the same seed and size but holds other sentences.
    """
    assert vocab >= 12, "each part of speech needs words"
    assert longest >= 5, "the shortest sentence"
    weights = np.random.Generator(np.random.Philox(seed)).standard_normal((vocab, latent_dim or 1))

    def draw(name: str) -> tuple[list[np.ndarray], np.ndarray]:
        rng = np.random.Generator(np.random.Philox([seed, sum(name.encode())]))
        rows = [_sentence(rng, vocab, longest) for _ in range(n)]
        bags = np.stack([np.bincount(row, minlength=vocab) / np.sqrt(len(row)) for row in rows])
        return rows, (bags @ weights + noise * rng.standard_normal((n, weights.shape[1]))).astype(np.float32)

    statistics = LatentStatistics(weights.shape[1])
    statistics.add(draw("train")[1])
    rows, latents = draw(split)
    texts = [" ".join(f"w{token}" for token in row) for row in rows]
    held = {} if latent_dim is None else {
        "latent_dim": latent_dim, "latent_mean": tuple(statistics.mean.tolist()), "latent_std": tuple(statistics.std.tolist())
    }  # fmt: skip
    counts = {split: {"rows": n, "tokens": sum(map(len, rows)), "bytes": sum(map(len, texts))}}
    tokenizer = {"kind": "synthetic", "vocab_size": vocab, "eos_id": 0}
    manifest = Manifest(layout="packed", vocab_size=vocab, tokenizer=tokenizer, counts=counts, seed=seed, **held)  # type: ignore[arg-type]
    store = MemorySplit([f"{split}-{i}" for i in range(n)], texts, rows, None if latent_dim is None else latents)
    return PairedDataset(store, manifest, split)


def write_tiny(folder: Path, n: int, vocab: int, latent_dim: int, seed: int = 0) -> Path:
    """The texts of `tiny_dataset` under byte tokens, with its latents, as a packed folder below `folder`; an eighth is held out."""
    from lgdlm.data.prepare import prepare

    data = tiny_dataset(n, vocab, latent_dim, seed)
    make_folder(folder)
    lines = [json.dumps({"id": name, "text": text}) for name, text in zip(data.ids, data.texts, strict=True)]
    write_bytes(folder / "texts.jsonl", "".join(line + "\n" for line in lines).encode())
    latents = data.latents(np.arange(n))
    assert latents is not None, "tiny data have latents where they have a width"
    with write_aside(folder / "latents.npy") as file:
        np.save(file, latents[:, 0], allow_pickle=False)
    given: dict[str, Any] = {"latents": folder / "latents.npy", "projection": "identity", "latent_dim": None}
    return prepare("file", folder / "packed", path=folder / "texts.jsonl", tokenizer="byte", validation=n // 8, seed=seed, **given).folder


def _sentence(rng: np.random.Generator, vocab: int, longest: int) -> np.ndarray:
    """det adj* noun verb det noun, each part of speech a quarter of the vocabulary."""
    quarter = (vocab - 1) // 4

    def word(part: int) -> int:
        return 1 + part * quarter + int(rng.integers(quarter))

    adjectives = [word(1) for _ in range(int(rng.integers(longest - 4)))]
    return np.array([word(0), *adjectives, word(2), word(3), word(0), word(2)], np.int64)
