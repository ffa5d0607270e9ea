"""All cases one after another, and the table of what was survived.

survey(cases) -> [Entry, ...]  ->  reliability.json  ->  the table of docs/reliability.md
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crash.cases import CASES, Finding
from crash.life import Server
from crash.places import NotPermitted
from crash.trial import Ground

ROOT = Path(__file__).parents[2]
FIGURES, PAGE = ROOT / "docs/reliability.json", ROOT / "docs/reliability.md"
BEGIN, END = "<!-- what was survived: made by `make reliability` -->\n", "<!-- the end of it -->"


@dataclass
class Entry:
    """A case: where its blows fell, how many, and how many were survived. `not_run` says why none fell."""

    name: str
    title: str
    where: dict[str, int] = field(default_factory=dict)
    blows: int = 0
    survived: int = 0
    not_run: str = ""
    failures: list[str] = field(default_factory=list)


def findings_of(ground: Ground, name: str, amount: int | None, seed: int) -> Iterator[Finding]:
    """Of one case; where it cannot go on, that is a finding too."""
    try:
        yield from CASES[name][1](ground, amount, seed)
    except NotPermitted:
        raise
    except Exception as failure:
        yield Finding("", name, repr(failure))


def survey(names: list[str], small: bool, seed: int) -> Iterator[Entry]:
    """Run the cases, each in full or in its small version."""
    with Server() as server, tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
        ground = Ground(server, Path(folder))
        for name in names:
            title, _, amount = CASES[name]
            entry = Entry(name, title)
            try:
                found = list(findings_of(ground, name, amount if small else None, seed))
            except NotPermitted as reason:
                entry.not_run = str(reason)
            else:
                entry.where = dict(sorted(Counter(finding.where for finding in found).items()))
                entry.failures = [finding.failure for finding in found if finding.failure]
                entry.blows, entry.survived = len(found), len(found) - len(entry.failures)
            yield entry


def table(entries: list[Entry]) -> str:
    """Markdown: a row a case."""
    rows = ["| what happened | where | survived |", "|---|---|---|"]
    for entry in entries:
        where = ", ".join(f"{name} {count}" for name, count in entry.where.items())
        rows.append(
            f"| {entry.title} | {where} | {f'not run: {entry.not_run}' if entry.not_run else f'{entry.survived} of {entry.blows}'} |"
        )
    blows, lived = sum(entry.blows for entry in entries), sum(entry.survived for entry in entries)
    rows.append(f"| **all** | | **{lived} of {blows}** |")
    return "\n".join(rows) + "\n"


def read() -> list[Entry]:
    """The entries of the last survey that was kept."""
    return [Entry(**values) for values in json.loads(FIGURES.read_text(encoding="utf-8"))["cases"]]


def keep(entries: list[Entry], seed: int) -> None:
    """Write the figures, and the table into the page."""
    FIGURES.write_text(json.dumps({"seed": seed, "cases": [asdict(entry) for entry in entries]}, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, behind = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(entries)}\n{END}{behind}", encoding="utf-8")


def main(words: list[str]) -> int:
    """`python -m crash [--small] [--keep] [CASE ...]`: print the table; with --keep also write it. 1 where something was not survived."""
    flags = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in flags] or list(CASES)
    entries = []
    for entry in survey(names, "--small" in flags, seed=0):
        entries.append(entry)
        print(f"{entry.title}: {entry.not_run or f'{entry.survived} of {entry.blows}'}", file=sys.stderr, flush=True)
        for failure in entry.failures:
            print(f"  {failure}", file=sys.stderr, flush=True)
    print(table(entries))
    if "--keep" in flags:
        keep(entries, seed=0)
    return int(any(entry.failures for entry in entries))
