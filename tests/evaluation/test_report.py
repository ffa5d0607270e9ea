"""The page: complete, whole HTML, closed to the network, and texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluation.run_world import HOSTILE, STEPS, a_run, some_results, write_results
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.config import Config, Evaluation
from lgdlm.errors import CheckpointError, InputError
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.number_table import shown
from lgdlm.evaluation.report import script_json, steps_of, write_report
from lgdlm.evaluation.run_record import read_run
from lgdlm.evaluation.sample_cards import pieces

VOID = {"meta", "link", "input", "br", "col"}


class Page(HTMLParser):
    """Elements with their attributes and texts; fails on an end tag that does not close the open element."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag}: an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("script", "style"))

    def inside(self, tag: str) -> list[str]:
        return [data for where, data in self.texts if where == tag]


@pytest.fixture
def run(tmp_path):
    return a_run(tmp_path / "outputs" / "a run")


def page_of(run: Path, text: str | None = "a small cat") -> tuple[str, Page]:
    if text is not None:
        write_results(run, text)
    html = write_report(run).read_bytes().decode("utf-8")
    return html, Page(html)


def test_the_page_shows_what_the_run_holds(run):
    _, page = page_of(run)
    text = page.text()
    for expected in (
        "transformer",
        "1,234,567",
        "90 training texts",
        "1 h 2 min",
        "30 steps",
        "1 skipped",
        "7 (training), 42 (evaluation)",
    ):
        assert expected in text
    for entry in some_results().numbers:
        assert entry["label"] in text
        assert all(name in text for name in entry["baselines"])
        for value in (entry["value"], entry["low"], entry["high"], *entry["baselines"].values()):
            assert shown(value) in text
    assert text.count("better") >= len(some_results().numbers), "every number says which direction is better"
    assert "held-out given z" in text
    assert "a small cat 7" in text, "every sample is on the page"


def test_a_number_that_others_are_compared_with_has_no_better_direction(run):
    results = some_results()
    statistics = mean_of(np.random.default_rng(0).uniform(1, 2, 4))
    results.add("nelbo_shuffled_latent", statistics, Bootstrap(4, 50), {"unigram": statistics})
    (run / "results.json").write_text(json.dumps(results.to_dict()))
    html, page = page_of(run, None)
    assert "none is better" not in html
    rows = html.split("<tr")
    shuffled = next(row for row in rows if "given another text" in row)
    assert "is better" not in shuffled
    assert "lower is better" in next(row for row in rows if "(length included) given z" in row)
    assert page.text().count("NELBO (length included) given another text's z") == 1


def test_modes_that_are_never_drawn_are_not_named(run):
    weights = "training: {mode_weights: {l2t: 0.7, t2l: 0.3, cycle_vae: 0.0}}\nloss: {loss_type: random}\n"
    (run / "config.yaml").write_text(weights)
    _, page = page_of(run)
    assert "random over l2t 0.7, t2l 0.3" in page.text()
    assert "cycle_vae 0" not in page.text().partition("Configuration")[0]


def test_a_dot_is_read_by_a_tap(run):
    html, _ = page_of(run)
    assert html.count('"pointerdown", "pointermove"') == 2, "curves and map"


def test_the_page_is_closed_to_the_network(run):
    html, page = page_of(run)
    assert not re.search(r"(?i)(https?:|ftp:|wss?:)?//[a-z0-9-]+\.[a-z]", html)
    assert not re.search(r"(?i)url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", html)
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form", "audio", "video")
        assert "src" not in attributes
        assert "style" not in attributes, "the policy refuses inline styles"
        assert not any(name.startswith("on") for name in attributes), "the policy refuses inline handlers"
        assert attributes.get("href", "#").startswith("#") or (tag, attributes["href"]) == ("link", "data:,")


def test_the_policy_names_exactly_the_page_s_script_and_style(run):
    html, page = page_of(run)
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    for kind, found in (("script", scripts), ("style", re.findall(r"<style>(.*?)</style>", html, re.S))):
        (body,) = found
        assert rules[f"{kind}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"


def test_hostile_text_stays_text(run):
    _, calm = page_of(run)
    html, page = page_of(run, HOSTILE)
    assert [tag for tag, _ in page.elements if tag != "mark"] == [tag for tag, _ in calm.elements if tag != "mark"]
    assert "</script><img src=x onerror=alert(1)>" in page.text()
    assert "{{ 7*7 }}" in page.text(), "a text is never a template"
    assert "\x00" not in html
    live = json.loads("".join(data for data in page.inside("script") if data.startswith('{"charts"')))
    assert live["map"][0][1] == HOSTILE, "the map's texts arrive as they were"


@given(st.text())
def test_json_in_the_page_cannot_end_its_element(text):
    written = script_json({"text": text})
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"text": text}


