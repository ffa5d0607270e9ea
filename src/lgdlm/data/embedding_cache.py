"""Embeddings in chunks that survive a kill.

    chunk c = texts[c m : (c + 1) m]  ->  CACHE/<encoder>/<c>-<hash of the texts>.npy       float32 [m, E]

The name holds everything the content depends on: the encoder's identity and the texts. A chunk that is there is not computed
again; chunks of other texts are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.storage import ASIDE, make_folder, storage, write_bytes
from lgdlm.errors import InputError

CHUNK = 2048


class TextEncoder(Protocol):
    """What is asked of an encoder here (`lgdlm.data.encoder.Encoder` answers it)."""

    dim: int

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...
    def identity(self) -> dict[str, Any]: ...


def embed(
    encoder: TextEncoder, texts: Sequence[str], cache: Path, on_progress: Callable[[int, int], None], chunk: int = CHUNK
) -> GivenLatents:
    """The embeddings of all texts, memory-mapped from the cache; `rows(indices)` gives float32 [k, E].

    Raises InputError NAN_LATENT where the encoder answers NaN or infinity (the text is named by its number).
    """
    folder = make_folder(cache / _hash([json.dumps(encoder.identity(), sort_keys=True, default=str)]))
    wanted = {start: f"{start // chunk:06d}-{_hash(texts[start : start + chunk])}.npy" for start in range(0, len(texts), chunk)}
    with storage(folder):
        for file in folder.iterdir():
            if file.name not in wanted.values() or file.name.startswith(ASIDE):
                file.unlink()
    for start, name in wanted.items():
        part = texts[start : start + chunk]
        if not (folder / name).exists():
            _save(folder / name, _encoded(encoder, part, start))
        on_progress(start + len(part), len(texts))
    return GivenLatents(folder)


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
