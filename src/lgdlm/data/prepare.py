"""`prepare`: text on disk to a data folder.

    corpus -> deduplicated -> split by content hash -> tokenizer fitted on train -> filtered by length
           -> embeddings (in chunks that survive a kill) -> projection fitted on train -> shards or files -> manifest

Repeating the same request is a no-op; a request that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.corpus import read_corpus
from lgdlm.data.embedding_cache import embed
from lgdlm.data.engine import ENGINES, Engine
from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.manifest import Manifest
from lgdlm.data.projection import PROJECTIONS, Projection
from lgdlm.data.selection import Selection, select
from lgdlm.data.staging import Staging
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.data.vectors import AUTO, GivenRows, Vectors, fit_on, keep_embeddings, kind_meant
from lgdlm.data.work import encoded_elsewhere, tokenized
from lgdlm.data.writing import Row, ledger_of, manifest_of, write_splits

BLOCK = 4096
StageProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """The finished folder; `fresh` is False where it was there already."""

    folder: Path
    manifest: Manifest
    fresh: bool


def prepare(
    source: str = "wordnet",
    out: str | Path = "data/wordnet",
    *,
    path: str | Path | None = None,
    corpus_options: Mapping[str, str] | None = None,
    kinds: Sequence[str] | None = None,
    validation_kinds: Sequence[str] | None = None,
    tokenizer: str = "rwkv_compact",
    tokenizer_path: str | Path | None = None,
    vocab_size: int = 8192,
    encoder: str | Path | None = "minilm",
    family: str | None = None,
    encoder_options: Mapping[str, str] | None = None,
    latents: str | Path | None = None,
    projection: str | Path = AUTO,
    latent_dim: int | None = 32,
    min_tokens: int = 1,
    max_tokens: int = 512,
    validation: float = 0.02,
    seed: int = 42,
    limit: int | None = None,
    layout: str = "packed",
    overwrite: bool = False,
    engine: str = "local",
    num_workers: int = 1,
    on_progress: StageProgress = lambda stage, done, total: None,
) -> Prepared:
    """Build a data folder at `out`; returns it with its manifest.

    source, path, kinds, corpus_options   as `read_corpus`; the last are its text_field, id_field, split and language
    validation            texts held out: a number (>= 1) or a share (< 1); exact
    validation_kinds      kinds that may be held out; None: those of the corpus, for wordnet its definitions
    tokenizer             a key of TOKENIZERS; `vocab_size` for rwkv_compact, `tokenizer_path` for hf
    encoder, family       as `load_encoder`; None: no latents, unless `latents` (a .npy file or folder of blocks) brings them
    encoder_options       role, instruction, language and dtype of `load_encoder`
    projection            "pca", "matryoshka", "identity" or the folder of a saved one, to `latent_dim` (None: the vectors' width); "auto":
                          pca, and for `latents` of that width identity
    min_tokens, max_tokens   shorter and longer texts are left out and counted
    limit                 a seeded sample of so many texts
    layout                "packed" or "samples"
    overwrite             replace what `out` holds
    engine, num_workers   who tokenizes and encodes, a key of ENGINES, and how many at once; the folder does not depend on it
    on_progress(stage, done, total)   stages: reading, tokenizing, embedding, writing

    Raises InputError (EXISTS where `out` holds something else, and what every part raises), LockedError, StorageError, and PeerLost
    where a worker died.
    """
    corpus = read_corpus(source, path, kinds=kinds, latents=latents, **(corpus_options or {}))
    projection = kind_meant(projection, corpus.latents, latent_dim)
    if validation_kinds is None and source == "wordnet":
        validation_kinds = ("definition",)
    request: dict[str, object] = {
        "corpus": corpus.identity(),
        "latents": None if latents is None else _content(latents),
        "tokenizer": tokenizer,
        "tokenizer_path": None if tokenizer_path is None else _content(tokenizer_path),
        "vocab_size": vocab_size if tokenizer == "rwkv_compact" else None,
        "encoder": None if corpus.latents is not None or encoder is None else _content(encoder),
        "family": family,
        "projection": projection if projection in PROJECTIONS else _content(projection),
        "latent_dim": latent_dim,
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
        "validation": validation,
        "validation_kinds": None if validation_kinds is None else sorted(validation_kinds),
        "seed": seed,
        "limit": limit,
        "layout": layout,
        **({"encoder_options": dict(encoder_options)} if encoder_options else {}),
    }
    with Staging(out) as staging, ExitStack() as stack:
        held = staging.finished(request, overwrite)
        if held is not None:
            return Prepared(Path(out), held, fresh=False)
        folder = staging.begin()
        workers = stack.enter_context(ENGINES[engine](num_workers))
        texts = list(corpus)
        on_progress("reading", len(texts), len(texts))
        chosen = select(
            texts,
            lambda train: make_tokenizer(tokenizer, texts=train, size=vocab_size, path=tokenizer_path),
            corpus.counts,
            validation=validation,
            validation_kinds=validation_kinds,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            seed=seed,
            limit=limit,
            on_progress=lambda done, total: on_progress("tokenizing", done, total),
            tokenize=lambda tokenizer, parts: tokenized(tokenizer, parts, workers, staging.cache),
        )
        vectors, encoder_identity = _vectors(
            corpus.latents, encoder, family, encoder_options or {}, chosen, staging.cache, workers, on_progress
        )
        fitted = None if vectors is None else fit_on(vectors, projection, latent_dim, chosen.train)
        splits = {"train": chosen.train, "validation": chosen.validation}
        rows = {name: _rows(chosen, part, vectors, fitted, on_progress) for name, part in splits.items() if len(part)}
        written = write_splits(folder, layout, rows, chosen.tokenizer.vocab_size, source)
        chosen.tokenizer.save(folder / "tokenizer")
        if fitted is not None and vectors is not None:
            fitted.save(folder / "projection")
            if len(chosen.validation):
                keep_embeddings(folder, vectors.rows(chosen.validation))
        manifest = manifest_of(
            written,
            folder,
            layout,
            vocab_size=chosen.tokenizer.vocab_size,
            tokenizer=chosen.tokenizer.identity(),
            encoder=encoder_identity,
            projection=None if fitted is None else fitted.identity(),
            source={**corpus.identity(), "read": corpus.counts.read},
            dropped=dict(sorted(corpus.counts.dropped.items())),
            seed=seed,
            request=request,
        )
        staging.publish(manifest)
    return Prepared(Path(out), manifest, fresh=True)


def _vectors(
    given: GivenLatents | None,
    encoder: str | Path | None,
    family: str | None,
    options: Mapping[str, Any],
    chosen: Selection,
    cache: Path,
    workers: Engine | None,
    on_progress: StageProgress,
) -> tuple[Vectors | None, dict[str, Any] | None]:
    """The vectors of the chosen texts by their position, and the identity of what made them."""
    if given is not None:
        return GivenRows(given, np.array([text.row for text in chosen.texts])), {"name": "given", "dim": given.dim}
    if encoder is None:
        return None, None
    from lgdlm.data.encoder import load_encoder

    on_progress("embedding", 0, len(chosen.texts))  # from here, so that loading is not counted as tokenizing
    loaded = load_encoder(encoder, family=family, **options)
    elsewhere = None if workers is None else partial(encoded_elsewhere, workers, loaded.identity(), str(encoder), family, options)
    texts = [text.text for text in chosen.texts]
    vectors, truncated = embed(loaded, texts, cache, lambda done, total: on_progress("embedding", done, total), elsewhere=elsewhere)
    return vectors, {**loaded.identity(), "truncated": truncated}


def _rows(
    chosen: Selection, part: np.ndarray, vectors: Vectors | None, fitted: Projection | None, on_progress: StageProgress
) -> Iterator[Row]:
    for start in range(0, len(part), BLOCK):
        block = part[start : start + BLOCK]
        latents = None if vectors is None or fitted is None else fitted(vectors.rows(block))
        for at, i in enumerate(block):
            text = chosen.texts[i]
            yield Row(text.id, text.text, chosen.tokens[i], None if latents is None else latents[at])
        on_progress("writing", start + len(block), len(part))


def _content(value: str | Path) -> object:
    """What a request says of a path: its name and the hashes of its files; a name that is no path stands for itself."""
    path = Path(value)
    if not path.exists():
        return str(value)
    return {"path": str(value), "files": ledger_of(path.parent, [path.name]) if path.is_file() else ledger_of(path, _names(path))}


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
