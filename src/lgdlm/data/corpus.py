"""A corpus: a stream of different texts with names, and the counts of everything that was dropped and why.

    read = kept + sum of dropped

Iterating reads the source again from its beginning: nothing is held but the digests that find duplicates. A text that
occurs again is dropped and counted; what is wrong in a user's file ends the pass with an error that lists every problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgdlm.data import bible, wikipedia, wordnet
from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.packaged import files_sha256, package_version
from lgdlm.data.problems import refuse
from lgdlm.data.text import Counts, Dropped, Text
from lgdlm.data.user_files import UserFiles
from lgdlm.errors import InputError

Rows = Iterator[Text | Dropped | InputError]


@dataclass(frozen=True)
class Source:
    """A packaged corpus: its kinds of text (the first `default` of them unless asked), and the notice its licence asks for."""

    requirement: str
    kinds: tuple[str, ...]
    default: int
    languages: tuple[str, ...]
    files: Callable[[str], list[Path]]
    read: Callable[[Sequence[str], str], Iterator[Text | Dropped]]
    licence: str


SOURCES: dict[str, Source] = {
    "wordnet": Source(
        wordnet.REQUIREMENT,
        wordnet.KINDS,
        2,
        ("en-us",),
        lambda language: wordnet.wordnet_files(),
        lambda kinds, language: wordnet.read_wordnet(kinds),
        "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Free under the WordNet licence.",
    ),
    "wiki": Source(
        wikipedia.REQUIREMENT,
        wikipedia.KINDS,
        1,
        wikipedia.LANGUAGES,
        wikipedia.wikipedia_files,
        wikipedia.read_wikipedia,
        "Wikipedia summaries by the authors of Wikipedia, CC BY-SA 4.0.",
    ),
    "bible": Source(
        bible.REQUIREMENT,
        bible.KINDS,
        1,
        ("en-us",),
        lambda language: bible.bible_files(),
        lambda kinds, language: bible.read_bible(kinds),
        "World English Bible, public domain.",
    ),
}


class Corpus:
    """Texts from one source. Iterate as often as needed.

    counts   of the last full pass; complete when it has ended
    latents  given by the user, or None; the latent of a text is `latents.rows([text.row])`
    """

    def __init__(self, read: Callable[[], Rows], identity: Callable[[], dict[str, Any]], latents: GivenLatents | None, aligned: bool):
        self._read, self._identity, self._aligned = read, identity, aligned
        self.latents, self.counts = latents, Counts()

    def __iter__(self) -> Iterator[Text]:
        """Every different text, in the source's order.

        Raises InputError at the first problem of the source, after a scan of the rest: the message then has the count and
        the file that lists them all. Codes: those of `UserFiles.read`, LATENT_COUNT, EMPTY_CORPUS.
        """
        for row in (rows := self._rows()):
            if isinstance(row, InputError):
                refuse([row, *(other for other in rows if isinstance(other, InputError))])
            else:
                yield row

    def problems(self) -> list[InputError]:
        """Every problem of the source, from one full pass; empty when it is sound."""
        return [row for row in self._rows() if isinstance(row, InputError)]

    def identity(self) -> dict[str, Any]:
        """JSON-able: the source, its files' SHA-256 and what was asked of it."""
        return self._identity()

    def _rows(self) -> Iterator[Text | InputError]:
        self.counts = counts = Counts()
        texts: set[bytes] = set()
        last, sound = -1, True
        for row in self._read():
            if isinstance(row, Dropped):
                counts.drop(row.reason)
                continue
            if isinstance(row, InputError):
                sound = False
                yield row
                continue
            last = max(last, row.row)
            digest = hashlib.blake2b(row.text.encode("utf-8"), digest_size=16).digest()
            if digest in texts:
                counts.drop("duplicate text")
                continue
            texts.add(digest)
            counts.keep()
            yield row
        if sound and not counts.kept:
            yield InputError("EMPTY_CORPUS", self._identity()["path"], "text", f"holds no text; {counts.to_dict()}")
        if sound and self._aligned and self.latents is not None and len(self.latents) != last + 1:
            message = f"{len(self.latents)} latents for {last + 1} texts; they are aligned by number"
            yield InputError("LATENT_COUNT", self.latents.path, "latents", message)


def read_corpus(
    source: str,
    path: str | Path | None = None,
    *,
    kinds: Sequence[str] | None = None,
    language: str = "en-us",
    text_field: str = "text",
    id_field: str = "id",
    split: str | None = None,
    latents: str | Path | None = None,
) -> Corpus:
    """A packaged corpus by name (a key of SOURCES), or "file": the user's own texts at `path`.

    kinds      which texts of a packaged corpus, for instance ("definition", "example"); None: its default
    language   of the `wiki` source: en-us, fr-fr, es-es
    text_field, id_field, split   for the user's files: names of fields, and a saved dataset's split
    latents    a `.npy` matrix, or a folder of blocks, aligned with the user's texts (see `GivenLatents`)

    Raises InputError: UNKNOWN_VALUE, MISSING_PACKAGE, MISSING_FILE and the others of `UserFiles.files` and `GivenLatents`.
    """
    if source == "file":
        if path is None:
            raise InputError("MISSING_KEY", "data", "prepare.input", "source=file needs the path of the texts")
        if kinds:
            raise InputError("UNKNOWN_VALUE", path, "kinds", "only packaged sources have kinds; leave it out")
        return _user_corpus(UserFiles(Path(path), text_field, id_field, split), latents)
    if source not in SOURCES:
        raise InputError("UNKNOWN_VALUE", "data", "prepare.source", f"'{source}' is not one of file, {', '.join(SOURCES)}")
    if path is not None or latents is not None:
        raise InputError("UNKNOWN_VALUE", source, "prepare.input", "a packaged source has no path and no given latents; set source=file")
    return _packaged_corpus(source, SOURCES[source], kinds, language)


def _user_corpus(files: UserFiles, latents: str | Path | None) -> Corpus:
    found = files.files()
    if files.sharded and latents is not None:
        raise InputError("UNKNOWN_VALUE", files.path, "latents", "the folder brings its own latent_shards; leave it out")
    given = GivenLatents(files.path / "latent_shards") if files.sharded else GivenLatents(latents) if latents is not None else None

    def identity() -> dict[str, Any]:
        names = [file.name for file in found]
        facts = {"source": "file", "path": str(files.path), "files": names, "split": files.split, "text_field": files.text_field}
        named = {} if files.id_field == "id" else {"id_field": files.id_field}
        return {**facts, **named, "sha256": files_sha256(found)}

    return Corpus(lambda: files.read(given if files.sharded else None), identity, given, aligned=not files.sharded)


def _packaged_corpus(name: str, source: Source, kinds: Sequence[str] | None, language: str) -> Corpus:
    chosen = tuple(kinds) if kinds else source.kinds[: source.default]
    for value, field, known in [(kind, "kinds", source.kinds) for kind in chosen] + [(language, "language", source.languages)]:
        if value not in known:
            raise InputError("UNKNOWN_VALUE", name, field, f"'{value}' is not one of {', '.join(known)}")
    files = source.files(language)
    package = source.requirement.split("==")[0]

    def identity() -> dict[str, Any]:
        package_facts = {"package": package, "version": package_version(package), "licence": source.licence}
        return {"source": name, "path": name, "kinds": list(chosen), "language": language, **package_facts, "sha256": files_sha256(files)}

    return Corpus(lambda: source.read(chosen, language), identity, None, aligned=False)
