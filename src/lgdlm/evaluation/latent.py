"""T2L: how much of the latent a text's prediction explains.

R2 = 1 - sum |s - s_hat|^2 / sum |s|^2,   s = (z - mean) / std     (standardised: around the training mean)
cosine(z, z_hat) in the latent's own units;   squared error of s a dimension
"""

from __future__ import annotations

import numpy as np

from lgdlm.evaluation.baselines import cosines
from lgdlm.evaluation.metric import mean_of


def error_statistics(found: np.ndarray, true: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, np.ndarray]:
    """Per-document statistics [n, 2] of `r2` and `mse` from raw latents float [n, D].

    `mean` and `std` [D] are those of the training latents. Raises ValueError when a prediction is not finite.
    """
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise ValueError(f"the predicted latent of document {row} is not finite")
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    truth = (true - mean) / std
    errors = np.square((found - mean) / std - truth)
    return {"r2": np.stack([errors.sum(axis=1), np.square(truth).sum(axis=1)], axis=1), "mse": mean_of(errors.mean(axis=1))}


def latent_statistics(found: np.ndarray, true: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, np.ndarray]:
    """Those of `error_statistics`, and of `cosine` in the latent's own units."""
    return {**error_statistics(found, true, mean, std), "cosine": mean_of(cosines(found, true))}
