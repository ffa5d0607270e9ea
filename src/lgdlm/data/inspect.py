"""`check`: read a data folder completely and report every problem; change nothing.

    headers and hashes -> tokenizer and projection load -> every sample -> statistics again -> texts that the model cannot take

A problem is what training would refuse; a note is what it would accept and the user may want to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lgdlm.data.convert import SPLITS
from lgdlm.data.frame import Frame, unfit
from lgdlm.data.manifest import Manifest, has_manifest, read_manifest
from lgdlm.data.packed import PackedSplit
from lgdlm.data.paired import check_dim
from lgdlm.data.rows import Rows, blocks_of
from lgdlm.data.samples import TOKENS, SampleSplit
from lgdlm.data.split import content_key
from lgdlm.data.storage import ASIDE
from lgdlm.data.verification import verify_files, verify_statistics
from lgdlm.errors import InputError


@dataclass
class Inspection:
    """What a data folder holds and what is wrong with it; `kinds` counts problems by code."""

    folder: Path
    layout: str = "unknown"
    manifest: Manifest | None = None
    rows: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    latent_dim: int | None = None
    problems: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(problem.code for problem in self.problems))


def inspect_folder(
    latent_dir: str | Path,
    *,
    token_dir: str | Path | None = None,
    latent_dim: int | None = None,
    vocab_size: int | None = None,
    frame: Callable[[Manifest | None], Frame] | None = None,
    external_latents: bool | None = True,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Inspection:
    """Every problem of the data at `latent_dir` (with `token_dir` for per-sample tokens), as `open_dataset` would meet them and more.

    `latent_dim`, `vocab_size` and `frame` (of the folder's manifest) are what a model expects (None: not checked), and
    so is `external_latents` (None: latents are read where the manifest says that there are any).
    """
    found = Inspection(Path(latent_dir))
    with Collected(found):
        if not found.folder.is_dir():
            raise InputError("MISSING_FILE", latent_dir, "data.latent_dir", "is not a folder; point data.latent_dir at the data")
        manifest = read_manifest(found.folder) if has_manifest(found.folder) else None
        found.manifest, found.layout = manifest, manifest.layout if manifest else "samples"
        if external_latents is None:
            external_latents = manifest is None or manifest.latent_dim is not None
        if manifest is not None:
            _check_manifest(found, manifest, latent_dim, vocab_size, external_latents)
        opened: dict[str, Rows] = {}
        for split in dict.fromkeys((*SPLITS, *(manifest.counts if manifest else ()))):
            with Collected(found):
                store = _open(found, split, manifest, token_dir, latent_dim, vocab_size, external_latents, on_progress)
                found.rows[split] = len(store)
                found.tokens[split] = sum(int(store.lengths_of(block).sum()) for block in blocks_of(len(store)))
                if frame is not None:
                    found.problems += unfit(store, frame(manifest), found.folder)
                opened[split] = store
        with Collected(found):
            shared = shared_texts(opened["train"], opened["validation"]) if {"train", "validation"} <= opened.keys() else 0
        if shared:
            found.notes.append(f"{shared} texts of validation are in train as well: validation figures will flatter the model")
        leftovers = [entry.name for entry in found.folder.iterdir() if entry.name.startswith(ASIDE)]
        if leftovers:
            found.notes.append(f"{', '.join(sorted(leftovers))}: left by an interrupted command, never read")
    found.problems = list({str(problem): problem for problem in found.problems}.values())  # a file read twice is damaged once
    return found


def shared_texts(train: Rows, validation: Rows) -> int:
    """How many different texts of the validation split are in train as well; memory is that of the validation split."""
    held = {content_key(text) for text in validation.texts}
    return len({key for text in train.texts if (key := content_key(text)) in held})


class Collected:
    """A block whose `InputError` becomes a problem."""

    def __init__(self, found: Inspection):
        self.found = found

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.found.problems.append(error)
            return True
        return False


def _open(
    found: Inspection,
    split: str,
    manifest: Manifest | None,
    token_dir: str | Path | None,
    latent_dim: int | None,
    vocab_size: int | None,
    external_latents: bool,
    on_progress: Callable[[str, int, int], None],
) -> Rows:
    report = found.problems.append
    if manifest is not None and manifest.layout == "packed":
        packed = PackedSplit(found.folder, manifest, split)
        packed.verify(report)
        found.latent_dim = manifest.latent_dim
        return packed
    vocabulary = vocab_size or (manifest.vocab_size if manifest else None)
    if vocabulary is None:
        note = "the vocabulary's size is not known, so token ids are not checked against it; set tokenizer.path"
        found.notes += [note] if note not in found.notes else []
    with_latents = external_latents and (manifest is None or manifest.latent_dim is not None)
    samples = SampleSplit(
        found.folder,
        token_dir or found.folder / TOKENS,
        split,
        report,
        latent_dim=latent_dim or found.latent_dim,  # validation's is train's
        vocab_size=vocabulary,
        with_latents=with_latents,
        on_progress=lambda done, total: on_progress(split, done, total),
    )
    found.latent_dim = found.latent_dim or samples.latent_dim
    if manifest is not None and split == "train" and samples.latent_dim == manifest.latent_dim:
        verify_statistics(found.folder, samples.statistics, manifest, report)
    if with_latents and samples.latent_dim is not None:
        if manifest is None and split == SPLITS[0]:  # one line for the folder; a single sample of another width has its own
            check_dim(found.folder, samples.latent_dim, latent_dim)
        if split == "train" and samples.statistics is not None and not (samples.statistics.std > 0).all():
            dim = int(np.flatnonzero(~(samples.statistics.std > 0))[0])
            report(InputError("CONSTANT_LATENT", found.folder, "latents", f"dimension {dim} never varies in train; use a projection"))
    return samples


def _check_manifest(found: Inspection, manifest: Manifest, latent_dim: int | None, vocab_size: int | None, external_latents: bool) -> None:
    verify_files(found.folder, manifest, found.problems.append)
    if external_latents:
        with Collected(found):
            check_dim(found.folder, manifest.latent_dim, latent_dim)
    if vocab_size is not None and vocab_size != manifest.vocab_size:
        message = f"expected a vocabulary of {vocab_size} ids, the data has {manifest.vocab_size}; use the tokenizer saved with the data"
        found.problems.append(InputError("VOCABULARY", found.folder / "manifest.json", "vocab_size", message))
