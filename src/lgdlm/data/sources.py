"""Several packed folders as one dataset: their rows one after another, read in training in given proportions.

    rows        0 .. n_1 - 1 | n_1 .. n_1 + n_2 - 1 | ...        of folder 1, of folder 2, ...
    train       the `Mixture` of all folders;   latent statistics are those of the mixture
    validation  the first rows of each, in the same proportions, without texts that any train split holds

An id must mean the same token and a latent's dimension the same direction in all of them, or they cannot be mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.distinct import string_hashes
from lgdlm.data.joined import JoinedSplit
from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.mixture import Mixture, mixed_statistics
from lgdlm.data.packed import PackedSplit
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.errors import InputError

OF_ONE_MACHINE = ("path", "truncated")  # of an encoder's identity: where it lay, and how many texts it cut


def open_sources(
    weights: Mapping[str, float],
    split: str = "train",
    *,
    limit: int | None = None,
    train: PairedDataset | None = None,
    verify: bool = True,
    **options: Any,
) -> PairedDataset:
    """The mixture of packed folders, {folder: weight}; `options` are those of `open_dataset`.

    limit   about so many rows, the first of each folder in proportion to its weight
    train   the open train mixture; needed for the validation split, which shares its statistics and, where `verify`, holds none of its
            texts; folders without a validation split have no part in it

    Raises InputError: what `open_dataset` raises; LAYOUT, TOKENIZER, VOCABULARY, LATENT_DIM, PROJECTION, ENCODER where the folders
    do not go together; EMPTY_CORPUS where no validation text is left.
    """
    if split != "train":  # a part may have held out nothing; that none has is what opening the first one says
        weights = {folder: weight for folder, weight in weights.items() if split in read_manifest(folder).counts} or weights
    opened = [open_dataset(folder, split, verify=verify, **options) for folder in weights]
    for folder, part in zip(weights, opened, strict=True):
        if not isinstance(part.store, PackedSplit):
            raise InputError("LAYOUT", folder, "data.sources", f"is not packed; run: lgdlm convert input={folder} out=<folder>")
        same_space(opened[0], part)
    mixture = Mixture(tuple(len(part) for part in opened), tuple(weights.values()))
    chosen: list[np.ndarray | None] = [None] * len(opened)
    if limit is not None:
        first = mixture.head(limit)
        parts = [
            first[(first >= start) & (first < start + count)] - start for start, count in zip(mixture.starts, mixture.counts, strict=True)
        ]
        chosen = [rows if len(rows) else np.arange(1) for rows in parts]  # a source that is named is never left out
    dropped: dict[str, int] = {}
    if split != "train":
        assert train is not None, "the statistics of a mixture are those of its train split"
        rows, overlap = _without_train_texts(opened, chosen, train) if verify else (chosen, 0)
        chosen, dropped = rows, {"in train of a source": overlap} if overlap else {}
    joined = JoinedSplit([part.store for part in opened], chosen)
    if not len(joined):
        raise InputError("EMPTY_CORPUS", next(iter(weights)), "data.sources", f"no text of {split} is left that no train split holds")
    held = Mixture(tuple(np.diff(joined.starts).tolist()), mixture.weights) if split == "train" else None
    manifest = _joined_manifest(opened, weights, mixture, split, len(joined), dropped)
    if train is not None:
        manifest = replace(manifest, latent_mean=train.manifest.latent_mean, latent_std=train.manifest.latent_std)
    with_latents = options.get("external_latents", True)
    return PairedDataset(joined, manifest, split, folder=opened[0].folder, with_latents=with_latents, mixture=held)


def open_split(folder: str, weights: Mapping[str, float], split: str = "train", **options: Any) -> PairedDataset:
    """One split of `folder`, or of the mixture `weights` where it names folders."""
    if not weights:
        return open_dataset(folder, split, **options)
    return open_sources(weights, split, **{**options, "token_dir": None})


def same_space(ours: PairedDataset, theirs: PairedDataset) -> None:
    """Raise InputError where tokens or latents of two datasets do not mean the same."""
    a, b = ours.manifest, theirs.manifest
    facts: list[tuple[str, object, object, str]] = [
        ("tokenizer", a.tokenizer, b.tokenizer, f"prepare it with tokenizer={ours.folder}/tokenizer"),
        ("vocab_size", a.vocab_size, b.vocab_size, f"prepare it with tokenizer={ours.folder}/tokenizer"),
    ]
    if ours.has_latents or theirs.has_latents:
        facts += [
            ("latent_dim", a.latent_dim, b.latent_dim, f"prepare it with latent_dim={a.latent_dim}"),
            ("projection", a.projection, b.projection, f"prepare it with projection={ours.folder}/projection"),
            ("encoder", _encoder(a), _encoder(b), "prepare it with the same encoder"),
        ]
    for name, expected, found, remedy in facts:
        if expected != found:
            message = f"is not that of {ours.folder}, so the two cannot be mixed; {remedy}"
            raise InputError("VOCABULARY" if name == "vocab_size" else name.upper(), theirs.folder, name, message)


def _encoder(manifest: Manifest) -> dict[str, Any] | None:
    if manifest.encoder is None:
        return None
    return {name: value for name, value in manifest.encoder.items() if name not in OF_ONE_MACHINE}


def _without_train_texts(
    parts: Sequence[PairedDataset], chosen: Sequence[np.ndarray | None], train: PairedDataset
) -> tuple[list[np.ndarray | None], int]:
    """The chosen rows of each part whose texts no train split holds, and how many were left out; texts are compared by their bytes."""
    assert isinstance(train.store, JoinedSplit), "made by open_sources"
    rows = [np.arange(len(part)) if some is None else some for part, some in zip(parts, chosen, strict=True)]
    texts = [string_hashes(*_column([part.store.texts[i] for i in some.tolist()])) for part, some in zip(parts, rows, strict=True)]
    wanted, held = np.unique(np.concatenate(texts)), [np.empty(0, np.uint64)]
    for store in train.store.parts:
        assert isinstance(store, PackedSplit), "checked when it was opened"
        for shard in store.shards:
            hashes = string_hashes(shard.columns["text"], shard.columns["text_offsets"])
            held.append(hashes[np.isin(hashes, wanted)])
    in_train = np.unique(np.concatenate(held))
    kept = [some[~np.isin(hashes, in_train)] for some, hashes in zip(rows, texts, strict=True)]
    return list(kept), sum(map(len, rows)) - sum(map(len, kept))


def _column(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode("utf-8") for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)


def _joined_manifest(
    parts: Sequence[PairedDataset], weights: Mapping[str, float], mixture: Mixture, split: str, rows: int, dropped: dict[str, int]
) -> Manifest:
    manifests = [part.manifest for part in parts]
    counts = {name: sum(manifest.counts[split][name] for manifest in manifests) for name in ("tokens", "bytes")}
    facts = [
        {"path": str(Path(folder)), "weight": weight, "rows": count}
        for (folder, weight), count in zip(weights.items(), mixture.counts, strict=True)
    ]
    mean, std = None, None
    if parts[0].has_latents:
        mean, std = mixed_statistics(mixture.shares, [m.latent_mean or () for m in manifests], [m.latent_std or () for m in manifests])
    return replace(
        manifests[0],
        counts={split: {"rows": rows, **counts}},
        latent_mean=mean,
        latent_std=std,
        source={"source": "sources", "sources": facts},
        dropped=dropped,
        shards={},
        files={},
        request={},
    )
