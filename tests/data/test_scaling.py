"""The plan of a large run is what its formulas say, and the page shows what the script prints."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lgdlm.data.loader import Loader
from lgdlm.data.paired import open_dataset

ROOT = Path(__file__).parent.parent.parent


def script(name: str) -> ModuleType:
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def expected_time(interval: float, save: float, between: float) -> float:
    """Wall time over useful time of saves every `interval`, failures exponential: M / T (e^((T + C) / M) - 1)."""
    return between / interval * math.expm1((interval + save) / between)


@pytest.mark.parametrize("save", [1.0, 30.0, 600.0, 3600.0])
@pytest.mark.parametrize("between", [3600.0, 86400.0, 30 * 86400.0])
def test_daly_s_interval_wastes_the_least(save: float, between: float) -> None:
    scaling = script("scaling")
    if save >= between / 2:  # beyond the series
        return
    intervals = np.geomspace(save / 100, 10 * between, 20_000)
    best = min(expected_time(float(t), save, between) for t in intervals)
    assert expected_time(scaling.daly(save, between), save, between) < best * (1 + 1e-3)
    assert expected_time(scaling.daly(save, between), save, between) <= expected_time(scaling.young(save, between), save, between) * (
        1 + 1e-9
    )


def test_what_is_lost_is_what_the_exponential_loses_to_first_order() -> None:
    scaling = script("scaling")
    save, between = 20.0, 30 * 86400.0
    interval = scaling.daly(save, between)
    exact = expected_time(interval, save, between) - 1
    assert scaling.lost(save, interval, between, 0.0) == pytest.approx(exact, rel=0.02)


def test_the_page_shows_what_the_script_prints() -> None:
    scaling = script("scaling")
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "benchmarks/scale.json").read_text())
    assert scaling.into(page, scaling.table(scaling.Plan(), measured)) == page


def test_what_was_measured_is_ten_million_pairs_in_less_than_2_gb() -> None:
    """The system bounds the process while it is measured; this is about the figures that were kept."""
    measured = json.loads((ROOT / "benchmarks/scale.json").read_text())
    assert measured["pairs"] == 10_000_000
    assert measured["own_bytes"] < script("scale").LIMIT <= 2_000_000_000
    assert measured["samples_a_second"] > 0 < measured["open_seconds"]


def test_a_plan_is_proportional_to_what_it_plans() -> None:
    scaling = script("scaling")
    measured = json.loads((ROOT / "benchmarks/scale.json").read_text())

    def value(name: str, plan: object) -> float:
        (words,) = (value for what, value, _ in scaling.figures(plan, measured) if what == name)
        return float(words.split()[0].replace(",", ""))

    base, twice = scaling.Plan(), scaling.Plan(pairs=2_000_000_000, gpus=128)
    assert value("bytes on disk", twice) == pytest.approx(2 * value("bytes on disk", base), rel=0.01)
    assert value("hours between failures", twice) == pytest.approx(value("hours between failures", base) / 2, rel=0.01)
    assert value("days", twice) == pytest.approx(value("days", base), rel=0.02)


def test_the_synthetic_folder_is_a_sound_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = script("scale")
    monkeypatch.setattr(scale, "SHARD_ROWS", 250)
    scale.write(tmp_path / "data", 600)
    data = open_dataset(tmp_path / "data")
    assert len(data) == 600
    assert data.ids[599] == "id-00000599"
    assert data.texts[251] == "text 00000251 is as long as a definition in a dictionary is"
    assert {int(n) for n in data.lengths} == set(range(6, 33))
    assert Loader(data, batch_size=64).step(1).rows == 64


@pytest.mark.nightly
def test_the_benchmark_prints_its_table_and_its_constants(tmp_path: Path) -> None:
    words = ["count=4000", "small=1000", "steps=3", f"folder={tmp_path}", f"out={tmp_path / 'scale.json'}"]
    done = subprocess.run([sys.executable, ROOT / "benchmarks/scale.py", *words], capture_output=True, text=True, check=True)
    assert "samples a second" in done.stdout
    measured = json.loads((tmp_path / "scale.json").read_text())
    assert set(measured) == set(json.loads((ROOT / "benchmarks/scale.json").read_text()))
    assert measured["pairs"] == 4000
    assert not list(tmp_path.glob("lgdlm-scale-*"))
