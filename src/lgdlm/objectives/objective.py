"""What an objective is: a clean batch in, a loss and its metrics out.

    total(step) = sum over the step's batches of report.total

so that accumulation over batches and ranks equals one large batch exactly: every term is divided by the totals of the
whole global batch, never by the batch at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng


@dataclass(frozen=True)
class Totals:
    """Real tokens and rows of the whole global batch, over all ranks and micro-batches."""

    tokens: int
    rows: int


@dataclass(frozen=True)
class Ratio:
    """A metric that is still being summed: numerator over denominator. Only floats: a string cannot reach an average."""

    top: float
    bottom: float

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.top + other.top, self.bottom + other.bottom)


@dataclass(frozen=True)
class LossReport:
    """`total` is differentiable and already divided by the totals; `parts` are the metrics as ratios."""

    total: Tensor
    parts: dict[str, Ratio] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        return mean_of(self.parts)


def mean_of(parts: dict[str, Ratio]) -> dict[str, float]:
    """The means; a metric of which nothing was seen (no masked token, say) is left out rather than invented."""
    return {name: part.top / part.bottom for name, part in parts.items() if part.bottom > 0}


def add_parts(into: dict[str, Ratio], parts: dict[str, Ratio]) -> None:
    """Sum `parts` into `into`, in place."""
    for name, part in parts.items():
        into[name] = into[name] + part if name in into else part


class Objective(Protocol):
    def __call__(self, model: TextLatentDiffusion, batch: Batch, rng: Rng, totals: Totals) -> LossReport: ...
