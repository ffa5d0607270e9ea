"""One text of a corpus and the honest counts of a corpus.

read = kept + sum of dropped,   every dropped text under the reason why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
