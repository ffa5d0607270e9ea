"""Small data folders for tests, written with plain numpy and json: an independent description of the layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.paired import PairedDataset, open_dataset

WORDS = ["the", "a", "cat", "dog", "runs", "sleeps", "big", "small", "red", "blue", "house", "tree"]
VOCAB = 256


def sentences(count: int, seed: int = 0) -> list[str]:
    """`count` different sentences of two to eight words."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(WORDS, rng.integers(2, 9)))] = None
    return list(found)


def per_sample(folder: Path, splits: dict[str, int] | None = None, dim: int = 4, seed: int = 0) -> tuple[Path, Path]:
    """The per-sample layout with byte tokens; returns (latent_dir, token_dir). Stems are <split>_<index>."""
    splits = splits or {"train": 12, "validation": 4}
    texts = iter(sentences(sum(splits.values()), seed))
    rng = np.random.default_rng(seed)
    latent_dir, token_dir = folder / "latents 32d", folder / "tokens"
    for split, count in splits.items():
        entries = []
        for i in range(count):
            stem, text = f"{split}_{i:03d}", next(texts)
            entries.append({"text": text, "latent_path": f"latents/{split}/{stem}.npy"})
            write_latent(latent_dir / entries[-1]["latent_path"], rng.standard_normal(dim).astype(np.float32))
            write_tokens(token_dir / split / f"{stem}.npz", list(text.encode()))
        write_list(latent_dir, split, entries)
    return latent_dir, token_dir


def write_latent(path: Path, latent: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, latent)


def write_tokens(path: Path, ids: list[int], padding: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = [1] * len(ids) + [0] * padding
    np.savez(path, input_ids=np.array(ids + [0] * padding), attention_mask=np.array(mask))


def write_list(latent_dir: Path, split: str, entries: list[dict[str, Any]]) -> None:
    (latent_dir / f"{split}_data.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")


def read_list(latent_dir: Path, split: str) -> list[dict[str, Any]]:
    return json.loads((latent_dir / f"{split}_data.json").read_text(encoding="utf-8"))


def stem(folders: tuple[Path, Path], i: int = 3) -> Path:
    """The latent of train sample `i`."""
    return folders[0] / f"latents/train/train_{i:03d}.npy"


def tokens_of(folders: tuple[Path, Path], i: int = 3) -> Path:
    """The tokens of train sample `i`."""
    return folders[1] / f"train/train_{i:03d}.npz"


def opened(folders: tuple[Path, Path], split: str = "train", **options: Any) -> PairedDataset:
    """`per_sample` folders, opened."""
    return open_dataset(folders[0], split, token_dir=folders[1], **{"vocab_size": VOCAB, **options})
