"""Vectors of the encoder, before projection: where they come from, and what is kept of them.

rows(indices) -> float32 [k, E]      from the encoder's cache, or from the user's own latents
validation_embeddings.safetensors    embeddings [n, E] of the held-out texts
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.paired import EMBEDDINGS
from lgdlm.data.projection import PROJECTIONS, Projection, fit_projection, load_projection
from lgdlm.data.storage import write_bytes
from lgdlm.errors import InputError

AUTO = "auto"
FIT_BYTES = 1 << 28  # of train vectors that the projection is fitted on, at most: of the texts of lowest rank, a seeded sample


class Vectors(Protocol):
    """Vectors of all texts by number: `dim` is E, `rows(indices) -> float32 [k, E]`."""

    @property
    def dim(self) -> int: ...
    def rows(self, indices: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class GivenRows:
    """The user's latents in another order: number i is their row `row[i]`."""

    given: GivenLatents
    row: np.ndarray

    @property
    def dim(self) -> int:
        return self.given.dim

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return self.given.rows(self.row[indices])


def kind_meant(kind: str | Path, given: GivenLatents | None, latent_dim: int | None) -> str | Path:
    """What `auto` stands for: the user's own latents at the width asked for stay as they are, all else goes through PCA.

    Raises InputError LATENT_DIM where fewer numbers were given than are asked for.
    """
    if given is not None and latent_dim is not None and latent_dim > given.dim and kind in (AUTO, *PROJECTIONS):
        message = f"latents of {given.dim} numbers were given, got {latent_dim}; add latent_dim=null to take them as they are"
        raise InputError("LATENT_DIM", given.path, "prepare.latent_dim", message)
    if kind != AUTO:
        return kind
    return "identity" if given is not None and latent_dim in (None, given.dim) else "pca"


def fit_on(vectors: Vectors, kind: str | Path, latent_dim: int | None, train: np.ndarray) -> Projection:
    """The projection to `latent_dim` (None: the vectors' own width), fitted on the train texts `train` alone.

    `kind` is a key of PROJECTIONS, or the folder of a saved projection, which is taken as it is: new texts for a trained model.
    Raises InputError LATENT_DIM where `identity` or a saved one would have to change its width, and what `fit_projection` raises.
    """
    if kind not in PROJECTIONS and Path(kind).is_dir():
        saved = load_projection(kind)
        if (saved.input_dim, saved.dim) != (vectors.dim, latent_dim or saved.dim):
            wanted = f"expected {vectors.dim} to {latent_dim or saved.dim}"
            message = f"leads from {saved.input_dim} numbers to {saved.dim}, {wanted}; set latent_dim={saved.dim}"
            raise InputError("LATENT_DIM", kind, "prepare.projection", message)
        return saved
    kind, dim = str(kind), vectors.dim if latent_dim is None else latent_dim
    if kind == "identity" and dim != vectors.dim:
        message = f"the encoder's vectors have {vectors.dim} numbers; set projection=pca or latent_dim={vectors.dim}"
        raise InputError("LATENT_DIM", "configuration", "prepare.latent_dim", message)
    return fit_projection(kind, vectors.rows(train[: FIT_BYTES // (4 * vectors.dim)]), dim)


def keep_embeddings(folder: Path, vectors: np.ndarray) -> None:
    """Write the held-out texts' vectors [n, E]: evaluation compares in the encoder's own space.

    float16, or float32 where a number is too large for that.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    write_bytes(folder / EMBEDDINGS, save({"embeddings": half if np.isfinite(half).all() else vectors}))
