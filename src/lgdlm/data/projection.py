"""From an encoder's vectors to latents: a linear projection that is fitted once, saved, and reused at inference.

    pca          z = (x - m) C^T      C: the D leading eigenvectors of the covariance, unit rows, not whitened
    matryoshka   z = x[:D] / |x[:D]|  for encoders trained so that a prefix is an embedding
    identity     z = x

`explained_variance` is the share of the variance of the fitted x that lies in the D directions kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.confinement import Confinement
from lgdlm.data.storage import make_folder, write_bytes, write_json
from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

ROWS = 16384  # of x that are held in float64 at a time
FILE, IDENTITY_FILE = "projection.safetensors", "projection.json"


@dataclass(frozen=True)
class Projection:
    """A fitted projection from width E = `input_dim` to width D = `dim`.

    `mean` float64 [E] and `components` float64 [D, E] belong to `pca` and are None elsewhere.
    """

    kind: str
    input_dim: int
    dim: int
    explained_variance: float
    mean: np.ndarray | None = None
    components: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Float32 [n, E] to float32 [n, D]; each row on its own.

        Raises InputError: LATENT_DIM (x has another width), NAN_LATENT (not finite, or a prefix of length zero).
        """
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            message = f"expected vectors of width {self.input_dim}, got shape {list(x.shape)}; use the encoder it was fitted with"
            raise InputError("LATENT_DIM", "projection", self.kind, message)
        out = np.empty((len(x), self.dim), np.float32)
        for start in range(0, len(x), ROWS):
            block = np.asarray(x[start : start + ROWS], np.float64)
            out[start : start + ROWS] = PROJECTIONS[self.kind].apply(self, block)
        _check_finite(out, self.kind)
        return out

    def identity(self) -> dict[str, Any]:
        """JSON-able {"kind", "input_dim", "dim", "explained_variance", "sha256"}."""
        facts = {"kind": self.kind, "input_dim": self.input_dim, "dim": self.dim, "explained_variance": self.explained_variance}
        return {**facts, "sha256": self._sha256()}

    def save(self, folder: str | Path) -> None:
        """Write projection.safetensors (empty unless pca), then projection.json."""
        from safetensors.numpy import save

        folder = make_folder(Path(folder))
        write_bytes(folder / FILE, save(self._tensors()))
        write_json(folder / IDENTITY_FILE, self.identity())

    def _tensors(self) -> dict[str, np.ndarray]:
        if self.mean is None or self.components is None:
            return {}
        return {"mean": self.mean, "components": np.ascontiguousarray(self.components)}

    def _sha256(self) -> str:
        digest = hashlib.sha256(f"{self.kind} {self.input_dim} {self.dim}".encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.astype("<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Kind:
    """How a kind of projection is fitted to moments and applied to float64 rows."""

    fit: Callable[[np.ndarray, np.ndarray, int, int], Projection]
    """(mean [E], covariance [E, E], rows, D)"""
    apply: Callable[[Projection, np.ndarray], np.ndarray]


def fit_projection(kind: str, x: np.ndarray, dim: int) -> Projection:
    """Fit on the train vectors `x` [n, E] (any float dtype, a memory map is fine) in float64.

    Raises InputError: UNKNOWN_VALUE (no such kind), LATENT_DIM (D above E, or identity with D other than E, or pca with
    fewer than D + 1 different texts), NAN_LATENT.
    """
    if kind not in PROJECTIONS:
        raise InputError("UNKNOWN_VALUE", "projection", "projection", f"'{kind}' is not one of {', '.join(PROJECTIONS)}")
    assert x.ndim == 2, "vectors are rows"
    assert len(x), "fitted on at least one vector"
    if not 1 <= dim <= x.shape[1]:
        message = f"expected 1 to {x.shape[1]} dimensions (the encoder's), got {dim}; lower it or choose a wider encoder"
        raise InputError("LATENT_DIM", "projection", "latent_dim", message)
    mean, covariance = _moments(x, kind)
    return PROJECTIONS[kind].fit(mean, covariance, len(x), dim)


def load_projection(folder: str | Path) -> Projection:
    """Read what `save` wrote. Raises InputError: MISSING_FILE, NOT_A_FILE, BAD_PROJECTION (damaged, or not its hash)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    inside, path = Confinement(folder), Path(folder) / IDENTITY_FILE
    with inside.open(IDENTITY_FILE, path, "projection") as file, inside.open(FILE, Path(folder) / FILE, "projection") as tensors:
        data, packed = file.read(), tensors.read()
    try:
        facts, arrays = parse(data), load(packed)
        share, mean, components = float(facts["explained_variance"]), arrays.get("mean"), arrays.get("components")
        projection = Projection(str(facts["kind"]), int(facts["input_dim"]), int(facts["dim"]), share, mean, components)
        sound = projection.kind in PROJECTIONS and projection.identity() == facts
    except (ValueError, TypeError, KeyError, OverflowError, SafetensorError) as error:
        raise InputError("BAD_PROJECTION", path, "file", f"cannot be read ({error!r:.100}); run prepare again") from None
    if not sound:
        raise InputError("BAD_PROJECTION", path, "sha256", "does not belong to the tensors beside it; run prepare again")
    return projection


def _moments(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean [E] and covariance [E, E] in float64, in two passes over blocks of rows."""
    blocks = [slice(start, start + ROWS) for start in range(0, len(x), ROWS)]
    mean = np.zeros(x.shape[1])
    for rows in blocks:
        block = np.asarray(x[rows], np.float64)
        _check_finite(block, kind, rows.start)
        mean += block.sum(axis=0) / len(x)
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for rows in blocks:
        centred = np.asarray(x[rows], np.float64) - mean
        covariance += centred.T @ centred / len(x)
    return mean, covariance


def _fit_pca(mean: np.ndarray, covariance: np.ndarray, rows: int, dim: int) -> Projection:
    values, vectors = np.linalg.eigh(covariance)
    values, components = values[::-1].clip(min=0), vectors[:, ::-1].T[:dim]
    if values[dim - 1] <= values[0] * len(values) * np.finfo(np.float64).eps:
        message = f"{rows} texts span fewer than {dim} directions; give at least {dim + 1} different texts or lower latent_dim"
        raise InputError("LATENT_DIM", "projection", "latent_dim", message)
    largest = np.abs(components).argmax(axis=1)  # an eigenvector's sign is arbitrary: its largest entry is made positive
    components = components * np.sign(components[np.arange(dim), largest])[:, None]
    return Projection("pca", len(mean), dim, float(values[:dim].sum() / values.sum()), mean, components)


def _fit_prefix(kind: str, mean: np.ndarray, covariance: np.ndarray, dim: int) -> Projection:
    variance = covariance.diagonal()
    share = float(variance[:dim].sum() / variance.sum()) if variance.sum() else 1.0
    return Projection(kind, len(mean), dim, share)


def _fit_identity(mean: np.ndarray, covariance: np.ndarray, rows: int, dim: int) -> Projection:
    if dim != len(mean):
        message = f"projection=identity keeps the encoder's {len(mean)} dimensions, got {dim}; use pca or matryoshka"
        raise InputError("LATENT_DIM", "projection", "latent_dim", message)
    return _fit_prefix("identity", mean, covariance, dim)


def _onto_components(projection: Projection, x: np.ndarray) -> np.ndarray:
    assert projection.mean is not None, "pca has a mean"
    assert projection.components is not None, "pca has components"
    return (x - projection.mean) @ projection.components.T


def _prefix_of_unit_length(projection: Projection, x: np.ndarray) -> np.ndarray:
    prefix = x[:, : projection.dim]
    with np.errstate(invalid="ignore"):  # 0 / 0 is found by the check that follows
        return prefix / np.linalg.norm(prefix, axis=1, keepdims=True)


def _check_finite(x: np.ndarray, kind: str, start: int = 0) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        message = f"{len(bad)} vectors are not finite, this one first; encode their texts again"
        raise InputError("NAN_LATENT", f"#{start + bad[0]}", kind, message)


PROJECTIONS: dict[str, Kind] = {
    "pca": Kind(_fit_pca, _onto_components),
    "matryoshka": Kind(lambda mean, covariance, rows, dim: _fit_prefix("matryoshka", mean, covariance, dim), _prefix_of_unit_length),
    "identity": Kind(_fit_identity, lambda p, x: x),
}
