"""Which objective a step trains: one, a random one, or one phase after another.

at(step) is a pure function of (seed, step): every rank and every restart gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lgdlm.rng import Rng


class ObjectiveSchedule(Protocol):
    def at(self, step: int) -> str:
        """The name of the objective of `step`, counted from 1."""


@dataclass(frozen=True)
class Constant:
    name: str

    def at(self, step: int) -> str:
        return self.name


class Random:
    """Objectives drawn with the given shares, evenly: a Weyl sequence over the steps, so that any run of steps has its share.

    Raises ValueError when no weight is positive.
    """

    def __init__(self, weights: Mapping[str, float], seed: int):
        chosen = {name: float(weight) for name, weight in weights.items() if weight > 0}
        if not chosen or min(weights.values()) < 0:
            raise ValueError(f"mode_weights {dict(weights)}: expected shares of at least 0, one of them positive")
        self.names = list(chosen)
        self.edges = torch.tensor(list(chosen.values()), dtype=torch.float64).cumsum(0) / sum(chosen.values())
        self.seed = seed

    def at(self, step: int) -> str:
        u = Rng(self.seed, 0, torch.tensor([step])).stratified("objective")
        return self.names[min(int(torch.searchsorted(self.edges, u, right=True)), len(self.names) - 1)]


class Sequential:
    """Phases (name, last step) one after another; the last one goes on for ever."""

    def __init__(self, phases: Sequence[tuple[str, int]]):
        if not phases:
            raise ValueError("sequential_schedule is empty: expected [{type: l2t, steps: 1000}, ...]")
        self.phases = list(phases)

    def at(self, step: int) -> str:
        passed = 0
        for name, steps in self.phases:
            passed += steps
            if step <= passed:
                return name
        return self.phases[-1][0]
