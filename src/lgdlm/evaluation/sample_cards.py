"""Samples as cards: what was given, what was drawn, what training holds nearest, and how close they are.

Words of a drawn text that also stand in its source are marked; the marking compares case-folded words and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lgdlm.evaluation.number_table import shown

WORD = re.compile(r"\w+")
TITLES = {
    "l2t": (
        "Latent to text",
        "A held-out text's latent is given, from masks alone a text is drawn. Words that also stand in the source are underlined.",
    ),
    "t2l": (
        "Text to latent",
        "A held-out text is given, its latent is read in one step. Rank: the text's own latent among all evaluated ones, by cosine.",
    ),
    "joint": ("Text and latent together", "Nothing is given. Nearest: the training text whose latent is closest to the one drawn."),
}
ROWS = {
    "l2t": (
        ("source_text", "source"),
        ("text", "drawn"),
        ("baseline_nearest", "nearest training text"),
        ("baseline_random", "random training text"),
    ),
    "t2l": (("text", "given"), ("nearest_text", "nearest to the latent read")),
    "joint": (("text", "drawn"), ("nearest_training_text", "nearest training text")),
}
COSINES = {
    "encoder": "cosine, encoder",
    "projected": "cosine, latent",
    "nearest_encoder": "nearest text's cosine, encoder",
    "nearest_projected": "nearest text's cosine, latent",
}


@dataclass
class Card:
    """`rows`: (name, pieces of text with whether they are marked); `measures`: (name, value)."""

    id: str
    rows: list[tuple[str, list[tuple[str, bool]]]] = field(default_factory=list)
    measures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Direction:
    name: str
    title: str
    note: str
    cards: list[Card]


def cards_of(samples: dict[str, list[dict[str, Any]]]) -> list[Direction]:
    """The directions that have samples, L2T first; nothing is picked: cards keep the order of the results."""
    return [Direction(name, *TITLES[name], [_card(name, sample) for sample in samples[name]]) for name in TITLES if samples.get(name)]


def _card(direction: str, sample: dict[str, Any]) -> Card:
    card = Card(str(sample.get("id", "")))
    source = {word.casefold() for word in WORD.findall(str(sample.get("source_text", "")))}
    for key, name in ROWS[direction]:
        if key in sample:
            text = str(sample[key])
            card.rows.append((name, pieces(text, source) if direction == "l2t" and key == "text" else [(text, False)]))
    for key, name in COSINES.items():
        if key in sample.get("cosines", {}):
            card.measures.append((name, shown(sample["cosines"][key])))
    for key, name in (("cosine", "cosine"), ("r2", "R2"), ("rank", "rank")):
        if key in sample:
            card.measures.append((name, f"{sample[key]:,}" if isinstance(sample[key], int) else shown(sample[key])))
    return card


def pieces(text: str, words: set[str]) -> list[tuple[str, bool]]:
    """`text` cut into pieces, True for a word that is among `words`; joined they are the text."""
    found: list[tuple[str, bool]] = []
    end = 0
    for match in WORD.finditer(text):
        found += [(text[end : match.start()], False), (match.group(), match.group().casefold() in words)]
        end = match.end()
    return [(piece, marked) for piece, marked in [*found, (text[end:], False)] if piece]
