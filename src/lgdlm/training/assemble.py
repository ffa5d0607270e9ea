"""From a configuration to a run that is ready to start or go on: every part built, the newest checkpoint loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lgdlm.config import Config
from lgdlm.data.loader import Loader
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from lgdlm.errors import CheckpointError, InputError
from lgdlm.hardware import compute_dtype, default_device
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import Weights, denoising_objectives
from lgdlm.objectives.schedule import Constant, ObjectiveSchedule, Random, Sequential
from lgdlm.schema import to_yaml
from lgdlm.training.checkpoint import AVERAGES, OPTIMIZER, STATE, Snapshot, load_into, read_tensors, verify_checkpoint, weights_of
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.initialise import initialise
from lgdlm.training.loop import Plan
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.step import TrainStep
from lgdlm.training.validation import validate

ALIASES = {"stage1_coupling": "unconditional"}
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
    """Build everything that `config` names for the run in folder `run`; `resume_from` is a checkpoint whose state replaces the fresh one.

    Raises InputError for a configuration or data that cannot work, CheckpointError for a damaged checkpoint.
    """
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    refuse_contradictions(config)
    tokenizer = named_tokenizer(config)
    train_data, held_out = open_splits(config, tokenizer)
    model = model_for(config, train_data, tokenizer).to(default_device())
    if config.model.checkpoint_path and resume_from is None:
        warm = Path(config.model.checkpoint_path)
        verify_checkpoint(warm)
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

    folders = companions(config, train_data, run)
    config_yaml = to_yaml(config)

    def snapshot(step: int, seconds: float) -> Snapshot:
        state = {"seconds": seconds, "skipped": guard.skipped, "skipped_in_a_row": guard.skipped_in_a_row}
        return Snapshot(step, weights_of(model), ema.average, optimizers.tensors(), state, config_yaml, folders)

    assembly = Assembly(model, train_data, train_step, loader, plan, validation, snapshot, config_yaml)
    if resume_from is not None:
        assembly.start, assembly.seconds = _resume(resume_from, model, ema, optimizers, guard)
    return assembly


def _resume(folder: Path, model: TextLatentDiffusion, ema: Ema, optimizers: Optimizers, guard: Guard) -> tuple[int, float]:
    """Everything of a checkpoint into the parts; the step and the seconds behind it."""
    verify_checkpoint(folder)
    load_into(model, folder, averaged=False)
    try:
        ema.load(read_tensors(folder, AVERAGES))
        optimizers.load(read_tensors(folder, OPTIMIZER))
        state = json.loads((folder / STATE).read_bytes())
        guard.skipped, guard.skipped_in_a_row = int(state["skipped"]), int(state["skipped_in_a_row"])
        return int(state["step"]), float(state["seconds"])
    except (KeyError, ValueError, RuntimeError) as mismatch:
        raise CheckpointError("CHECKPOINT", folder, str(mismatch)[:80], "does not fit this configuration: resume with the run's own") from mismatch


def refuse_contradictions(config: Config) -> None:
    """Settings that each are valid and together cannot work."""
    model, loss = config.model, config.loss
    modes = trained_modes(config)
    if model.latent_parameterization == "epsilon" and loss.latent_t_mode == "full" and "t2l" in modes:
        raise InputError(
            "CONFIG", "config", "model.latent_parameterization",
            "epsilon with loss.latent_t_mode=full would train t2l to copy its input: at t = 1 the noise is the whole input and the"
            " latent cannot be recovered; use v_param",
        )  # fmt: skip
    if getattr(model, "causality", "") == "causal" and model.latent_pred_from == "prefix" and modes & {"t2l", "unconditional"}:
        raise InputError(
            "CONFIG", "config", "model.latent_pred_from",
            "prefix states of a causal network come before the text and cannot see it; use text or both",
        )  # fmt: skip


def trained_modes(config: Config) -> set[str]:
    kind = ALIASES.get(config.loss.loss_type, config.loss.loss_type)
    if kind == "random":
        return {ALIASES.get(name, name) for name, weight in config.training.mode_weights.items() if weight > 0}
    if kind == "sequential":
        return {ALIASES.get(phase.type, phase.type) for phase in config.training.sequential_schedule}
    return {kind}


def schedule_for(config: Config, steps_per_epoch: int) -> ObjectiveSchedule:
    t, kind = config.training, ALIASES.get(config.loss.loss_type, config.loss.loss_type)
    try:
        if kind == "random":
            return Random({ALIASES.get(name, name): weight for name, weight in t.mode_weights.items()}, t.seed)
        if kind == "sequential":
            return Sequential([(ALIASES.get(p.type, p.type), p.steps or (p.epochs or 0) * steps_per_epoch) for p in t.sequential_schedule])
    except ValueError as problem:
        raise InputError("CONFIG", "config", "training", str(problem)) from problem
    return Constant(kind)


def named_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names: a saved folder, or `byte` or `rwkv`. None: the one saved with the data."""
    name = config.tokenizer.path
    if name is None:
        return None
    return load_tokenizer(Path(name)) if Path(name).is_dir() else make_tokenizer(name)


def companions(config: Config, data: PairedDataset, run: Path) -> dict[str, Path]:
    """Folders that every checkpoint carries: the tokenizer and, where latents were projected, the projection."""
    held = {} if data.folder is None else {name: data.folder / name for name in ("tokenizer", "projection") if (data.folder / name).is_dir()}
    if (tokenizer := named_tokenizer(config)) is not None:
        tokenizer.save(run / "tokenizer")
        held["tokenizer"] = run / "tokenizer"
    if "tokenizer" not in held:
        raise InputError("NO_TOKENIZER", config.data.latent_dir, "tokenizer.path", "the data carries no tokenizer: name the one that made its tokens")
    return held


def open_splits(config: Config, tokenizer: Tokenizer | None) -> tuple[PairedDataset, PairedDataset]:
    data = config.data
    if not data.latent_dir:
        raise InputError("CONFIG", "config", "data.latent_dir", "expected the folder that `lgdlm prepare` wrote, got nothing")
    common = {
        "token_dir": data.token_dir or None,
        "latent_dim": config.model.latent_dim,
        "vocab_size": None if tokenizer is None else tokenizer.vocab_size,
        "external_latents": data.use_external_latents,
    }
    train = open_dataset(data.latent_dir, "train", limit=data.max_samples, **common)
    return train, open_dataset(data.latent_dir, "validation", limit=data.max_val_samples, train=train, **common)


def eos_of(data: PairedDataset, tokenizer: Tokenizer | None) -> int:
    return tokenizer.eos_id if tokenizer is not None else int(data.manifest.tokenizer["eos_id"])


def model_for(config: Config, data: PairedDataset, tokenizer: Tokenizer | None) -> TextLatentDiffusion:
    manifest = data.manifest
    if manifest.latent_mean is None or manifest.latent_std is None:
        raise InputError("NO_LATENTS", config.data.latent_dir, "latents", "the objectives of Stage I need latents: prepare the data with an encoder")
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
        raise InputError("CONFIG", "config", "training.num_train_steps", "expected num_train_steps, num_epochs or max_minutes, got none of them")
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
    )
