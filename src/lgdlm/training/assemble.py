"""From a configuration to a run that is ready to start or go on: every part built, the newest checkpoint loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lgdlm.config import Config
from lgdlm.data.loader import Loader
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from lgdlm.data.tokenizer_identity import read_identity
from lgdlm.errors import CheckpointError, InputError
from lgdlm.hardware import compute_dtype, default_device
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import Weights, denoising_objectives
from lgdlm.schema import to_yaml
from lgdlm.training.checkpoint import (
    AVERAGES,
    OPTIMIZER,
    STATE,
    Snapshot,
    find_checkpoint,
    load_into,
    read_tensors,
    verify_checkpoint,
    weights_of,
)  # fmt: skip
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.initialise import initialise
from lgdlm.training.loop import Plan
from lgdlm.training.modes import refuse_contradictions, schedule_for
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.step import TrainStep
from lgdlm.training.validation import validate

UNLIMITED_STEPS = 1 << 40  # where only the clock ends a run


@dataclass
class Assembly:
    """The parts of one run, wired. `start` and `seconds` are what the resumed checkpoint has behind it."""

    model: TextLatentDiffusion
    train_data: PairedDataset
    train_step: TrainStep
    loader: Loader
    plan: Plan
    validation: Callable[[], dict[str, float]]
    snapshot: Callable[[int, float], Snapshot]
    config_yaml: str
    start: int = 0
    seconds: float = 0.0


def assemble(config: Config, run: Path, resume_from: Path | None = None) -> Assembly:
    """Build everything that `config` names for the run in folder `run`; `resume_from` is a verified checkpoint to go on from.

    Raises InputError for a configuration or data that cannot work, CheckpointError for a checkpoint of another model or tokenizer.
    """
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    refuse_contradictions(config)
    tokenizer = named_tokenizer(config)
    train_data, held_out = open_splits(config, tokenizer)
    model = model_for(config, train_data, tokenizer).to(default_device())
    folders = companions(config, tokenizer, train_data, run)
    if config.model.checkpoint_path and resume_from is None:
        warm = find_checkpoint(Path(config.model.checkpoint_path))
        verify_checkpoint(warm)
        same_tokenizer(warm, folders["tokenizer"])
        load_into(model, warm, averaged=True)
    elif resume_from is None:
        initialise(model, train_data, token_init=config.model.token_init, seed=config.training.seed)
    autocast = compute_dtype(config.training.dtype, model.device.type)
    loader = loader_for(config, train_data, tokenizer)
    plan = plan_for(config, loader.steps_per_epoch)
    o, t = config.optimizer, config.training
    optimizers = Optimizers(
        model, name=o.name, lr=o.lr, muon_lr=o.muon_lr, weight_decay=o.weight_decay, betas=(o.beta1, o.beta2), eps=o.eps, fused=o.use_fused
    )
    ema, guard = Ema(model, t.ema_decay), Guard(t.max_skipped_steps)
    weights = Weights(config.loss.text_loss_weight, config.loss.latent_loss_weight, config.loss.length_loss_weight)
    objectives = denoising_objectives(weights, t.cfg_dropout_prob, config.loss.l2t_text_t_mode, config.loss.latent_t_mode)
    if t.compile_model:
        model.denoiser.compile(dynamic=True)
    train_step = TrainStep(
        model, objectives, schedule_for(config, loader.steps_per_epoch), optimizers, ema, guard,
        seed=t.seed, clip=o.grad_clip_norm, compute_dtype=autocast, poison=[i for i in t.poison_ids.split(",") if i],
    )  # fmt: skip
    check = loader_for(config, held_out, tokenizer, validation=True)

    def validation() -> dict[str, float]:
        with ema.applied():
            return validate(model, check, config.logging.num_eval_batches, t.seed, autocast)

    config_yaml = to_yaml(config)

    def snapshot(step: int, seconds: float) -> Snapshot:
        state = {"seconds": seconds, "skipped": guard.skipped, "skipped_in_a_row": guard.skipped_in_a_row}
        return Snapshot(step, weights_of(model), ema.average, optimizers.tensors(), state, config_yaml, folders)

    assembly = Assembly(model, train_data, train_step, loader, plan, validation, snapshot, config_yaml)
    if resume_from is not None:
        same_tokenizer(resume_from, folders["tokenizer"])
        assembly.start, assembly.seconds = _resume(resume_from, model, ema, optimizers, guard)
    return assembly


def _resume(folder: Path, model: TextLatentDiffusion, ema: Ema, optimizers: Optimizers, guard: Guard) -> tuple[int, float]:
    """Everything of a verified checkpoint into the parts; the step and the seconds behind it."""
    load_into(model, folder, averaged=False)
    try:
        ema.load(read_tensors(folder, AVERAGES))
        optimizers.load(read_tensors(folder, OPTIMIZER))
        state = json.loads((folder / STATE).read_bytes())
        guard.skipped, guard.skipped_in_a_row = int(state["skipped"]), int(state["skipped_in_a_row"])
        return int(state["step"]), float(state["seconds"])
    except (KeyError, ValueError, RuntimeError) as mismatch:
        message = f"does not fit this configuration ({mismatch}): resume with the run's own config.yaml"
        raise CheckpointError("CHECKPOINT", folder, "state", message) from mismatch


def same_tokenizer(folder: Path, tokenizer: Path) -> None:
    """Ids mean the same in a checkpoint and in the data's tokenizer (a folder), or CheckpointError."""
    try:
        theirs = read_identity(folder / "tokenizer")
    except InputError as problem:
        raise CheckpointError("CHECKPOINT", folder / "tokenizer", problem.field, problem.message) from problem
    if theirs != (ours := read_identity(tokenizer)):
        theirs_is, ours_is = (f"{one.get('kind')} ({one.get('vocab_size')} ids)" for one in (theirs, ours))
        message = f"the checkpoint's ids are of {theirs_is}, the data's of {ours_is}: use the data it was trained on"
        raise CheckpointError("CHECKPOINT", folder / "tokenizer", "tokenizer", message)


