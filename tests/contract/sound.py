"""A small world in which everything is right, written with numpy and json alone; damage is done to copies of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from folders import per_sample, read_list, write_list

DIM, LONGEST = 4, 48


@dataclass(frozen=True)
class World:
    """Per-sample data below `folder`: 12 samples of train, 4 of validation; stems are <split>_<index>."""

    folder: Path

    @property
    def latent_dir(self) -> Path:
        return self.folder / "latents 32d"

    @property
    def token_dir(self) -> Path:
        return self.folder / "tokens"

    @property
    def values(self) -> dict[str, Any]:
        """The adapter's placeholders of the data."""
        places = {"data": self.folder, "latent_dir": self.latent_dir, "token_dir": self.token_dir}
        return {**places, "latent_dim": DIM, "seq_len": LONGEST}

    def latent(self, i: int = 3, split: str = "train") -> Path:
        return self.latent_dir / f"latents/{split}/{split}_{i:03d}.npy"

    def tokens(self, i: int = 3, split: str = "train") -> Path:
        return self.token_dir / f"{split}/{split}_{i:03d}.npz"

    def listing(self, split: str = "train") -> Path:
        return self.latent_dir / f"{split}_data.json"

    def entries(self, split: str = "train") -> list[dict[str, Any]]:
        return read_list(self.latent_dir, split)

    def write(self, entries: list[dict[str, Any]], split: str = "train") -> None:
        write_list(self.latent_dir, split, entries)

    def edit(self, i: int = 3, split: str = "train", **values: object) -> None:
        """Change fields of one entry; `...` removes a field."""
        entries = self.entries(split)
        entries[i] = {key: value for key, value in {**entries[i], **values}.items() if value is not ...}
        self.write(entries, split)

    def rename(self, name: str, i: int = 3, folder: str = "", tokens: str = "") -> None:
        """Give a train sample the stem `name` (below `folder`), and its tokens the same or the name `tokens`."""
        latent = self.latent_dir / "latents/train" / folder / f"{name}.npy"
        latent.parent.mkdir(parents=True, exist_ok=True)
        self.latent(i).rename(latent)
        self.tokens(i).rename(self.token_dir / "train" / (tokens or f"{name}.npz"))
        self.edit(i, latent_path=latent.relative_to(self.latent_dir).as_posix())

    def rewrite(self, change: Callable[[str], str], split: str = "train") -> None:
        """Change the text of the list itself."""
        self.listing(split).write_text(change(json.dumps(self.entries(split))), encoding="utf-8", newline="")

    def recode(self, change: Callable[[bytes], bytes], split: str = "train") -> None:
        """Change the bytes of the list itself."""
        self.listing(split).write_bytes(change(json.dumps(self.entries(split), ensure_ascii=False).encode()))

    def copied(self, to: Path) -> World:
        shutil.copytree(self.folder, to)
        return World(to)


def sound_world(folder: Path) -> World:
    per_sample(folder, {"train": 12, "validation": 4}, DIM)
    return World(folder)


def raw_npy(header: str, data: bytes = bytes(16), version: tuple[int, int] = (1, 0), claimed: int | None = None) -> bytes:
    """A .npy file with any header: `claimed` is the length that it says it has."""
    text = header.encode("latin-1")
    width = 2 if version == (1, 0) else 4
    text += b" " * (-(len(text) + 9 + width) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + (len(text) if claimed is None else claimed).to_bytes(width, "little") + text + data


def npy_header(shape: object, descr: str = "'<f4'", fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def arrays(path: Path, **values: object) -> None:
    """An .npz file of these arrays."""
    np.savez(path, **{name: np.array(value) for name, value in values.items()})  # type: ignore[arg-type]
