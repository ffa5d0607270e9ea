"""The page of a run: one HTML file that needs nothing else, not even a network.

    RunRecord -> sections -> report.html.j2 (autoescaped) + report.css + report.js + one block of JSON

Its Content-Security-Policy allows exactly its own script and style, by their sha256; texts of models and users are only ever text.
Curves and intervals are drawn here, so that the page reads without its script and on paper.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from lgdlm.data.storage import make_folder, write_bytes
from lgdlm.evaluation.curves import FIRST, THROUGHPUT, charts_of
from lgdlm.evaluation.headline import facts_of, tiles_of
from lgdlm.evaluation.number_table import groups_of, shown
from lgdlm.evaluation.plot import Chart
from lgdlm.evaluation.run_record import RunRecord, read_run
from lgdlm.evaluation.sample_cards import cards_of
from lgdlm.evaluation.scatter import scatter_of

PAGE = "report.html"
SHOWN_FIRST = 6
PRINTED_STEPS = 9
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # no HTML parser accepts them


def write_report(run: Path, results: Path | None = None, out: Path | None = None) -> Path:
    """Write the page of run folder `run` and return its file.

    `results`: another results.json than the run's own. `out`: the file to write (default RUN/report.html). Raises InputError for a
    folder that holds no run or parts that cannot be read, StorageError where the disk refuses.
    """
    path = out or run / PAGE
    page = render(read_run(run, results))
    make_folder(path.parent)
    write_bytes(path, page.encode("utf-8", "replace"))  # a lone surrogate, which JSON can hold and UTF-8 cannot, becomes a question mark
    return path


def render(record: RunRecord) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    style, script = (_asset(name) for name in ("report.css", "report.js"))
    charts = charts_of(record.series)
    results = record.results or {}
    trajectory = results.get("trajectory", [])
    scatter = scatter_of(results["latent_map"]) if results.get("latent_map") else None
    live = {
        "charts": {chart.name: chart.readings() for chart in charts.values()},
        "map": scatter.texts if scatter else [],
        "trajectory": [[{key: step[key] for key in ("tokens", "masked", "clock")} for step in t["steps"]] for t in trajectory],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=shown, thousands="{:,}".format)
    page = environment.from_string(_asset("report.html.j2")).render(
        policy=policy(style, script),
        style=style,
        script=script,
        live=script_json(live),
        title=record.folder.resolve().name,
        record=record,
        results=record.results,
        facts=facts_of(record),
        tiles=tiles_of(results.get("numbers", [])),
        groups=groups_of(results.get("numbers", [])),
        first=_named(charts, FIRST),
        rest=[chart for name, chart in charts.items() if name not in (*FIRST, *THROUGHPUT)],
        throughput=_named(charts, THROUGHPUT[:1]) or _named(charts, THROUGHPUT),
        scatter=scatter,
        directions=cards_of(results.get("samples", {})),
        shown_first=SHOWN_FIRST,
        trajectory=[{**t, "steps": steps_of(t["steps"])} for t in trajectory],
    )
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", page)


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which nothing but this style and this script works, and nothing is fetched."""
    digests = {name: hashlib.sha256(text.encode()).digest() for name, text in (("style", style), ("script", script))}
    rules = [f"{name}-src 'sha256-{base64.b64encode(digest).decode()}'" for name, digest in digests.items()]
    return "; ".join(["default-src 'none'", *rules, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def script_json(value: Any) -> str:
    """Strict JSON that no HTML parser can mistake for markup: <, > and & stand as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def steps_of(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps of one trajectory as rows of tokens: {clock, revealed, total, printed, tokens: [{text, masked, fresh}]}."""
    rows = []
    before: list[bool] = []
    printed = {round(i * (len(steps) - 1) / (PRINTED_STEPS - 1)) for i in range(PRINTED_STEPS)}
    for i, step in enumerate(steps):
        masked = step["masked"]
        fresh = [was and not now for was, now in zip(before, masked, strict=True)] if before else [False] * len(masked)
        tokens = [{"text": t, "masked": m, "fresh": f} for t, m, f in zip(step["tokens"], masked, fresh, strict=True)]
        rows.append(
            {"clock": step["clock"], "revealed": masked.count(False), "total": len(masked), "printed": i in printed, "tokens": tokens}
        )
        before = masked
    return rows


def _named(charts: dict[str, Chart], names: tuple[str, ...]) -> list[Chart]:
    return [charts[name] for name in names if name in charts]


def _asset(name: str) -> str:
    return (resources.files("lgdlm.evaluation") / "page" / name).read_text(encoding="utf-8")