def named_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names: a saved folder, or `byte` or `rwkv`. None: the one saved with the data."""
    name = config.tokenizer.path
    if name is None:
        return None
    return load_tokenizer(Path(name)) if Path(name).is_dir() else make_tokenizer(name)


def companions(config: Config, tokenizer: Tokenizer | None, data: PairedDataset, run: Path) -> dict[str, Path]:
    """Folders that every checkpoint carries: the tokenizer and, where latents were projected, the projection."""
    held = (
        {} if data.folder is None else {name: data.folder / name for name in ("tokenizer", "projection") if (data.folder / name).is_dir()}
    )
    if tokenizer is not None:
        tokenizer.save(run / "tokenizer")
        held["tokenizer"] = run / "tokenizer"
    if "tokenizer" not in held:
        raise InputError(
            "NO_TOKENIZER", config.data.latent_dir, "tokenizer.path", "the data carries no tokenizer: name the one that made its tokens"
        )
    return held


def open_splits(config: Config, tokenizer: Tokenizer | None) -> tuple[PairedDataset, PairedDataset]:
    data = config.data
    if not data.latent_dir:
        raise InputError("CONFIG", "config", "data.latent_dir", "expected the folder that `lgdlm prepare` wrote, got nothing")
    common: dict[str, Any] = {
        "token_dir": data.token_dir or None,
        "latent_dim": config.model.latent_dim,
        "vocab_size": None if tokenizer is None else tokenizer.vocab_size,
        "external_latents": data.use_external_latents,
    }
    train = open_dataset(data.latent_dir, "train", limit=data.max_samples, **common)
    if tokenizer is not None and train.manifest.tokenizer["kind"] != "external" and train.manifest.tokenizer != tokenizer.identity():
        message = f"is not the tokenizer of the data ({train.manifest.tokenizer['kind']}); leave it out to use the one saved with them"
        raise InputError("TOKENIZER", data.latent_dir, "tokenizer.path", message)
    return train, open_dataset(data.latent_dir, "validation", limit=data.max_val_samples, train=train, **common)


def eos_of(data: PairedDataset, tokenizer: Tokenizer | None) -> int:
    return tokenizer.eos_id if tokenizer is not None else int(data.manifest.tokenizer["eos_id"])


def model_for(config: Config, data: PairedDataset, tokenizer: Tokenizer | None) -> TextLatentDiffusion:
    manifest = data.manifest
    if manifest.latent_mean is None or manifest.latent_std is None:
        raise InputError(
            "NO_LATENTS", config.data.latent_dir, "latents", "the objectives of Stage I need latents: prepare the data with an encoder"
        )
    return build_model(
        config.model,
        vocab_size=manifest.vocab_size,
        eos_id=eos_of(data, tokenizer),
        latent_mean=torch.tensor(manifest.latent_mean),
        latent_std=torch.tensor(manifest.latent_std),
        text_weighting=config.loss.text_weighting,
        seed=config.training.seed,
    )


def loader_for(config: Config, data: PairedDataset, tokenizer: Tokenizer | None, validation: bool = False) -> Loader:
    t, m = config.training, config.model
    rows = min(t.eval_batch_size, len(data)) if validation else t.train_batch_size * t.gradient_accumulation_steps
    return Loader(
        data,
        batch_size=rows,
        bucket_rows=config.data.bucket_rows,
        seed=t.seed,
        accumulation=1 if validation else t.gradient_accumulation_steps,
        length_mode=m.length,
        eos_id=eos_of(data, tokenizer),
        max_length=m.max_seq_len,
        shuffle=not validation,
    )


def plan_for(config: Config, steps_per_epoch: int) -> Plan:
    t = config.training
    if t.num_train_steps is None and t.num_epochs is None and t.max_minutes is None:
        raise InputError(
            "CONFIG", "config", "training.num_train_steps", "expected num_train_steps, num_epochs or max_minutes, got none of them"
        )
    limits = [n for n in (t.num_train_steps, t.num_epochs and t.num_epochs * steps_per_epoch) if n]
    return Plan(
        steps=min(limits) if limits else UNLIMITED_STEPS,
        warmup=t.warmup_steps,
        course=t.lr_schedule,
        min_lr_ratio=t.min_lr_ratio,
        minutes=t.max_minutes,
        save_every=t.save_every_n_steps,
        keep=t.keep_checkpoints,
        validate_every=config.logging.eval_freq,
        ledger=t.ledger,
        epoch_steps=steps_per_epoch if t.num_epochs else None,
    )
