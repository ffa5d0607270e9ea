"""The figure: whole XML, its texts and numbers in it, no token over another."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from evaluation.run_world import HOSTILE, a_run, some_results, write_results
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.errors import InputError
from lgdlm.evaluation.number_table import shown
from lgdlm.evaluation.summary_figure import COLUMN, ROOM, layout, summary_figure


@pytest.fixture
def run(tmp_path):
    return a_run(tmp_path / "run")


@pytest.mark.parametrize("text", ["a small cat", HOSTILE])
def test_the_figure_is_whole_xml_and_says_its_numbers(run, text):
    write_results(run, text)
    path = summary_figure(run, run / "figure.svg")
    root = ElementTree.fromstring(path.read_bytes())
    said = "".join(root.itertext())
    assert root.tag.endswith("svg")
    assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "image", "img", "foreignObject")]
    assert text[:20] in said
    for name in ("nelbo_given_latent", "t2l_r2_one_step"):
        assert shown(some_results().number(name)["value"]) in said


@given(st.lists(st.text(st.sampled_from("ab \u4e00"), max_size=9), min_size=1, max_size=60))
def test_tokens_of_the_figure_never_overlap_or_leave_it(tokens):
    places, lines, scale = layout(tokens)
    assert len(places) == len(tokens)
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    for (column, line, width), (after, line_after, _) in zip(places, places[1:], strict=False):
        assert line_after > line or after == column + width
    assert all((column + width) * COLUMN * scale <= ROOM + 1e-6 for column, _, width in places)
    assert max(line for _, line, _ in places) == lines - 1


def test_a_figure_needs_a_trajectory_and_a_name(run):
    with pytest.raises(InputError, match="svg"):
        summary_figure(run, run / "figure.png")
    with pytest.raises(InputError, match="none to draw"):
        summary_figure(run, run / "figure.svg")
