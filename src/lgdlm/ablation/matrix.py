"""A matrix: named variants of one configuration, what its table shows, and which variant the others are compared with.

    question: Which fusion of two directions is best at equal parameters?
    config: demo                                      the shipped configuration that every run starts from
    set: {model: rwkv7}                               of every run
    scales: {small: {minutes: 3, set: {...}}}         on top of the shipped scale of that name
    reference: concat
    variants:
      concat: {set: {model.fusion: concat}}
      gated: {set: {model.fusion: gated}, against: concat}
    columns: [nelbo_given_latent, {log: grad_norm, over: max, better: lower}]
    curves: [{of: loss, log10: false}]
    pareto: [{x: flops, y: nelbo_unconditional}]
    equal_parameters: 0.005                           largest relative difference of the variants' sizes

A later line wins: set < scale < the matrix's own scale < variant < words of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lgdlm.ablation.column import Column


@dataclass(frozen=True)
class Scale:
    """How much every run does; `minutes` is what a run takes on two cores, for the plan."""

    minutes: float
    set: dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """`against` is the variant that this one is compared with; of the reference, itself."""

    name: str
    set: dict[str, Any]
    against: str


@dataclass(frozen=True)
class Curve:
    """A logged series to draw for every run, or its logarithm."""

    of: str
    log10: bool


@dataclass(frozen=True)
class Pareto:
    """Two columns to draw against each other, by their names."""

    x: str
    y: str


@dataclass(frozen=True)
class Matrix:
    """What a matrix file says, checked."""

    name: str
    question: str
    config: str
    set: dict[str, Any]
    scales: dict[str, Scale]
    reference: str
    variants: tuple[Variant, ...]
    columns: tuple[Column, ...]
    curves: tuple[Curve, ...]
    pareto: tuple[Pareto, ...]
    equal_parameters: float | None

    def keys_of(self, scale: str, variant: Variant) -> dict[str, Any]:
        """Every key that a run of `variant` sets, the last setting of each."""
        return {**self.set, **self.scales[scale].set, **variant.set}

    def varied(self) -> frozenset[str]:
        """The keys in which variants differ."""
        return frozenset(key for variant in self.variants for key in variant.set)
