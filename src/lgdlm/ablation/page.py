"""The findings as a page of Markdown: the question, how it was asked, the table, one sentence a row, the plots.

A table's cell is the mean over seeds; below it, except for the variant that a row is compared with, the mean of the paired
differences with its interval, bold where the interval excludes zero.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgdlm.ablation.findings import comparisons_of
from lgdlm.ablation.student import LEVEL
from lgdlm.ablation.verdict import BETTER, NOT_COMPARED, WORSE
from lgdlm.data.storage import make_folder, write_bytes
from lgdlm.errors import InputError
from lgdlm.evaluation.headline import duration
from lgdlm.evaluation.plot import brief

LARGE = 100_000  # from here on numbers are shown as k or M, and their interval is in the JSON
SIGNS = {"lower": "lower is better", "higher": "higher is better", "none": ""}


def write_page(found: Mapping[str, Any], figures: Mapping[str, str], path: Path) -> list[Path]:
    """Write the Markdown file `path` and beside it one SVG a figure (`<stem>-<name>.svg`); returns the files."""
    if path.suffix != ".md":
        raise InputError("CONFIG", path, "ablation.docs", "expected a name that ends in .md")
    make_folder(path.parent)
    drawn = {name: path.with_name(f"{path.stem}-{name}.svg") for name in figures}
    for name, file in drawn.items():
        write_bytes(file, figures[name].encode())
    write_bytes(path, page_of(found, [file.name for file in drawn.values()]).encode())
    return [path, *drawn.values()]


def page_of(found: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The page's Markdown; `figures` are file names beside it."""
    parts = [f"# {found['matrix'].replace('_', ' ').capitalize()}", found["question"], how(found), table_of(found), note(found)]
    parts.append("\n".join(f"- {row['sentence']}" for row in found["rows"]))
    failed = [f"- {cell['variant']}, seed {cell['seed']}: {cell['reason']}" for cell in found["cells"] if cell["reason"]]
    if failed:
        parts.append("Failed runs:\n\n" + "\n".join(failed))
    parts += [f"![{found['matrix']}: {name}]({name})" for name in figures]
    return "\n\n".join(parts) + "\n"


def how(found: Mapping[str, Any]) -> str:
    """One paragraph: the command, the scale, what was trained and evaluated on."""
    data, seconds = found["data"], [cell["seconds"] for cell in found["cells"] if cell["state"] == "finished"]
    words = [f"matrix={found['matrix']}", f"scale={found['scale']}", f"seeds={found['seeds']}".replace(" ", ""), *found["words"]]
    made = f"Made by `lgdlm ablate {' '.join(shlex.quote(word) for word in words)}`"
    code = f" (lgdlm {found['lgdlm']}{', ' if found['commit'] else ''}{found['commit']})"
    each = f"{len(seconds)} of {len(found['cells'])} runs finished, {duration(sum(seconds) / len(seconds))} each with its evaluation"
    texts = f"{data['train']:,} training texts, {data['evaluated']:,} held-out texts, the same for every run"
    return f"{made}{code}: {each}; {texts}; seeds {', '.join(map(str, found['seeds']))}."


def table_of(found: Mapping[str, Any]) -> str:
    """The Markdown table: a row a variant, a column a number."""
    head = ["variant", "finished", *(heading(column) for column in found["columns"])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in found["rows"]:
        cells = [cell_of(row["cells"].get(column["name"])) for column in found["columns"]]
        lines.append("| " + " | ".join([f"`{row['variant']}`", f"{row['finished']}/{row['runs']}", *cells]) + " |")
    return "\n".join(lines)


def heading(column: Mapping[str, Any]) -> str:
    """A column's label with its unit and direction."""
    about = ", ".join(part for part in (column["unit"], SIGNS[column["better"]]) if part)
    return f"{column['label']}{f' ({about})' if about else ''}".replace("|", "\\|")


def cell_of(entry: Mapping[str, Any] | None) -> str:
    """One cell of the table; a dash where nothing was measured."""
    if entry is None:
        return "-"
    parts = [spread(entry)]
    if (difference := entry["difference"]) is not None:
        text = spread(difference, "+")
        parts.append(f"**{text}**" if entry["verdict"] in (BETTER, WORSE) else text)
    return "<br>".join(parts)


def spread(found: Mapping[str, Any], sign: str = "-") -> str:
    """A mean with its interval, to two digits of the interval's half width; `sign` `+` shows it on both sides of zero."""
    mean, low, high = found["mean"], found["low"], found["high"]
    if low is None or low == high or abs(mean) >= LARGE:
        return f"{'+' if sign == '+' and mean > 0 else ''}{brief(mean)}"
    digits = max(0, 1 - math.floor(math.log10((high - low) / 2)))
    return f"{mean:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def note(found: Mapping[str, Any]) -> str:
    """How the table is read, and how many of its verdicts chance alone would bring."""
    made = [verdict for verdict in comparisons_of(found) if verdict != NOT_COMPARED]
    shown = sum(verdict in (BETTER, WORSE) for verdict in made)
    pairs = {row["variant"]: row["against"] for row in found["rows"] if row["variant"] != row["against"]}
    several = len(set(pairs.values())) > 1
    against = "the variant named in its sentence below" if several else f"`{found['reference']}`"
    chance = (1 - LEVEL) * len(made)
    return (
        f"Each cell: the mean over seeds with its {100 * LEVEL:.0f} % t interval; below it the paired difference by seed to {against},"
        f" bold where its interval excludes 0. Of {len(made)} comparisons {shown} do; by chance alone about {chance:.1f} would."
    )
