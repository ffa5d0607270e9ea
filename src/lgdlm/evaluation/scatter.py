"""The latent map as a drawing: equal scales on both axes, so that distances mean the same in every direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lgdlm.evaluation.plot import Scale

WIDTH, MARGIN, LEAST_HEIGHT, MOST_HEIGHT = 1000, 16, 360, 600
KINDS = {
    "validation": "held-out latents",
    "t2l": "drawn from a text (T2L)",
    "l2t": "texts written from latents (L2T), encoded again",
    "joint": "drawn together with a text",
}


@dataclass(frozen=True)
class Scatter:
    """`svg` holds one circle a point, in the order of `texts`: (kind's number, text)."""

    svg: str
    kinds: list[tuple[int, str, int]]  # number, label, how many points
    texts: list[tuple[int, str]]
    caption: str


def scatter_of(found: dict[str, Any]) -> Scatter:
    """The drawing of `results["latent_map"]`."""
    points = found["points"]
    names = list(dict.fromkeys(point["kind"] for point in points))
    xs, ys = [point["x"] for point in points], [point["y"] for point in points]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    height = min(MOST_HEIGHT, max(LEAST_HEIGHT, (WIDTH - 2 * MARGIN) * high / wide + 2 * MARGIN))
    unit = min((WIDTH - 2 * MARGIN) / wide, (height - 2 * MARGIN) / high)
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    x = Scale(middle_x, middle_x + 1, WIDTH / 2, WIDTH / 2 + unit)
    y = Scale(middle_y, middle_y + 1, height / 2, height / 2 - unit)
    number = {name: i for i, name in enumerate(names)}
    circles = [f'<circle class="k{number[p["kind"]]}" cx="{x(p["x"]):.1f}" cy="{y(p["y"]):.1f}" r="3"/>' for p in points]
    counts = [sum(point["kind"] == name for point in points) for name in names]
    kinds = [(number[name], KINDS.get(name, name), count) for name, count in zip(names, counts, strict=True)]
    shares = " and ".join(f"{100 * share:.1f} %" for share in found.get("explained", []))
    caption = f"The two directions of largest variance of the held-out latents ({shares} of it)." if shares else ""
    svg = f'<svg class="map" viewBox="0 0 {WIDTH} {height:.0f}" aria-hidden="true">{"".join(circles)}</svg>'
    return Scatter(svg, kinds, [(number[p["kind"]], p["text"]) for p in points], caption)
