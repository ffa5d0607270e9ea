"""`convert`: one layout to the other, and wide latents to narrow ones.

    per-sample files <-> packed shards,   z' = projection(z) where one is asked for, fitted on train

Ids, texts, tokens and the order of the rows are kept; latents are kept to the bit unless they are projected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.manifest import Manifest, has_manifest, read_manifest
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.prepare import Prepared, StageProgress
from lgdlm.data.projection import Projection, load_projection
from lgdlm.data.sample_index import list_name
from lgdlm.data.samples import TOKENS
from lgdlm.data.staging import Staging
from lgdlm.data.storage import digest
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer
from lgdlm.data.vectors import fit_on, keep_embeddings
from lgdlm.data.writing import Row, manifest_of, write_splits
from lgdlm.errors import InputError

BLOCK = 1024
SPLITS = ("train", "validation")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    token_dir: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
    projection: str | None = None,
    latent_dim: int | None = None,
    external_latents: bool = True,
    overwrite: bool = False,
    on_progress: StageProgress = lambda stage, done, total: None,
) -> Prepared:
    """Read the data folder `source` completely and write it to `out`.

    layout       "packed" or "samples"; None: the other one, or packed where latents are projected
    token_dir    of per-sample data; `tokenizer` made its tokens (None: the one saved beside them), or `vocab_size`
    projection   "pca" or "matryoshka" to `latent_dim`, fitted on train; None: latents as they are
    external_latents   False: the latents are left out

    Raises InputError: NO_VOCABULARY, LATENT_DIM (projected already), EXISTS, and everything that reading reports.
    """
    source = Path(source)
    if Path(out).resolve() == source.resolve():
        raise InputError("EXISTS", out, "out", "is the folder to read; choose another")
    manifest = read_manifest(source) if has_manifest(source) else None
    external_latents = external_latents and (manifest is None or manifest.latent_dim is not None)
    packed = manifest is not None and manifest.layout == "packed"
    layout = layout or ("packed" if projection is not None or not packed else "samples")
    if projection is not None and manifest is not None and manifest.projection is not None and manifest.projection["kind"] != "identity":
        message = f"the latents were projected already ({manifest.projection['kind']}); run lgdlm prepare with the other latent_dim"
        raise InputError("LATENT_DIM", source / "manifest.json", "projection", message)
    words = tokenizer or _saved_tokenizer(source, token_dir)
    vocabulary = words.vocab_size if words else vocab_size or (manifest.vocab_size if manifest else None)
    splits = tuple(manifest.counts) if manifest else tuple(split for split in SPLITS if (source / list_name(split)).exists())
    sets: dict[str, PairedDataset] = {}
    for split in splits or SPLITS[:1]:
        sets[split] = open_dataset(
            source,
            split,
            token_dir=token_dir,
            vocab_size=vocabulary,
            external_latents=external_latents,
            train=sets.get("train"),
            on_progress=lambda done, total: on_progress("reading", done, total),
        )
    origin = sets["train"].manifest
    request: dict[str, object] = {
        "converted": str(source),
        "from": _fingerprint(source, manifest, splits),
        "layout": layout,
        "vocab_size": vocabulary,
        "projection": projection,
        "latent_dim": latent_dim,
        "latents": external_latents,
    }
    with Staging(out) as staging:
        held = staging.finished(request, overwrite)
        if held is not None:
            return Prepared(Path(out), held, fresh=False)
        folder = staging.begin()
        fitted = _projection(source, sets["train"], projection, latent_dim)
        applied = fitted if projection is not None else None
        rows = {split: _rows(dataset, applied, on_progress) for split, dataset in sets.items()}
        written = write_splits(folder, layout, rows, origin.vocab_size, (origin.source or {}).get("source", "sample"))
        if words is not None:
            words.save(folder / "tokenizer")
        if fitted is not None:
            fitted.save(folder / "projection")
        _keep_embeddings(folder, sets.get("validation"), applied is not None)
        result = manifest_of(
            written,
            folder,
            layout,
            vocab_size=origin.vocab_size,
            tokenizer=words.identity() if words else origin.tokenizer,
            encoder=origin.encoder,
            projection=fitted.identity() if fitted else origin.projection if external_latents else None,
            source=origin.source,
            dropped=origin.dropped,
            seed=origin.seed,
            request=request,
        )
        if projection is None and manifest is not None and external_latents:
            result = replace(result, latent_mean=manifest.latent_mean, latent_std=manifest.latent_std)
        staging.publish(result)
    return Prepared(Path(out), result, fresh=True)


def _rows(dataset: PairedDataset, fitted: Projection | None, on_progress: StageProgress) -> Iterator[Row]:
    for start in range(0, len(dataset), BLOCK):
        indices = np.arange(start, min(start + BLOCK, len(dataset)))
        flat, lengths = dataset.gather(indices)
        tokens = np.split(flat, np.cumsum(lengths)[:-1])
        latents = dataset.latents(indices)
        vectors = None if latents is None else latents[:, 0] if fitted is None else fitted(latents[:, 0])
        for at, i in enumerate(indices.tolist()):
            yield Row(dataset.ids[i], dataset.text(i), tokens[at], None if vectors is None else vectors[at])
        on_progress("writing", start + len(indices), len(dataset))


@dataclass(frozen=True)
class StoredLatents:
    """The latents of a dataset as vectors to project."""

    dataset: PairedDataset

    @property
    def dim(self) -> int:
        return int(self.dataset.manifest.latent_dim or 0)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        latents = self.dataset.latents(indices)
        assert latents is not None, "the dataset has latents"
        return latents[:, 0]


def _projection(source: Path, train: PairedDataset, kind: str | None, dim: int | None) -> Projection | None:
    """The projection asked for, fitted; or the one the data came with; or None."""
    if kind is None:
        return load_projection(source / "projection") if train.has_latents and (source / "projection").is_dir() else None
    if not train.has_latents:
        raise InputError("NO_LATENTS", source, "projection", "there are no latents to project; run lgdlm prepare with an encoder")
    return fit_on(StoredLatents(train), kind, dim, np.arange(len(train)))


def _keep_embeddings(folder: Path, validation: PairedDataset | None, projected: bool) -> None:
    """The held-out texts' vectors in the encoder's space: the latents that are projected now, or those kept before."""
    if validation is None:
        return
    everything = np.arange(len(validation))
    kept = StoredLatents(validation).rows(everything) if projected else validation.embeddings(everything)
    if kept is not None:
        keep_embeddings(folder, kept)


def _saved_tokenizer(source: Path, token_dir: str | Path | None) -> Tokenizer | None:
    """The tokenizer saved beside the data or its tokens."""
    places = [source / "tokenizer", *([Path(token_dir) / "tokenizer"] if token_dir else []), source / TOKENS / "tokenizer"]
    return next((load_tokenizer(place) for place in places if place.is_dir()), None)


def _fingerprint(source: Path, manifest: Manifest | None, splits: tuple[str, ...]) -> dict[str, Any]:
    names = ["manifest.json"] if manifest else [list_name(split) for split in splits]
    return {name: digest(source / name)["sha256"] for name in names}
