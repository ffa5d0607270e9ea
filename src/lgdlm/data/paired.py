"""Paired documents (y, z): token ids with the latent of the same text, whatever layout they lie in.

    open_dataset(folder, split) -> PairedDataset        packed where the folder has a packed manifest, per-sample otherwise

Opening checks everything the files promise before a first step is taken; what is wrong is one `InputError`, and a file that
lists all problems where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.manifest import Manifest, has_manifest, read_manifest
from lgdlm.data.mixture import Mixture
from lgdlm.data.packed import PackedSplit
from lgdlm.data.problems import refuse
from lgdlm.data.rows import Rows, Strings
from lgdlm.data.samples import TOKENS, SampleSplit
from lgdlm.data.shard import map_columns
from lgdlm.data.verification import verify_files, verify_statistics, wrong_width
from lgdlm.errors import InputError

EMBEDDINGS = "validation_embeddings.safetensors"
Progress = Callable[[int, int], None]


class PairedDataset:
    """One split of paired documents.

    len(dataset)        documents
    lengths             int64 [n], tokens of each; lengths_of(indices), last_tokens_of(indices), ids_of(indices) of some
    ids, texts          sequences of str
    tokens(i)           int64 [length]; gather(indices) -> (flat int64 [T], lengths [k]) for many at once
    latents(indices)    float32 [k, L, D], L = 1, raw (not standardised), or None
    manifest            latent_dim, latent_mean, latent_std (of the TRAIN split), vocab_size, tokenizer, encoder, projection
    folder              where tokenizer/ and projection/ lie, or None for data made in memory
    mixture             of several sources: their rows and proportions; None: one source
    """

    def __init__(
        self,
        store: Rows,
        manifest: Manifest,
        split: str,
        *,
        folder: Path | None = None,
        limit: int | None = None,
        with_latents: bool = True,
        mixture: Mixture | None = None,
    ):
        self.store, self.manifest, self.split, self.folder, self.mixture = store, manifest, split, folder, mixture
        self._with_latents = with_latents
        self._count = len(store) if limit is None else min(limit, len(store))
        assert mixture is None or sum(mixture.counts) == self._count, "a mixture is of all rows"

    def __len__(self) -> int:
        return self._count

    @cached_property
    def lengths(self) -> np.ndarray:
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        return self.store.lengths_of(np.asarray(indices, np.int64))

    def last_tokens_of(self, indices: np.ndarray) -> np.ndarray:
        return self.store.last_tokens_of(np.asarray(indices, np.int64))

    def ids_of(self, indices: np.ndarray) -> list[str]:
        return self.store.ids_of(np.asarray(indices, np.int64))

    def head(self, count: int) -> np.ndarray:
        """The first `count` rows (fewer where there are fewer), of a mixture in its proportions: int64 [k]."""
        return np.arange(min(count, len(self))) if self.mixture is None else self.mixture.head(count)

    @property
    def ids(self) -> Sequence[str]:
        ids = self.store.ids
        return Strings(len(self), lambda i: ids[i])

    @property
    def texts(self) -> Sequence[str]:
        texts = self.store.texts
        return Strings(len(self), lambda i: texts[i])

    def text(self, index: int) -> str:
        return self.store.texts[index]

    def tokens(self, index: int) -> np.ndarray:
        return self.gather(np.array([index]))[0]

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.store.gather(np.asarray(indices, np.int64))

    @property
    def has_latents(self) -> bool:
        return self._with_latents and self.manifest.latent_dim is not None

    def latents(self, indices: np.ndarray | Sequence[int]) -> np.ndarray | None:
        if not self.has_latents:
            return None
        latents = self.store.latents(np.asarray(indices, np.int64))
        assert latents is not None, "the manifest promises latents"
        return latents[:, None, :]

    def embeddings(self, indices: np.ndarray | Sequence[int]) -> np.ndarray | None:
        """Latents before projection, in the encoder's own space: float32 [k, E]; None where they were not kept.

        They are kept in float16 for the validation split only: evaluation compares there.
        """
        if self.folder is None or self.split != "validation" or EMBEDDINGS not in self.manifest.files:
            return None
        embeddings = map_columns(self.folder / EMBEDDINGS)["embeddings"]
        return embeddings[np.asarray(indices, np.int64)].astype(np.float32)


def open_dataset(
    latent_dir: str | Path,
    split: str = "train",
    *,
    token_dir: str | Path | None = None,
    latent_dim: int | None = None,
    vocab_size: int | None = None,
    external_latents: bool = True,
    limit: int | None = None,
    verify: bool = True,
    train: PairedDataset | None = None,
    on_progress: Progress | None = None,
) -> PairedDataset:
    """Open one split of a data folder.

    latent_dir        packed folder, or the folder of `<split>_data.json` (per-sample)
    token_dir         folder of `<split>/<stem>.npz`; not needed where the data says where its tokens are
    latent_dim        width D the model expects; None: as the data has it
    vocab_size        ids the tokenizer has; needed for per-sample tokens that carry no manifest
    external_latents  False: latents are not read, and `latents` answers None
    limit             the first samples only
    verify            False: trust a packed folder's hashes, values and statistics (sizes and headers are checked always)
    train             the open train split whose statistics a per-sample validation split shares; None: they are computed

    Raises InputError (exit 2): NO_LATENTS, LATENT_DIM, NO_VOCABULARY, CONSTANT_LATENT, and everything the layouts report.
    """
    folder = Path(latent_dir)
    if not str(latent_dir) or not folder.is_dir():
        message = "is not a folder; point data.latent_dir at the data or run lgdlm prepare"
        raise InputError("MISSING_FILE", latent_dir or "configuration", "data.latent_dir", message)
    manifest = read_manifest(folder) if has_manifest(folder) else None
    if manifest is not None and external_latents:
        check_dim(folder, manifest.latent_dim, latent_dim)
    if manifest is not None and vocab_size is not None and vocab_size != manifest.vocab_size:
        message = f"expected a vocabulary of {vocab_size} ids, the data has {manifest.vocab_size}; use the tokenizer saved with the data"
        raise InputError("VOCABULARY", folder / "manifest.json", "vocab_size", message)
    if manifest is not None and manifest.layout == "packed":
        store = PackedSplit(folder, manifest, split)
        if verify:
            problems: list[InputError] = []
            if split == "train":
                verify_files(folder, manifest, problems.append)
            store.verify(problems.append)
            refuse(problems)
        return PairedDataset(store, manifest, split, folder=folder, limit=limit, with_latents=external_latents)
    problems = []
    samples, manifest = open_samples(
        folder, split, problems.append, manifest=manifest, token_dir=token_dir, latent_dim=latent_dim, vocab_size=vocab_size,
        external_latents=external_latents, limit=limit, train=train, on_progress=on_progress,
    )  # fmt: skip
    refuse(problems)
    if external_latents:
        check_dim(folder, samples.latent_dim, latent_dim)
    return PairedDataset(samples, manifest, split, folder=folder, with_latents=external_latents)


def open_samples(
    folder: Path,
    split: str,
    report: Callable[[InputError], None],
    *,
    manifest: Manifest | None,
    token_dir: str | Path | None,
    latent_dim: int | None,
    vocab_size: int | None,
    external_latents: bool,
    limit: int | None,
    train: PairedDataset | None,
    on_progress: Progress | None,
) -> tuple[SampleSplit, Manifest]:
    """A scanned per-sample split and the manifest that describes it; problems go to `report`."""
    tokens = Path(token_dir) if token_dir else folder / TOKENS
    vocabulary = vocab_size or (manifest.vocab_size if manifest else None)
    if vocabulary is None:
        message = "per-sample tokens do not say how many ids their vocabulary has; set tokenizer.path (a saved folder, byte or rwkv)"
        raise InputError("NO_VOCABULARY", tokens, "token_dir", message)
    options: dict[str, Any] = {"vocab_size": vocabulary, "with_latents": external_latents, "on_progress": on_progress}
    width = latent_dim or (None if train is None else train.manifest.latent_dim)
    samples = SampleSplit(folder, tokens, split, report, latent_dim=width, limit=limit, **options)
    size = sum(len(text.encode()) for text in samples.texts)
    counts = {split: {"rows": len(samples.lengths), "tokens": int(samples.lengths.sum()), "bytes": size}}
    if manifest is not None:
        if split == "train" and limit is None and samples.latent_dim == manifest.latent_dim:
            verify_files(folder, manifest, report)
            verify_statistics(folder, samples.statistics, manifest, report)
        return samples, manifest
    plain = Manifest(layout="samples", vocab_size=vocabulary, tokenizer={"kind": "external", "vocab_size": vocabulary}, counts=counts)
    if not external_latents or samples.statistics is None:
        return samples, plain
    if train is not None:
        return samples, replace(plain, **{name: getattr(train.manifest, name) for name in ("latent_dim", "latent_mean", "latent_std")})
    of_train = samples
    if split != "train":
        of_train = SampleSplit(folder, tokens, "train", lambda problem: None, latent_dim=samples.latent_dim, **options)
    statistics = of_train.statistics
    if statistics is None:
        message = f"no latent of train has {samples.latent_dim} numbers, as those of {split} have; encode them alike"
        report(InputError("LATENT_DIM", folder, "latents", message))
        return samples, plain
    mean, std = statistics.mean, statistics.std
    if not (std > 0).all():
        dim = int(np.flatnonzero(~(std > 0))[0])
        message = f"dimension {dim} never varies in train, so it cannot be standardised; use a projection"
        report(InputError("CONSTANT_LATENT", folder, "latents", message))
    return samples, replace(plain, latent_dim=samples.latent_dim, latent_mean=tuple(mean.tolist()), latent_std=tuple(std.tolist()))


def check_dim(folder: Path, held: int | None, expected: int | None) -> None:
    """Raise NO_LATENTS or LATENT_DIM where a folder's latents are not what the model expects."""
    if held is None:
        message = "the data has no latents; run lgdlm prepare with an encoder, or set data.use_external_latents=false"
        raise InputError("NO_LATENTS", folder, "latents", message)
    if expected is not None and held != expected:
        message = f"expected latents of {expected} numbers, got {held}; {wrong_width(folder, held, expected)}"
        raise InputError("LATENT_DIM", folder, "latent_dim", message)
