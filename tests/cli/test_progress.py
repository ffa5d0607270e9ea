"""What long work shows: lines where nobody watches a terminal, nothing under --quiet, never a word on stdout."""

from __future__ import annotations

import pytest

from lgdlm.cli import progress as module
from lgdlm.cli.progress import progress, say


@pytest.fixture(autouse=True)
def _loud(monkeypatch):
    monkeypatch.setattr(module, "_silent", False)


@pytest.mark.parametrize("total", [10, None])
def test_the_last_line_tells_the_whole_work(capsys, total):
    with progress(total, "embedding") as bar:
        for _ in range(5):
            bar.advance(2, rate=812.34567, kind="minilm")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("embedding: 10/10" if total else "embedding: 10  ")
    assert "rate 812.3  kind minilm" in said.err
    assert said.err.count("\n") == 1


def test_lines_come_now_and_then_and_tell_what_is_left(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress(6, "work") as bar:
        for _ in range(6):
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["work: 2/6", "work: 4/6", "work: 6/6"], "the last one once"
    assert "24 s left" in lines[0]


def test_quiet_is_quiet(capsys):
    module.silence()
    say("a word")
    with progress(3, "work") as bar:
        bar.advance(3, loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with progress(4, "work") as bar:
        bar.advance(4, loss=1.25, note="[not markup]")
    said = capsys.readouterr()
    assert said.out == ""
    assert "4/4" in said.err
    assert "loss 1.25" in said.err
    assert "[not markup]" in said.err
