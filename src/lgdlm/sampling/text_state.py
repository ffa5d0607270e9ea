"""The text inside a reverse process, between two questions: what is shown, what is asked, what an answer does to it.

    for each step t -> s:    plan -> the positions whose logits are needed;   question;   take the answer;   settle

One state for each text process: `Unmasking` reveals tokens one after another, `Rounding` moves rows of noise towards tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lgdlm.rng import Rng


class Answer(NamedTuple):
    """What a question brought, guided: logits float [M, V] at the asked positions; the clean latent [B, L, D], standardised, and the
    clean rows [B, N, E] of embedding diffusion, each None where it was not wanted."""

    logits: Tensor
    latent: Tensor | None
    embedding: Tensor | None = None


class TextState(ABC):
    """`tokens` int64 [B, N]: the text as it stands, to be shown to a callback; `estimate` int64 [B, N]: the whole text as drawn last."""

    tokens: Tensor
    estimate: Tensor

    @property
    @abstractmethod
    def shown(self) -> Tensor:
        """What a denoiser is shown: int64 [B, N], or rows float [B, N, E]."""

    @property
    def given_estimate(self) -> Tensor | None:
        """Clean rows float [B, N, E] as they were estimated before; None where the network wants none, or there are none yet."""
        return None

    @abstractmethod
    def plan(self, t: Tensor, s: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """For the step from t [B] to s: the positions whose logits are needed, bool [B, N], and the rows that must be asked, bool [B]."""

    @abstractmethod
    def take(self, answer: Answer, index: Tensor, wanted: Tensor, rng: Rng) -> None:
        """Move to s with the answer of the rows `index` int64 [b]; `wanted` bool [B, N] as planned, `rng` of those rows."""

    @abstractmethod
    def settle(self) -> None:
        """The end of the step, whether or not anything was asked."""

    @abstractmethod
    def finished(self) -> Tensor:
        """The text at the end of the paths, int64 [B, N]."""
