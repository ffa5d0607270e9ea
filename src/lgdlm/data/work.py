"""The tasks of `prepare` that can be done anywhere: texts to token ids, texts to vectors.

    TokenizeTexts(folder)          {"texts"}                  -> {"tokens" int32 [T], "lengths" int64 [n]}
    EncodeTexts(request, folder)   {"texts", "start", "name"} -> {"truncated"}, and the vectors as folder/name

What a work needs it loads from disk once a process, and checks that it is what the process that asks has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lgdlm.data.engine import Engine, Task
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer
from lgdlm.errors import InputError

if TYPE_CHECKING:
    from lgdlm.data.encoder import Encoder


@dataclass(frozen=True)
class TokenizeTexts:
    """Token ids by the tokenizer saved in `folder`."""

    folder: str

    def __call__(self, task: Task) -> dict[str, Any]:
        rows = _tokenizer(self.folder).encode_batch(list(task["texts"]))
        lengths = np.array([len(row) for row in rows], np.int64)
        return {"tokens": np.array([i for row in rows for i in row], np.int32), "lengths": lengths}


@dataclass(frozen=True)
class EncodeTexts:
    """Vectors by the encoder that `load_encoder(name, family, **options)` gives, whose identity is `identity` (JSON), in `folder`.

    `threads`: of the arithmetic in one worker.
    """

    name: str
    family: str | None
    options: tuple[tuple[str, str], ...]
    identity: str
    folder: str
    threads: int

    def __call__(self, task: Task) -> dict[str, Any]:
        from lgdlm.data.embedding_cache import save_vectors

        encoder = _encoder(self)
        before = encoder.truncated
        save_vectors(encoder, list(task["texts"]), int(task["start"]), Path(self.folder) / task["name"])
        return {"truncated": encoder.truncated - before}


def tokenized(tokenizer: Tokenizer, parts: Sequence[Sequence[str]], engine: Engine | None, cache: Path) -> Iterator[list[np.ndarray]]:
    """The token rows of each part, int32 [length] each, in order; elsewhere by the tokenizer saved below `cache`.

    Raises what the tokenizer raises, at the part that holds it.
    """
    if engine is None:
        for part in parts:
            yield [np.asarray(row, np.int32) for row in tokenizer.encode_batch(list(part))]
        return
    folder = cache / f"tokenizer-{hashlib.sha256(_words(tokenizer.identity()).encode()).hexdigest()[:16]}"
    tokenizer.save(folder)
    for result in engine.map(TokenizeTexts(str(folder.absolute())), [{"texts": list(part)} for part in parts]):
        lengths = np.asarray(result["lengths"], np.int64)
        yield np.split(np.asarray(result["tokens"], np.int32), np.cumsum(lengths)[:-1])


def encoded_elsewhere(
    engine: Engine,
    identity: Mapping[str, Any],
    name: str,
    family: str | None,
    options: Mapping[str, str],
    folder: Path,
    tasks: Sequence[Task],
) -> Iterator[dict[str, Any]]:
    """Does `tasks`, as `EncodeTexts` describes them, on the engine; the threads of this process are shared out among its workers."""
    import torch

    place = str(Path(name).absolute()) if Path(name).is_dir() else name
    work = EncodeTexts(
        place,
        family,
        tuple(sorted(options.items())),
        _words(identity),
        str(folder.absolute()),
        max(1, torch.get_num_threads() // engine.workers),
    )
    return engine.map(work, tasks)


def _words(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, default=str)


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> Tokenizer:
    return load_tokenizer(folder)


@lru_cache(maxsize=1)
def _encoder(work: EncodeTexts) -> Encoder:
    import torch

    from lgdlm.data.encoder import load_encoder

    torch.set_num_threads(work.threads)
    options: dict[str, Any] = dict(work.options)
    encoder = load_encoder(work.name, family=work.family, **options)
    if _words(encoder.identity()) != work.identity:
        raise InputError(
            "ENCODER_MISMATCH", work.name, "prepare.encoder", "a worker has another encoder of this name; give all nodes the same"
        )
    return encoder
