"""What a checkpoint and a data folder must agree on before one is used on the other.

tokenizer    an id means the same token
projection   a latent's dimensions mean the same directions
statistics   to go on training: the same mean and deviation, or every latent would be scaled differently from one step to the next

What one of the two does not say cannot be compared: per-sample data of unknown origin are taken at their word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lgdlm.data.manifest import Manifest
from lgdlm.data.projection import load_projection
from lgdlm.data.tokenizer_identity import read_identity
from lgdlm.errors import CheckpointError, InputError
from lgdlm.training.checkpoint import WEIGHTS, read_tensors

TOLERANCE = 1e-4  # standard deviations: what summing in another order may change
ROUNDING = 1e-6  # of the value: float32 in the checkpoint, float64 in the manifest


def same_tokenizer(folder: Path, ours: Mapping[str, Any]) -> None:
    """The checkpoint's ids are those of the tokenizer with identity `ours`, or CheckpointError."""
    try:
        theirs = read_identity(folder / "tokenizer")
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", folder / "tokenizer", problem.field, problem.message) from problem
    if theirs != ours:
        theirs_is, ours_is = (f"{one.get('kind')} ({one.get('vocab_size')} ids)" for one in (theirs, ours))
        message = f"the checkpoint's ids are of {theirs_is}, the data's of {ours_is}: prepare data with tokenizer={folder}/tokenizer"
        raise CheckpointError("CHECKPOINT", folder / "tokenizer", "tokenizer", message)


def same_projection(folder: Path, ours: Mapping[str, Any] | None) -> None:
    """The checkpoint's projection is the one with identity `ours`, or CheckpointError."""
    if ours is None or not (folder / "projection").is_dir():
        return
    try:
        theirs = load_projection(folder / "projection").identity()
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", problem.where, problem.field, problem.message) from problem
    if theirs != ours:
        theirs_is, ours_is = (f"{one.get('kind')} ({one.get('input_dim')} to {one.get('dim')})" for one in (theirs, ours))
        message = f"the checkpoint's latents are of one {theirs_is}, the data's of another {ours_is}: prepare data with projection={folder}"
        raise CheckpointError("CHECKPOINT", folder / "projection", "projection", f"{message}/projection")


def same_statistics(folder: Path, manifest: Manifest) -> None:
    """The checkpoint standardises latents as the data's manifest does, or CheckpointError."""
    saved = read_tensors(folder, WEIGHTS)
    for name, ours in (("latent_mean", manifest.latent_mean), ("latent_std", manifest.latent_std)):
        if ours is None or name not in saved:  # load_into names a tensor that is missing
            continue
        theirs, mine = saved[name].double(), torch.tensor(ours, dtype=torch.float64)
        if theirs.shape != mine.shape:
            message = f"the checkpoint's latents have {theirs.numel()} numbers, the data's {mine.numel()}: resume on its own data"
            raise CheckpointError("CHECKPOINT", folder / WEIGHTS, name, message)
        allowed = TOLERANCE * saved["latent_std"].double() + ROUNDING * mine.abs()
        if not bool(((theirs - mine).abs() <= allowed).all()):
            message = "the data's latents have other statistics: resume on the data it was trained on, or start with model.checkpoint_path"
            raise CheckpointError("CHECKPOINT", folder / WEIGHTS, name, message)


def same_data(folder: Path, manifest: Manifest) -> None:
    """A verified checkpoint may be used on the data of `manifest`: its tokenizer and its projection are theirs, where they say so."""
    if manifest.tokenizer["kind"] != "external":
        same_tokenizer(folder, manifest.tokenizer)
    same_projection(folder, manifest.projection)
