"""Curves and scales: every logged quantity is drawn, nothing that matters is thinned away."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
from evaluation.run_world import a_run
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.evaluation.curves import charts_of, smoothed
from lgdlm.evaluation.plot import MOST_POINTS, scale_over, thinned
from lgdlm.evaluation.run_record import Series, read_run


def test_every_logged_quantity_is_drawn_once(tmp_path):
    record = read_run(a_run(tmp_path / "run"))
    charts = charts_of(record.series)
    assert sum(len(chart.lines) for chart in charts.values()) == len(record.series)
    assert [line.label for line in charts["nelbo"].lines] == ["l2t", "unconditional", "held-out given z"]
    assert [line.label for line in charts["latent_loss"].lines] == ["t2l", "held-out"]


@given(st.integers(1, 60), st.integers(1, 30))
def test_smoothing_keeps_constants_and_stays_among_the_values(count, window):
    values = np.random.default_rng(count).normal(size=count)
    found = smoothed(values, window)
    assert len(found) == count
    assert values.min() - 1e-9 <= found.min()
    assert found.max() <= values.max() + 1e-9
    assert np.allclose(smoothed(np.full(count, 3.5), window), 3.5)
    assert np.allclose(smoothed(values, 1), values)
    assert np.allclose(found[::-1], smoothed(values[::-1], window)), "it has no direction, so no lag"


@given(st.integers(0, 2**32), st.integers(1, MOST_POINTS * 5))
def test_thinning_keeps_ends_and_extremes(seed, count):
    array = np.random.default_rng(seed).standard_cauchy(count)
    steps, kept = thinned(np.arange(len(array)), array)
    assert len(steps) <= MOST_POINTS + 2
    assert (steps[0], steps[-1]) == (0, len(array) - 1)
    assert (kept.min(), kept.max()) == (array.min(), array.max())
    assert (array[steps] == kept).all()


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_a_scale_holds_its_values_and_its_ticks(values):
    scale = scale_over(values, 10, 200)
    assert all(10 - 1e-6 <= scale(value) <= 200 + 1e-6 for value in values)
    assert all(10 - 1e-6 <= scale(tick) <= 200 + 1e-6 for tick in scale.ticks())
    assert 2 <= len(scale.ticks()) <= 7


def test_a_chart_of_one_step_is_drawn():
    (chart,) = charts_of({"loss": Series(np.array([1]), np.array([2.0]))}).values()
    assert "nan" not in chart.svg()
    ElementTree.fromstring(chart.svg())
