"""The spaces in which texts are compared in meaning, and texts taken there.

encoder     E(text)              the external encoder's own space
projected   P(E(text))           the latent's space: what the model was conditioned on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lgdlm.evaluation.baselines import cosines

LEAST_AGREEMENT = 0.9  # mean cosine; bf16 against fp32, or another batch, stay above 0.999


class Encoder(Protocol):
    """The part of `lgdlm.data.encoder.Encoder` that evaluation needs."""

    dim: int

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class Projection(Protocol):
    """The part of `lgdlm.data.projection.Projection` that evaluation needs."""

    def __call__(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Vectors:
    """Texts by space: float32 [n, width]; `present` bool [n] is False for a blank text, which has none (its row is not read)."""

    spaces: dict[str, np.ndarray]
    present: np.ndarray


class Meaning:
    """An encoder, and the projection that leads to the latents; None where the latents are another's."""

    def __init__(self, encoder: Encoder, projection: Projection | None):
        self.encoder, self.projection = encoder, projection

    def of(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts in every space."""
        present = np.array([bool(text.strip()) for text in texts])
        vectors = np.full((len(texts), self.encoder.dim), np.nan, np.float32)
        if present.any():
            vectors[present] = self.encoder.encode([text for text, there in zip(texts, present, strict=True) if there])
        spaces = {"encoder": vectors}
        if self.projection is not None:
            projected = np.asarray(self.projection(vectors[present]), np.float32)
            spaces["projected"] = np.full((len(texts), projected.shape[1]), np.nan, np.float32)
            spaces["projected"][present] = projected
        return Vectors(spaces, present)


def meaning_for(encoder: Encoder, projection: Projection | None, texts: Sequence[str], latents: np.ndarray) -> tuple[Meaning, str | None]:
    """The spaces that these texts and their stored latents allow, and the reason where the latent's space is not one of them.

    It is one only if encoder and projection give the stored latents back: otherwise a cosine would compare strangers.
    """
    vectors = encoder.encode(texts)
    if projection is None and encoder.dim == latents.shape[1]:
        projection = _as_it_is
    if projection is None:
        return Meaning(encoder, None), f"no projection leads from the encoder's {encoder.dim} numbers to the latent's {latents.shape[1]}"
    projected = np.asarray(projection(vectors), np.float32)
    if projected.shape != latents.shape:
        return Meaning(encoder, None), f"the projection gives {projected.shape[1]} numbers, the latents have {latents.shape[1]}"
    agreement = float(cosines(projected, latents).mean())
    if agreement < LEAST_AGREEMENT:
        return Meaning(encoder, None), f"encoder and projection do not give the stored latents (mean cosine {agreement:.3f})"
    return Meaning(encoder, projection), None


def _as_it_is(x: np.ndarray) -> np.ndarray:
    return x
