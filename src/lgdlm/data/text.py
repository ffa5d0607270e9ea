"""One text of a corpus, what no text may be, and the honest counts of a corpus.

read = kept + sum of dropped,   every dropped text under the reason why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TEXT_BYTES = 1 << 23  # 8 MiB of UTF-8: a book is shorter, a file without line ends is longer


@dataclass(frozen=True)
class Text:
    """One text with its name.

    id      unique within its corpus
    text    exactly as the source has it (never stripped, never normalised)
    kind    what it is: "definition", "example", "sentence", "summary", "verse", "chapter", or "text" for users' files
    row     its number in the source, from 0, before anything was dropped: the row of its given latent
    split   "train" or "validation" where the source prescribes it, else None
    meta    small facts for reports, such as the lemmas of a definition or the title of a summary
    """

    id: str
    text: str
    kind: str = "text"
    row: int = 0
    split: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Counts:
    """How many texts a source held, how many were kept, and why the others were not."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, number: int = 1) -> None:
        """Count `number` texts as read and dropped for `reason`."""
        self.read += number
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    def keep(self) -> None:
        """Count one text as read and kept."""
        self.read += 1
        self.kept += 1

    def to_dict(self) -> dict[str, object]:
        """For the manifest: {"read", "kept", "dropped": {reason: number}}."""
        return {"read": self.read, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}


@dataclass(frozen=True)
class Dropped:
    """A text that a reader found and does not hand on, and why."""

    reason: str


def flaw(text: str) -> tuple[str, str] | None:
    """(code, what is wrong) of a string that is no usable text; None where nothing is."""
    if not text.strip():
        return "EMPTY_TEXT", "expected a text, got nothing or white space; leave it out"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "BAD_TEXT", "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; repair it"
    if size > TEXT_BYTES:
        return "TEXT_SIZE", f"has {size} bytes, a text has at most {TEXT_BYTES}; split it"
    if "\0" in text:
        return "BAD_TEXT", f"holds the character U+0000 at {text.index(chr(0))}, which ends texts and is in none; repair it"
    return None
