"""The checks that data must pass, whatever layout they lie in.

    every sample    0 <= token < V,   1 <= length,   latent finite,   text neither empty nor invalid,   ids distinct
    the folder      every listed file has its hash, tokenizer and projection are the manifest's,   mean and std are those of train

Each failure becomes one `InputError` that names the sample or the file; nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lgdlm.data.confinement import Confinement
from lgdlm.data.doubt import doubtful
from lgdlm.data.manifest import Manifest
from lgdlm.data.shard import Shard
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import digest
from lgdlm.data.text import flaw
from lgdlm.errors import InputError

TOLERANCE = 1e-6  # of the largest standard deviation
Report = Callable[[InputError], None]


def verify_shard(shard: Shard, start: int, vocab_size: int, report: Report) -> None:
    """All rows of a shard; `start` is the first row's index in its split. Ids are compared elsewhere (`DistinctIds`)."""

    def name(row: int) -> str:
        try:
            return shard.id(row)
        except InputError:
            return f"#{start + row}"

    lengths = np.diff(shard.token_offsets)
    for row in np.flatnonzero(lengths == 0).tolist():
        report(InputError("NO_TOKENS", f"{shard.path}#{row}", name(row), "has no token; leave the text out"))
    strangers = np.flatnonzero(_outside(shard.tokens, vocab_size))
    for row in np.unique(np.searchsorted(shard.token_offsets, strangers, side="right") - 1).tolist():
        ids = shard.tokens[shard.token_offsets[row] : shard.token_offsets[row + 1]]
        worst = int(ids[_outside(ids, vocab_size)][0])
        report(token_problem(f"{shard.path}#{row}", name(row), worst, vocab_size))
    if shard.latents is not None:
        for row in np.flatnonzero(~np.isfinite(shard.latents).all(axis=1)).tolist():
            report(latent_problem(f"{shard.path}#{row}", name(row), shard.latents[row]))
    strings = [(shard.columns[column], shard.columns[f"{column}_offsets"]) for column in ("text", "id")]
    for row in np.flatnonzero(doubtful(*strings[0]) | doubtful(*strings[1])).tolist():
        try:
            sample, text = shard.id(row), shard.text(row)
        except InputError as problem:
            report(problem)
            continue
        if fault := flaw(text) or flaw(sample):
            report(InputError(fault[0], f"{shard.path}#{row}", sample, fault[1]))


def verify_files(folder: Path, manifest: Manifest, report: Report) -> None:
    """Every file that the manifest lists besides the shards, and the identities of the tokenizer and the projection."""
    from lgdlm.data.projection import load_projection
    from lgdlm.data.tokenizer import load_tokenizer

    root = Confinement(folder)
    for name, entry in manifest.files.items():
        try:
            found = digest(path := root.path(name, folder / "manifest.json", "files"))
            if found["sha256"] != entry["sha256"]:
                message = f"expected {entry['sha256'][:12]}, got {found['sha256'][:12]}; run prepare again"
                report(InputError("HASH", path, "sha256", message))
        except InputError as problem:
            report(problem)
    for name, load in (("tokenizer", load_tokenizer), ("projection", load_projection)):
        if (folder / name).is_dir():
            try:
                if load(folder / name).identity() != getattr(manifest, name):  # type: ignore[operator]
                    report(InputError("IDENTITY", folder / name, name, "is not the one the manifest names; run prepare again"))
            except InputError as problem:
                report(problem)


def verify_statistics(folder: Path, statistics: LatentStatistics | None, manifest: Manifest, report: Report) -> None:
    """Mean and standard deviation of the train latents are the manifest's; None: they could not be taken."""
    if statistics is None or not statistics.count or manifest.latent_mean is None or manifest.latent_std is None:
        return
    for name, held, true in (("latent_mean", manifest.latent_mean, statistics.mean), ("latent_std", manifest.latent_std, statistics.std)):
        error = np.abs(np.array(held) - true).max() / max(statistics.std.max(), 1e-30)
        if not error <= TOLERANCE:
            message = f"differs from the train latents by {error:.1e} standard deviations; run prepare again"
            report(InputError("STATISTICS", folder / "manifest.json", name, message))


def wrong_width(folder: Path, held: int, expected: int) -> str:
    """What to do where a folder's latents have `held` numbers, and the model expects others."""
    narrower = f"run: lgdlm convert input={folder} out=<folder> projection=pca latent_dim={expected} ; or " if held > expected else ""
    return f"{narrower}set model.latent_dim={held}"


def duplicate_id(where: str, id: str, index: int, seen: dict[str, int], report: Report) -> None:
    """Report an id that `seen` holds already, and remember it."""
    if id in seen:
        report(InputError("DUPLICATE_ID", where, id, f"is also the id of sample {seen[id]}; ids must differ within a split"))
    seen.setdefault(id, index)


def token_problem(where: str, id: str, token: int, vocab_size: int) -> InputError:
    message = f"expected token ids in 0..{vocab_size - 1}, got {token}; tokenize again with the data's tokenizer"
    return InputError("TOKEN_RANGE", where, id, message)


def latent_problem(where: str, id: str, latent: np.ndarray) -> InputError:
    kind = "NaN" if np.isnan(latent).any() else "infinity"
    at = int(np.flatnonzero(~np.isfinite(latent.ravel()))[0])
    return InputError("NAN_LATENT", where, id, f"expected a finite latent, got {kind} in dimension {at}; encode the text again")


def _outside(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    outside = tokens >= vocab_size
    return outside if tokens.dtype.kind == "u" else outside | (tokens < 0)
