"""A map of the latents: the two directions of largest variance of held-out latents, and what the model drew, on it.

x = (z - mean) V[:, :2],   V from the singular value decomposition of the held-out latents
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def latent_map(latents: np.ndarray, texts: Sequence[str], drawn: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> dict[str, Any]:
    """{"method", "explained", "points"}: held-out latents [n, D] as kind `validation`, and `drawn` latents with texts by their kind.

    Signs are fixed (the largest component of a direction is positive), so that a repeated evaluation draws the same picture.
    Raises ValueError for fewer than three latents or dimensions.
    """
    if min(latents.shape) < 2 or len(latents) < 3:
        raise ValueError(f"a plane needs three points of two dimensions, got {latents.shape[0]} of {latents.shape[1]}")
    mean = latents.mean(axis=0, dtype=np.float64)
    _, values, directions = np.linalg.svd(latents - mean, full_matrices=False)
    plane = directions[:2] * np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)])[:, None]
    points = []
    for kind, (vectors, words) in {"validation": (latents, texts), **drawn}.items():
        for (x, y), text in zip((vectors - mean) @ plane.T, words, strict=True):
            points.append({"x": round(float(x), 5), "y": round(float(y), 5), "kind": kind, "text": text})
    shares = np.square(values[:2]) / np.square(values).sum()
    return {"method": "pca", "explained": [float(share) for share in shares], "points": points}
