"""Embeddings in chunks that survive a kill.

    chunk c = texts[c m : (c + 1) m]  ->  CACHE/<encoder>/<c>-<hash of the texts>.npy       float32 [m, E]

The name holds everything the content depends on: the encoder's identity and the texts. A chunk that is there is not computed
again; chunks of other texts are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lgdlm.data.engine import Task
from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.storage import ASIDE, make_folder, storage, write_bytes
from lgdlm.errors import InputError

CHUNK = 2048
Elsewhere = Callable[[Path, Sequence[Task]], Iterator[dict[str, Any]]]


class TextEncoder(Protocol):
    """What is asked of an encoder here (`lgdlm.data.encoder.Encoder` answers it)."""

    dim: int
    truncated: int

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...
    def identity(self) -> dict[str, Any]: ...


def embed(
    encoder: TextEncoder,
    texts: Sequence[str],
    cache: Path,
    on_progress: Callable[[int, int], None],
    chunk: int = CHUNK,
    *,
    elsewhere: Elsewhere | None = None,
) -> tuple[GivenLatents, int]:
    """The embeddings of all texts, memory-mapped from the cache, and how many texts were cut; `rows(indices)` gives float32 [k, E].

    `elsewhere(folder, tasks)` does the chunks that are missing, {"texts", "start", "name"} each, and answers {"truncated"} in their order;
    None: `encoder` does them here.

    Raises InputError NAN_LATENT where the encoder answers NaN or infinity (the text is named by its number).
    """
    folder = make_folder(cache / _hash([json.dumps(encoder.identity(), sort_keys=True, default=str)]))
    wanted = {start: f"{start // chunk:06d}-{_hash(texts[start : start + chunk])}.npy" for start in range(0, len(texts), chunk)}
    with storage(folder):
        for file in folder.iterdir():
            if file.name not in wanted.values() or file.name.startswith(ASIDE):
                file.unlink()
    missing = [start for start, name in wanted.items() if not (folder / name).exists()]
    done, truncated = len(texts) - sum(len(texts[start : start + chunk]) for start in missing), 0
    on_progress(done, len(texts))
    tasks: list[Task] = [{"texts": list(texts[start : start + chunk]), "start": start, "name": wanted[start]} for start in missing]
    for task, result in zip(tasks, (elsewhere or _here(encoder))(folder, tasks), strict=True):
        truncated += int(result["truncated"])
        done += len(task["texts"])
        on_progress(done, len(texts))
    return GivenLatents(folder), truncated


def save_vectors(encoder: TextEncoder, texts: Sequence[str], start: int, path: Path) -> None:
    """Encode a chunk, whose first text has the number `start`, and write it as `path`, whole or not at all."""
    _save(path, _encoded(encoder, texts, start))


def _here(encoder: TextEncoder) -> Elsewhere:
    def work(folder: Path, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            before = encoder.truncated
            save_vectors(encoder, task["texts"], task["start"], folder / task["name"])
            yield {"truncated": encoder.truncated - before}

    return work


def _encoded(encoder: TextEncoder, texts: Sequence[str], start: int) -> np.ndarray:
    embeddings = np.asarray(encoder.encode(texts), np.float32)
    assert embeddings.shape == (len(texts), encoder.dim), "an encoder answers [n, dim]"
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        message = f"the encoder answers NaN or infinity for {texts[bad[0]][:60]!r}; use dtype float32 or another encoder"
        raise InputError("NAN_LATENT", f"text#{start + bad[0]}", "encoder", message)
    return embeddings


def _save(path: Path, embeddings: np.ndarray) -> None:
    stream = BytesIO()
    np.save(stream, embeddings, allow_pickle=False)
    write_bytes(path, stream.getvalue())


def _hash(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
