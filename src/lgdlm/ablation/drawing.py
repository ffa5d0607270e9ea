"""Findings as pictures: differences in every judged column, curves of every run, two columns against each other.

Each is an SVG with its own ground and its own dark colours; the plots themselves are those of the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from lgdlm.ablation.cell import Cell
from lgdlm.ablation.matrix import Curve, Matrix, Pareto
from lgdlm.evaluation import plot
from lgdlm.evaluation.curves import COLOURS, QUANTITIES, smoothed, window_of
from lgdlm.evaluation.plot import Chart, Line, Scale, axis_svg, brief, interval_svg, scale_over

WIDTH, MARGIN, NAME_ROOM, ROW = 880, 28, 240, 26
DRAWN = WIDTH - 2 * MARGIN - NAME_ROOM
STYLE = """
.ground{fill:#fbfbfa;stroke:#dcdcd7}.grid,.chart .axis{stroke:#e2e2de}.axis{stroke:#b9b9b4;fill:none}text{fill:#62656b;font-size:12px}
.name,.title{fill:#1c1d1f;font-size:13px}.title{font-weight:600}.tick{font-size:10px}
.chart .tick{font-size:6px}.interval .tick{font-size:5.5px}
.whisker{stroke:currentColor;stroke-width:1.5;fill:none}circle.value{fill:currentColor}.seed{fill:none;stroke:currentColor;opacity:.55}
.chart path{fill:none;stroke:currentColor;stroke-width:.8}.chart path.raw{display:none}.front{fill:none;stroke:#b9b9b4;stroke-dasharray:4 3}
.key{fill:currentColor}.s0{color:#1f5fa8}.s1{color:#bd5a12}.s2{color:#2a7f58}.s3{color:#7d4fa6}.s4{color:#9a7b12}.s5{color:#a63d57}
svg{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-variant-numeric:tabular-nums}
@media (prefers-color-scheme:dark){.ground{fill:#181a1e;stroke:#34383e}.grid,.chart .axis{stroke:#2d3137}
.axis,.front{stroke:#5d6168}text{fill:#a0a4ab}
.name,.title{fill:#e6e6e3}.s0{color:#7db1ee}.s1{color:#ed9a5a}.s2{color:#69c299}.s3{color:#bd97e3}.s4{color:#d6b750}.s5{color:#e88aa1}}
"""


def figures_of(found: Mapping[str, Any], matrix: Matrix, cells: Sequence[Cell]) -> dict[str, str]:
    """Every picture of a matrix as SVG text, by name; what nothing was measured for is not drawn."""
    drawn = {"differences": differences(found)}
    drawn |= {f"{_word(curve.of)}-curves": curves(curve, found, cells) for curve in matrix.curves}
    drawn |= {f"{_word(asked.y)}-by-{_word(asked.x)}": pareto(asked, found) for asked in matrix.pareto}
    return {name: svg for name, svg in drawn.items() if svg}


def differences(found: Mapping[str, Any]) -> str:
    """A block a judged column: a row a variant with its mean difference, the interval, a ring for every seed, and a line at zero."""
    parts, y, stretch = [], float(MARGIN), DRAWN / plot.ROW_WIDTH
    for column in found["columns"]:
        rows = [row for row in found["rows"] if row["cells"].get(column["name"], {}).get("difference")]
        if not rows:
            continue
        pairs = {row["variant"]: _pairs(found, row, column["name"]) for row in rows}
        entries = [row["cells"][column["name"]]["difference"] for row in rows]
        ends = [v for entry in entries for v in (entry["low"], entry["high"]) if v is not None]
        scale = scale_over([0.0, *ends, *(v for values in pairs.values() for v in values)], 8, plot.ROW_WIDTH - 8)
        parts.append(_text(MARGIN, y + 4, "title", f"{_axis_title(column)}: difference by seed"))
        parts.append(_placed(axis_svg(scale), MARGIN + NAME_ROOM, y + 8, DRAWN, 16 * stretch))
        y += 8 + 16 * stretch
        zero = MARGIN + NAME_ROOM + scale(0.0) * stretch
        parts.append(f'<path class="axis" d="M{zero:.1f} {y:.1f}V{y + ROW * len(rows):.1f}"/>')
        for row, entry in zip(rows, entries, strict=True):
            dots = (f'<circle class="seed" cx="{scale(v):.1f}" cy="{plot.ROW_HEIGHT / 2}" r="2"/>' for v in pairs[row["variant"]])
            drawn = interval_svg(scale, entry["mean"], entry["low"], entry["high"], {}, f"{row['variant']}: {entry['mean']:.4g}")
            drawn = drawn.replace("</svg>", f"{''.join(dots)}</svg>")
            tall = plot.ROW_HEIGHT * stretch
            place = _placed(drawn, MARGIN + NAME_ROOM, y + (ROW - tall) / 2, DRAWN, tall)
            parts.append(f'<g class="s{_colour(found, row["variant"])}">{place}</g>')
            parts.append(_text(MARGIN, y + ROW / 2 + 4, "name", f"{row['variant']} - {row['against']}"))
            y += ROW
        y += 36
    return _page(parts, y, f"{found['matrix']}: paired differences over seeds with their intervals") if parts else ""


def _pairs(found: Mapping[str, Any], row: Mapping[str, Any], column: str) -> list[float]:
    """The differences of a row's runs to those of the same seed that it is compared with."""
    values = {(cell["variant"], cell["seed"]): cell["values"].get(column) for cell in found["cells"]}
    both = [(values[row["variant"], seed], values[row["against"], seed]) for seed in found["seeds"]]
    return [ours - theirs for ours, theirs in both if ours is not None and theirs is not None]


def curves(curve: Curve, found: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """One smoothed curve a run, coloured by variant; failed runs too, as far as they came."""
    lines = []
    for cell in cells:
        record = cell.run_record()
        if record is None or curve.of not in record.series:
            continue
        steps, values = record.series[curve.of]
        if curve.log10:
            steps, values = steps[values > 0], np.log10(values[values > 0])
        if len(values):
            smooth = smoothed(values, window_of(len(values)))
            lines.append(Line(cell.name, _colour(found, cell.variant.name), steps, smooth, smooth))
    if not lines:
        return ""
    title, unit = QUANTITIES.get(curve.of.rpartition("/")[2], (curve.of, ""))
    title = f"log10 of {title[0].lower()}{title[1:]}" if curve.log10 else title
    height = (WIDTH - 2 * MARGIN) * plot.HEIGHT / plot.WIDTH
    parts = [_text(MARGIN, MARGIN + 4, "title", f"{title}{f' ({unit})' if unit else ''}, by step")]
    chart = Chart(f"curve-{_word(curve.of)}", title, unit, lines)
    parts.append(_placed(chart.svg(), MARGIN, MARGIN + 16, WIDTH - 2 * MARGIN, height))
    y = MARGIN + 16 + height + 16
    for i, row in enumerate(found["rows"]):
        x, below = MARGIN + (i % 3) * (WIDTH - 2 * MARGIN) / 3, y + i // 3 * 20
        parts.append(f'<rect class="key s{_colour(found, row["variant"])}" x="{x:.1f}" y="{below - 8}" width="16" height="4" rx="2"/>')
        parts.append(_text(x + 24, below, "name", row["variant"]))
    return _page(parts, y + (len(found["rows"]) - 1) // 3 * 20 + 20, f"{found['matrix']}: {title}")


def pareto(asked: Pareto, found: Mapping[str, Any]) -> str:
    """The variants' means of two columns; a dashed line joins those that no other beats in both."""
    about = {column["name"]: column for column in found["columns"]}
    points = {
        row["variant"]: (row["cells"][asked.x]["mean"], row["cells"][asked.y]["mean"])
        for row in found["rows"]
        if asked.x in row["cells"] and asked.y in row["cells"]
    }
    if not points:
        return ""
    height = 420
    x = scale_over((p[0] for p in points.values()), MARGIN + 50, WIDTH - MARGIN - 120, margin=0.1)
    y = scale_over((p[1] for p in points.values()), height - 60, MARGIN + 24, margin=0.1)
    parts = [_text(MARGIN, MARGIN + 4, "title", _axis_title(about[asked.y]))]
    parts += [_text((x.start + x.end) / 2, height - 14, "title", _axis_title(about[asked.x]), "middle")]
    parts += _axes(x, y, height - 60)
    best = [points[name] for name in front(points, about[asked.x]["better"], about[asked.y]["better"])]
    if len(best) > 1:
        parts.append(f'<path class="front" d="M{"L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in best)}"/>')
    for name, (a, b) in points.items():
        parts.append(f'<circle class="key s{_colour(found, name)}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="5"/>')
        parts.append(_text(x(a) + 9, y(b) - 7, "name", name))
    return _page(parts, height, f"{found['matrix']}: {asked.y} against {asked.x}")


def front(points: Mapping[str, tuple[float, float]], better_x: str, better_y: str) -> list[str]:
    """Names of the points that no other point equals or beats in both and beats in one, from small x to large."""

    def costs(point: tuple[float, float]) -> tuple[float, float]:
        return tuple(-v if better == "higher" else v for v, better in zip(point, (better_x, better_y), strict=True))  # type: ignore[return-value]

    def beaten(name: str) -> bool:
        a, b = costs(points[name])
        others = (costs(point) for other, point in points.items() if other != name)
        return any(c <= a and d <= b and (c < a or d < b) for c, d in others)

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name][0])


def _axes(x: Scale, y: Scale, bottom: float) -> list[str]:
    parts = []
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(x.start - 8, y(tick) + 4, "tick", brief(tick), "end"))
    parts += [_text(x(tick), bottom + 18, "tick", brief(tick), "middle") for tick in x.ticks()]
    return [*parts, f'<path class="axis" d="M{x.start:.1f} {bottom}H{x.end:.1f}"/>']


def _axis_title(column: Mapping[str, Any]) -> str:
    direction = "" if column["better"] == "none" else f"{column['better']} is better"
    about = ", ".join(part for part in (column["unit"], direction) if part)
    return f"{column['label']}{f' ({about})' if about else ''}"


def _colour(found: Mapping[str, Any], variant: str) -> int:
    return [row["variant"] for row in found["rows"]].index(variant) % COLOURS


def _word(name: str) -> str:
    """A name as part of a file's name and of an id."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _placed(svg: str, x: float, y: float, width: float, height: float) -> str:
    """A drawing inside another: the outer one gives it a place and a size."""
    return svg.replace("<svg ", f'<svg x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" ', 1)


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(parts: Sequence[str], height: float, title: str) -> str:
    tall = math.ceil(height)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" height="{tall}" role="img">'
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{tall - 1}" rx="8"/>'
    return f"{head}<title>{escape(title)}</title><style>{STYLE}</style>{ground}{''.join(parts)}</svg>\n"