def test_names_are_unique_and_links_arrive(run):
    _, page = page_of(run)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.elements if tag == "a"} <= set(ids)
    for tag, attributes in page.elements:
        if tag in ("input", "svg") and attributes.get("aria-hidden") != "true":
            assert "aria-label" in attributes or attributes.get("id") in ("raw", "find"), "named by itself or by its label"


def test_a_run_without_results_has_its_curves(run):
    html, page = page_of(run, None)
    assert "Not evaluated yet" in page.text()
    assert 'data-chart="q-nelbo"' in html
    assert "No trajectory was recorded" in page.text()


def test_results_without_a_log_are_shown(run):
    (run / "training_log.jsonl").unlink()
    (run / "config.yaml").unlink()
    _, page = page_of(run)
    assert "There is no training log" in page.text()
    assert "no config.yaml" in page.text()


def test_missing_parts_say_so(run):
    results = some_results()
    results.samples, results.trajectory, results.latent_map, results.numbers, results.not_run = {}, [], None, [], []
    results.write(run / "results.json")
    text = page_of(run, None)[1].text()
    for expected in ("hold no numbers", "No map was drawn", "There are no samples", "No trajectory", "Everything asked for was measured"):
        assert expected in text


def test_a_line_still_being_written_is_left_out_and_told(run):
    with (run / "training_log.jsonl").open("a") as log:
        log.write('{"step": 31, "lo')
    assert read_run(run).logged == STEPS
    assert "still being written" in page_of(run, None)[1].text()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("training_log.jsonl", b'{"step": 1, "loss": NaN}\n', "BAD_JSON"),
        ("training_log.jsonl", b'{"loss": 1}\n', "BAD_LOG"),
        ("training_log.jsonl", b"\xff\n", "UTF8"),
        ("results.json", b"[1]", "BAD_RESULTS"),
        ("results.json", b'{"schema": 99}', "BAD_RESULTS"),
        ("results.json", json.dumps({**some_results().to_dict(), "numbers": [{"name": "x"}]}).encode(), "BAD_RESULTS"),
        ("results.json", b'{"schema"', "BAD_JSON"),
        ("config.yaml", b"a: [", "BAD_CONFIG"),
    ],
)
def test_an_unreadable_part_is_named(run, name, content, code):
    (run / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        write_report(run)
    assert caught.value.code == code
    assert name in caught.value.where
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="run folder"):
        write_report(tmp_path)


def test_the_command_writes_the_page(run, capsys):
    from lgdlm.cli.report import run as command

    (run / "step_00000030" / "manifest.json").write_text("{}")
    for given_folder in (run, run / "step_00000030"):
        (run / "report.html").unlink(missing_ok=True)
        assert command(Config(evaluation=Evaluation(checkpoint=str(given_folder)))) == 0
        assert Path(capsys.readouterr().out.strip()).samefile(run / "report.html")
    elsewhere = run.parent / "elsewhere"
    some_results().write(elsewhere / "results.json")
    command(Config(evaluation=Evaluation(checkpoint=str(run), out=str(elsewhere))))
    assert "Latent to text" in (elsewhere / "report.html").read_text(encoding="utf-8")
    (run / "latest").write_text("step_00000030")
    (run / "report.html").unlink()
    assert command(Config(evaluation=Evaluation(checkpoint=str(run / "latest")))) == 0
    assert (run / "report.html").is_file()
    with pytest.raises(InputError):
        command(Config())
    with pytest.raises(CheckpointError, match="no such folder"):
        command(Config(evaluation=Evaluation(checkpoint=str(run.parent / "nowhere"))))


@given(st.text(), st.sets(st.text()))
def test_marking_words_changes_no_text(text, words):
    assert "".join(piece for piece, _ in pieces(text, words)) == text


def test_a_token_is_fresh_at_the_step_that_reveals_it():
    rows = steps_of(some_results().trajectory[0]["steps"])
    assert [[t["fresh"] for t in row["tokens"]] for row in rows] == [[False, False], [True, False], [False, True]]
    assert [row["revealed"] for row in rows] == [0, 1, 2]
    assert rows[0]["printed"]
    assert rows[-1]["printed"]
