"""The measured numbers, laid out: groups of the results, inside them blocks of one unit that share a scale.

    group (likelihood, t2l, ...) > block (nats/token) > row (label, value, interval, baselines, drawing)

Rows are in the order of the results; nothing is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lgdlm.evaluation.plot import ROW_WIDTH, Scale, axis_svg, interval_svg, scale_over

GROUPS = {
    "likelihood": "How well it predicts held-out text",
    "embedding": "How near its estimates are to tokens",
    "t2l": "Latents read from text (T2L)",
    "stage2": "The latent it learned itself (Stage II)",
    "l2t": "Texts written from latents (L2T)",
    "cycle": "There and back",
    "joint": "Text and latent drawn together",
    "judge": "Under another language model",
    "retention": "Kept of the pretrained language model",
}
DIRECTIONS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "none": ""}
MARGIN = 12


def shown(value: float) -> str:
    """A number as read: three digits behind the point below 10, fewer above; thousands grouped."""
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Row:
    entry: dict[str, Any]
    drawing: str

    @property
    def arrow(self) -> str:
        return DIRECTIONS[self.entry["better"]]


@dataclass(frozen=True)
class Block:
    unit: str
    axis: str
    rows: list[Row]


@dataclass(frozen=True)
class Group:
    name: str
    title: str
    blocks: list[Block]


def groups_of(numbers: list[dict[str, Any]]) -> list[Group]:
    """Every number once, in the order of the results."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in numbers:
        groups.setdefault(entry["group"], {}).setdefault(entry["unit"], []).append(entry)
    return [
        Group(name, GROUPS.get(name, name), [_block(unit, entries) for unit, entries in blocks.items()]) for name, blocks in groups.items()
    ]


def _block(unit: str, entries: list[dict[str, Any]]) -> Block:
    places = [v for e in entries for v in (e["value"], e["low"], e["high"], *e["baselines"].values()) if v is not None]
    scale = scale_over(places, MARGIN, ROW_WIDTH - MARGIN)
    return Block(unit, axis_svg(scale), [Row(entry, _drawing(entry, scale)) for entry in entries])


def _drawing(entry: dict[str, Any], scale: Scale) -> str:
    interval = "" if entry["low"] is None else f", interval {shown(entry['low'])} to {shown(entry['high'])}"
    beside = "".join(f"; {name} {shown(value)}" for name, value in entry["baselines"].items())
    label = f"{entry['label']}: {shown(entry['value'])}{interval}{beside}"
    return interval_svg(scale, entry["value"], entry["low"], entry["high"], entry["baselines"], label)
