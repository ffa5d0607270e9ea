"""Plots as SVG text: a scale maps numbers to places, marks are drawn in classes that the page's style sheet colours.

    place = low_place + (value - low) / (high - low) * (high_place - low_place)

No colours and no inline styles stand here, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 448, 10, 222
MOST_POINTS = 600
ROW_WIDTH, ROW_HEIGHT, LETTER_ROOM = 280, 30, 9


@dataclass(frozen=True)
class Scale:
    """From numbers [low, high] to places [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers 1, 2 or 5 times a power of ten apart, inside the scale."""
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_over(values: Iterable[float], start: float, end: float, margin: float = 0.05) -> Scale:
    """A scale that holds all `values` with a margin; around a single value it is as wide as that value."""
    found = list(values)
    low, high = min(found), max(found)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-180):
        half = abs(low) / 2 if abs(low) > 1e-190 else 0.5
        return Scale(low - half, high + half, start, end)
    room = (high - low) * margin
    return Scale(low - room, high + room, start, end)


def brief(value: float) -> str:
    """A tick's number: at most four significant digits, thousands as k, millions as M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Line:
    """A curve: `steps` and `raw` as logged, `smooth` through them; `points` marks single measurements (no raw cloud behind them)."""

    label: str
    colour: int
    steps: np.ndarray
    raw: np.ndarray
    smooth: np.ndarray
    points: bool = False


@dataclass(frozen=True)
class Chart:
    """A titled plot of curves over steps."""

    name: str
    title: str
    unit: str
    lines: Sequence[Line]
    scale: Scale = field(init=False)
    steps: Scale = field(init=False)
    beyond: int = field(init=False)

    def __post_init__(self) -> None:
        assert self.lines, "a chart without curves is not drawn"
        raw = np.concatenate([line.raw for line in self.lines])
        typical = np.quantile(raw, [0.005, 0.995])  # single steps far outside would flatten everything else
        values = np.concatenate([typical, *(line.smooth for line in self.lines)])
        first, last = min(line.steps[0] for line in self.lines), max(line.steps[-1] for line in self.lines)
        scale = scale_over(values.tolist(), BOTTOM, TOP)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "steps", Scale(float(first), float(max(last, first + 1)), LEFT, RIGHT))
        object.__setattr__(self, "beyond", int(((raw < scale.low) | (raw > scale.high)).sum()))

    def svg(self) -> str:
        x, y = self.steps, self.scale
        parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.describe())}">']
        parts.append(
            f'<clipPath id="clip-{self.name}"><rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT + 4}" height="{BOTTOM - TOP}"/></clipPath>'
        )
        for tick in y.ticks():
            place = f"{y(tick):.1f}"
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{place}" y2="{place}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{place}" dy="0.32em" text-anchor="end">{brief(tick)}</text>')
        for tick in x.ticks():
            if tick == round(tick):
                parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{BOTTOM + 16}" text-anchor="middle">{brief(tick)}</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/><g clip-path="url(#clip-{self.name})">')
        for line in self.lines:
            if not line.points:
                cloud = _path(*thinned(line.steps, line.raw), x, y)
                parts.append(f'<path class="raw s{line.colour}" data-series="{escape(line.label)}" d="{cloud}"/>')
        for line in self.lines:
            curve = _path(*(thinned(line.steps, line.smooth)), x, y)
            parts.append(
                f'<g class="s{line.colour}{" points" if line.points else ""}" data-series="{escape(line.label)}"><path d="{curve}"/>'
            )
            if line.points:
                parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.6"/>' for s, v in zip(line.steps, line.smooth, strict=True)]
            parts.append("</g>")
        parts.append("</g></svg>")
        return "".join(parts)

    def describe(self) -> str:
        ends = (f"{line.label} from {line.smooth[0]:.4g} to {line.smooth[-1]:.4g}" for line in self.lines)
        return f"{self.title} over {int(self.steps.high):,} steps: " + "; ".join(ends)

    def readings(self) -> dict[str, object]:
        """What the page's pointer reads: curves thinned to what a screen can tell apart."""
        series = []
        for line in self.lines:
            steps, values = thinned(line.steps, line.smooth)
            series.append(
                {"label": line.label, "colour": line.colour, "steps": steps.tolist(), "values": [float(f"{v:.5g}") for v in values]}
            )
        return {"low": self.steps.low, "high": self.steps.high, "left": LEFT / WIDTH, "right": RIGHT / WIDTH, "series": series}


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about MOST_POINTS points that keep the smallest and largest value of every stretch, so that no spike vanishes."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), MOST_POINTS // 2):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    index = np.array(sorted(kept))
    return steps[index], values[index]


def _path(steps: np.ndarray, values: np.ndarray, x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in zip(steps.tolist(), values.tolist(), strict=True))


def interval_svg(scale: Scale, value: float, low: float | None, high: float | None, baselines: Mapping[str, float], label: str) -> str:
    """One number on its row: a dot with its interval, baselines as ticks lettered in their order."""
    middle = ROW_HEIGHT / 2
    parts = [f'<svg class="interval" viewBox="0 0 {ROW_WIDTH} {ROW_HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<line class="grid" x1="{scale.start}" x2="{scale.end}" y1="{middle}" y2="{middle}"/>')
    letters = {name: chr(ord("a") + i) for i, name in enumerate(baselines)}
    place = -math.inf
    for name, found in sorted(baselines.items(), key=lambda item: item[1]):
        x = scale(found)
        place = max(x, place + LETTER_ROOM)  # letters of neighbours step aside; their ticks do not
        parts.append(f'<line class="baseline" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 5}" y2="{middle + 5}"/>')
        parts.append(f'<text class="letter" x="{place:.1f}" y="{ROW_HEIGHT - 1}" text-anchor="middle">{letters[name]}</text>')
    if low is not None and high is not None:
        left, right = scale(low), scale(high)
        ends = f"M{left:.1f} {middle - 4}V{middle + 4}M{left:.1f} {middle}H{right:.1f}M{right:.1f} {middle - 4}V{middle + 4}"
        parts.append(f'<path class="whisker" d="{ends}"/>')
    parts.append(f'<circle class="value" cx="{scale(value):.1f}" cy="{middle}" r="3.2"/></svg>')
    return "".join(parts)


def axis_svg(scale: Scale) -> str:
    """The scale above a block of rows."""
    parts = [f'<svg class="interval" viewBox="0 0 {ROW_WIDTH} 16" aria-hidden="true">']
    parts += [f'<text class="tick" x="{scale(tick):.1f}" y="12" text-anchor="middle">{brief(tick)}</text>' for tick in scale.ticks(4)]
    return "".join(parts) + "</svg>"
