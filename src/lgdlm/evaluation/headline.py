"""The head of a page: what was trained, on what, and its first numbers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lgdlm
from lgdlm.evaluation.number_table import DIRECTIONS, shown
from lgdlm.evaluation.run_record import RunRecord

TILES = ("nelbo_given_latent", "nelbo_latent_gain", "t2l_r2_one_step", "l2t_cosine_encoder", "l2t_r1_projected", "joint_cosine_projected")
SIZES = {"train": "training texts", "validation": "held out", "evaluated": "evaluated"}


def headline_numbers(numbers: Sequence[dict[str, Any]], names: Sequence[str] = TILES) -> list[dict[str, Any]]:
    """The entries of `names` that were measured, in that order."""
    by_name = {entry["name"]: entry for entry in numbers}
    return [by_name[name] for name in names if name in by_name]


def strongest(entry: dict[str, Any]) -> tuple[str, float] | None:
    """The baseline that is best in the metric's own direction."""
    pick = max if entry["better"] == "higher" else min
    return pick(entry["baselines"].items(), key=lambda item: item[1], default=None)


def tiles_of(numbers: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The first numbers, each with its interval and its strongest baseline, as text."""
    tiles = []
    for entry in headline_numbers(numbers):
        best = strongest(entry)
        interval = "" if entry["low"] is None else f"95 % interval {shown(entry['low'])} to {shown(entry['high'])}"
        beside = f"strongest baseline: {best[0]} {shown(best[1])}" if best else ""
        facts = {"label": entry["label"], "unit": entry["unit"], "value": shown(entry["value"]), "arrow": DIRECTIONS[entry["better"]]}
        tiles.append({**facts, "better": entry["better"], "interval": interval, "baseline": beside})
    return tiles


def facts_of(record: RunRecord) -> list[tuple[str, str]]:
    """(name, value) of what is known about the run; what is not known is not listed."""
    results = record.results or {}
    model, data = results.get("model", {}), results.get("data", {})
    steps = max((int(series.steps[-1]) for series in record.series.values()), default=None)
    sizes = [f"{data[key]:,} {word}" for key, word in SIZES.items() if key in data]
    seeds = {"training": record.setting("training.seed"), "evaluation": results.get("seed")}
    encoder = data.get("encoder")
    found = {
        "Denoiser": model.get("denoiser") or record.setting("model.denoiser"),
        "Parameters": model.get("parameters"),
        "Objective": _objective(record),
        "Data": ", ".join(sizes) or record.setting("data.latent_dir"),
        "Encoder": (encoder.get("name") or encoder.get("family")) if isinstance(encoder, dict) else None,
        "Training": _training(record, steps),
        "Evaluated at step": model.get("step"),
        "Seed": ", ".join(f"{seed} ({word})" for word, seed in seeds.items() if seed is not None),
        "Peak memory": _memory(model.get("peak_memory_bytes")),
        "Code": ", ".join(part for part in (f"lgdlm {lgdlm.__version__}", commit()) if part),
    }
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in found.items() if value not in (None, "")]


def _objective(record: RunRecord) -> str | None:
    kind = record.setting("loss.loss_type")
    weights = record.setting("training.mode_weights")
    if kind == "random" and isinstance(weights, dict):
        return "random over " + ", ".join(f"{mode} {weight}" for mode, weight in weights.items() if weight)
    return kind


def _training(record: RunRecord, steps: int | None) -> str:
    parts = [f"{steps:,} steps" if steps is not None else "", duration(record.seconds) if record.seconds is not None else ""]
    parts.append(f"{record.skipped:,} skipped" if record.skipped else "")
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Seconds as h, min and s, the two largest."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _memory(size: Any) -> str | None:
    return f"{size / 2**30:.2f} GiB" if isinstance(size, int | float) else None


def commit() -> str:
    """The commit of the installed source when the page is written, empty where the source is in no repository."""
    source = Path(lgdlm.__file__)

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(source.parent), *words], capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", source.name):  # a virtual environment inside somebody else's repository
            return ""
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", ".") else ""
        return f"commit {git('rev-parse', '--short=10', 'HEAD')}{changed}"
    except (OSError, subprocess.TimeoutExpired):
        return ""
