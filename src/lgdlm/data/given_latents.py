"""Latents that the user brings: a float matrix whose rows are aligned with the texts, in one file or in blocks.

    latents.npy [n, E]        or        folder/{shard_0000.npy [m0, E], shard_0001.npy [m1, E], ...}
    row r of the whole = row r - (m0 + ... + m_{k-1}) of block k

Blocks are memory-mapped in the order of the numbers in their names; values are checked when they are read.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lgdlm.data.arrays import map_npy
from lgdlm.data.confinement import Confinement
from lgdlm.errors import InputError


class GivenLatents:
    """Rows of one `.npy` matrix or of a folder of blocks.

    `dim` is E, `len()` the number of rows over all blocks, `names` the files in order.
    """

    def __init__(self, path: str | Path):
        """Raises InputError: MISSING_FILE, NOT_A_FILE, BAD_NPY, BAD_DTYPE,
        LATENT_LAYOUT (no blocks, a vector a file, widths differ)."""
        self.path = Path(path)
        if not self.path.exists():
            raise InputError("MISSING_FILE", path, "latents", "does not exist")
        if self.path.is_dir():
            root, inside = self.path, Confinement(self.path)
            self.names = sorted((file.name for file in root.glob("*.npy")), key=_by_number)
            self.files = [inside.path(name, root / name, "latents") for name in self.names]
        elif self.path.is_file():  # named by the user: it may be a link; FIFOs and devices are no files
            root, self.names, self.files = self.path.parent, [self.path.name], [self.path]
        else:
            raise InputError("NOT_A_FILE", path, "latents", "is neither a regular file nor a folder")
        if not self.files:
            raise InputError("LATENT_LAYOUT", path, "latents", "the folder holds no .npy file")
        self._blocks = [_matrix(file, root / name) for file, name in zip(self.files, self.names, strict=True)]
        self.dim = self._blocks[0].shape[1]
        for name, block in zip(self.names, self._blocks, strict=True):
            if block.shape[1] != self.dim:
                message = f"width {block.shape[1]}, expected {self.dim} as in {self.names[0]}"
                raise InputError("LATENT_LAYOUT", root / name, "latents", message)
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row_of(self, name: str, index: int) -> int | None:
        """The row of the whole that is row `index` of block `name`, or None where there is none."""
        if name not in self.names or not 0 <= index < len(self._blocks[block := self.names.index(name)]):
            return None
        return int(self._starts[block]) + index

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Float32 [n, E] of the rows `indices` int [n], in that order.

        Raises InputError (NAN_LATENT) with the file and the row of the first value that is not finite (in float32).
        """
        indices = np.asarray(indices, dtype=np.int64)
        assert ((indices >= 0) & (indices < len(self))).all(), "row numbers come from the corpus that was read with these latents"
        blocks = np.searchsorted(self._starts, indices, side="right") - 1
        out = np.empty((len(indices), self.dim), dtype=np.float32)
        for block in np.unique(blocks):
            chosen = np.flatnonzero(blocks == block)
            local = indices[chosen] - self._starts[block]
            with np.errstate(over="ignore"):
                out[chosen] = self._blocks[block][local]
            bad = np.flatnonzero(~np.isfinite(out[chosen]).all(axis=1))
            if len(bad):
                place = f"{self.files[block]}#{local[bad[0]]}"
                message = f"{len(bad)} rows hold NaN or infinity, this one first; encode their texts again"
                raise InputError("NAN_LATENT", place, "latents", message)
        return out


def _matrix(file: Path, where: Path) -> np.ndarray:
    block = map_npy(file, where, "latents", kinds="f")
    if block.ndim == 3 and block.shape[1] == 1:
        block = block[:, 0]
    if block.ndim != 2 or not block.shape[1]:
        advice = "one vector a file belongs to the per-sample layout (latent_path)"
        message = f"expected a matrix [n, E], got shape {list(block.shape)}; {advice}"
        raise InputError("LATENT_LAYOUT", where, "latents", message)
    return block


def _by_number(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """block_2 before block_10: runs of digits compare as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part], name
