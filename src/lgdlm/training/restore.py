"""From a checkpoint folder to a model that can be used: weights, tokenizer and projection, all from the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lgdlm.config import Config
from lgdlm.data.projection import Projection, load_projection
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer
from lgdlm.errors import CheckpointError, InputError
from lgdlm.hardware import default_device
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.schema import from_yaml
from lgdlm.training.checkpoint import CONFIG, OPTIMIZER, WEIGHTS, load_into, newest_whole_before, read_tensors, verify_checkpoint
from lgdlm.training.naming import used
from lgdlm.training.optimizer import SLOTS, refuse_misfit
from lgdlm.training.weights import compare_weights


@dataclass(frozen=True)
class Restored:
    """A trained model with what it needs to read and write text; `projection` is None when latents were given ready."""

    model: TextLatentDiffusion
    tokenizer: Tokenizer
    projection: Projection | None
    config: Config
    folder: Path


def restore(path: str | Path, use_ema: bool = True, passed_over: Callable[[CheckpointError], None] | None = None) -> Restored:
    """Verify, then build and load. `path` is a checkpoint or a run (its latest). Raises CheckpointError (exit 3).

    With `passed_over` the newest older checkpoint that is whole takes the place of a damaged one, whose damage is handed to it.
    """

    def restored(folder: Path) -> Restored:
        try:
            manifest = verify_checkpoint(folder, look_into)
        except CheckpointError as damage:
            if passed_over is None or (older := newest_whole_before(folder)) is None:
                raise
            passed_over(damage)
            folder, manifest = older, verify_checkpoint(older)
        return rebuilt(folder, manifest, use_ema)

    return used(Path(path), restored)


def rebuilt(folder: Path, manifest: Mapping[str, Any], use_ema: bool = True) -> Restored:
    """The model of a verified checkpoint with its `manifest`. Raises CheckpointError where its files do not make one."""
    try:
        config = from_yaml((folder / CONFIG).read_text(encoding="utf-8"), folder / CONFIG)
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, problem.field, problem.message) from problem
    except FileNotFoundError as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, "file", "missing") from problem
    except UnicodeDecodeError as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, "yaml", f"is not UTF-8 at byte {problem.start}") from problem
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
        projection = load_projection(folder / "projection") if (folder / "projection").is_dir() else None
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", problem.where, problem.field, problem.message) from problem
    saved = read_tensors(folder, WEIGHTS)
    try:
        mean, std = saved["latent_mean"], saved["latent_std"]
    except KeyError as absent:
        raise CheckpointError("CHECKPOINT", folder / WEIGHTS, str(absent), "the latent statistics are missing") from absent
    build = partial(
        build_model,
        config.model,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        latent_mean=mean,
        latent_std=std,
        text_weighting=config.loss.text_weighting,
        identity={"step": manifest["step"], "tokenizer": tokenizer.identity()},
    )
    try:
        if config.model.n_blocks > len(saved):
            raise ValueError(f"{config.model.n_blocks} blocks in {len(saved)} tensors")
        with torch.device("meta"):  # the shapes alone: what they would take is compared with what is there before it is taken
            compare_weights(build(), saved, folder / WEIGHTS)
        model = build()
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, problem.field, problem.message) from problem
    except (ValueError, RuntimeError, TypeError, ArithmeticError) as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, "model", f"describes no model that can be built ({problem})") from problem
    load_into(model, folder, averaged=use_ema)
    return Restored(model.to(default_device()).eval(), tokenizer, projection, config, folder)


def look_into(folder: Path, manifest: Mapping[str, Any]) -> None:
    """That the files make a model, and the optimizer's state is one of it, whatever their hashes say. Raises CheckpointError."""
    restored, moments = rebuilt(folder, manifest), read_tensors(folder, OPTIMIZER)
    parameters = dict(restored.model.named_parameters())
    try:
        for key, value in moments.items():
            name, _, slot = key.rpartition("|")
            if name not in parameters or not any(slot in slots for slots in SLOTS.values()):
                raise ValueError(f"{key}: no parameter has this")
            refuse_misfit(key, value, slot, parameters[name])
    except ValueError as problem:
        key = str(problem).partition(":")[0]
        raise CheckpointError("CHECKPOINT", folder / OPTIMIZER, key, f"is not of this model ({problem})") from problem
