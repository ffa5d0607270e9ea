"""From a checkpoint folder to a model that can be used: weights, tokenizer and projection, all from the checkpoint itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lgdlm.config import Config
from lgdlm.data.projection import Projection, load_projection
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer
from lgdlm.errors import CheckpointError, InputError
from lgdlm.hardware import default_device
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.schema import from_yaml
from lgdlm.training.checkpoint import CONFIG, WEIGHTS, find_checkpoint, load_into, read_tensors, verify_checkpoint


@dataclass(frozen=True)
class Restored:
    """A trained model with what it needs to read and write text; `projection` is None when latents were given ready."""

    model: TextLatentDiffusion
    tokenizer: Tokenizer
    projection: Projection | None
    config: Config
    folder: Path


def restore(path: str | Path, use_ema: bool = True) -> Restored:
    """Verify, then build and load. `path` is a checkpoint or a run (its latest). Raises CheckpointError (exit 3)."""
    folder = find_checkpoint(Path(path))
    manifest = verify_checkpoint(folder)
    try:
        config = from_yaml((folder / CONFIG).read_text(encoding="utf-8"), folder / CONFIG)
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", folder / CONFIG, problem.field, problem.message) from problem
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
    model = build_model(
        config.model,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        latent_mean=mean,
        latent_std=std,
        text_weighting=config.loss.text_weighting,
        identity={"step": manifest["step"], "tokenizer": tokenizer.identity()},
    )
    load_into(model, folder, averaged=use_ema)
    return Restored(model.to(default_device()).eval(), tokenizer, projection, config, folder)
