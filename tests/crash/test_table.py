"""docs/reliability.md shows the figures of the last survey that was kept, and those are of every case there is."""

from __future__ import annotations

from crash.cases import CASES
from crash.survey import BEGIN, END, PAGE, Entry, read, table


def test_the_page_shows_the_kept_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(read()).strip()


def test_every_case_was_run_in_full_and_survived() -> None:
    entries = {entry.name: entry for entry in read()}
    assert list(entries) == list(CASES)
    for entry in entries.values():
        assert entry.not_run or entry.survived == entry.blows > 0
    assert entries["chain"].blows == entries["ranks"].blows == 50


def test_a_table_tells_what_was_not_survived_or_not_run() -> None:
    rows = table([Entry("a", "one", {"write": 3}, 3, 2), Entry("b", "two", not_run="no disk")]).splitlines()
    assert rows[2:] == ["| one | write 3 | 2 of 3 |", "| two |  | not run: no disk |", "| **all** | | **2 of 3** |"]
