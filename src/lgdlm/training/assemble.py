"""From a configuration to a run that is ready to start or go on: every part built, the newest checkpoint loaded.

All ranks build; what a fresh model starts from is found by the lead alone, and sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lgdlm.config import Config
from lgdlm.data.loader import Loader
from lgdlm.data.paired import PairedDataset
from lgdlm.data.tokenizer import Tokenizer
from lgdlm.data.tokenizer_identity import read_identity
from lgdlm.errors import CheckpointError, InputError
from lgdlm.hardware import compute_dtype, default_device, peak_memory
from lgdlm.models.adoption import AdoptionReport
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.build import build_objectives
from lgdlm.schema import to_yaml
from lgdlm.training.agreement import same_projection, same_statistics, same_tokenizer
from lgdlm.training.backbone import origins, settle, sized
from lgdlm.training.checkpoint import AVERAGES, OPTIMIZER, Snapshot, load_into, read_state, read_tensors, verify_checkpoint
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.ema import Ema
from lgdlm.training.freezing import Freezer, stages_of
from lgdlm.training.global_batch import GlobalBatch, global_batch, recorded
from lgdlm.training.guard import Guard
from lgdlm.training.loop import Plan
from lgdlm.training.modes import refuse_contradictions, schedule_for, trained_modes
from lgdlm.training.naming import find_checkpoint
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.sharding import refuse_sharding, shard
from lgdlm.training.splits import eos_of, named_tokenizer, open_splits
from lgdlm.training.start import start
from lgdlm.training.step import TrainStep
from lgdlm.training.validation import validate
from lgdlm.training.weights import weights_of

UNLIMITED_STEPS = 1 << 40  # where only the clock ends a run


@dataclass
class Assembly:
    """The parts of one run, wired. `start`, `seconds` and `peak_memory` (bytes) are what the resumed checkpoint has behind it;
    `adopted` says what became of pretrained weights."""

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
    peak_memory: int = 0
    adopted: AdoptionReport | None = None


def assemble(config: Config, run: Path, resume_from: Path | None = None, world: World = ALONE) -> Assembly:
    """Build everything that `config` names for the run in folder `run`; `resume_from` is a verified checkpoint to go on from.

    All ranks of `world` call it. With `training.shard` each keeps its part of the denoiser.

    Raises InputError for a configuration or data that cannot work, CheckpointError for a checkpoint of another model or tokenizer.
    """
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    refuse_contradictions(config)
    sharded = config.training.shard and world.size > 1
    if config.training.shard:
        refuse_sharding(config)
    warm = find_checkpoint(Path(config.model.checkpoint_path)) if config.model.checkpoint_path and resume_from is None else None
    if warm is not None:
        verified(warm, world)
    origin = resume_from or warm
    config, weights = sized(config, origin)
    tokenizer = named_tokenizer(config)
    train_data, held_out = open_splits(config, tokenizer)
    model = model_for(config, train_data, tokenizer).to(default_device())
    held = world.lead(lambda: {name: str(path) for name, path in companions(config, tokenizer, train_data, run, origin).items()})
    folders = {name: Path(path) for name, path in held.items()}
    batch, adopted = global_batch(config.training, world, None if resume_from is None else recorded(resume_from)), None
    if resume_from is None:
        whole = replace(batch, accumulation=batch.accumulation * world.size)
        adopted = start(
            model, config, train_data, folders, run, world,
            warm=warm, weights=weights, texts=lambda: loader_for(config, train_data, tokenizer, batch=whole),
        )  # fmt: skip
    settle(model, config)
    grown_from = origins(adopted, origin)
    if sharded:
        shard(model, world)
    autocast = compute_dtype(config.training.dtype, model.device.type)
    loader = loader_for(config, train_data, tokenizer, batch=batch, world=world)
    stages = stages_of(config.training, loader.steps_per_epoch)
    freezer = Freezer(model, config.training.unfreeze_patterns, config.training.unfreeze_after_steps, stages)
    plan = plan_for(config, loader.steps_per_epoch)
    o, t = config.optimizer, config.training
    optimizers = Optimizers(
        model, name=o.name, lr=o.lr, muon_lr=o.muon_lr, weight_decay=o.weight_decay, betas=(o.beta1, o.beta2), eps=o.eps, fused=o.use_fused
    )
    ema, guard = Ema(model, t.ema_decay), Guard(t.max_skipped_steps, world.all_agree)
    objectives = build_objectives(trained_modes(config), config.loss, t)
    if t.compile_model:
        model.denoiser.compile(dynamic=True)
    train_step = TrainStep(
        model, objectives, schedule_for(config, loader.steps_per_epoch), optimizers, ema, guard, world=world,
        seed=t.seed, clip=o.grad_clip_norm, compute_dtype=autocast, poison=[i for i in t.poison_ids.split(",") if i], freezer=freezer,
    )  # fmt: skip
    check = loader_for(config, held_out, tokenizer, validation=True)

    def validation() -> dict[str, float]:
        with ema.applied():
            return validate(model, check, config.logging.num_eval_batches, t.seed, autocast, ALONE if sharded else world)

    config_yaml = to_yaml(config)

    def snapshot(step: int, seconds: float) -> Snapshot:
        state: dict[str, Any] = {"seconds": seconds, "skipped": guard.skipped, "skipped_in_a_row": guard.skipped_in_a_row}
        state |= {"peak_memory_bytes": max(assembly.peak_memory, peak_memory(model.device.type)), "batch": batch.record, **grown_from}
        return Snapshot(step, weights_of(model), ema.average, optimizers.tensors(), state, config_yaml, folders, world.size)

    assembly = Assembly(model, train_data, train_step, loader, plan, validation, snapshot, config_yaml, adopted=adopted)
    if resume_from is not None:
        same_tokenizer(resume_from, read_identity(folders["tokenizer"]))
        same_projection(resume_from, train_data.manifest.projection if train_data.has_latents else None)
        if train_data.has_latents:
            world.lead(partial(same_statistics, resume_from, train_data.manifest))
        assembly.start, assembly.seconds, assembly.peak_memory = _resume(resume_from, model, ema, optimizers, guard)
    return assembly


def verified(folder: Path, world: World) -> None:
    """The lead compares every file's hash. Raises CheckpointError on all ranks."""
    world.lead(lambda: int(verify_checkpoint(folder)["step"]))


def _resume(folder: Path, model: TextLatentDiffusion, ema: Ema, optimizers: Optimizers, guard: Guard) -> tuple[int, float, int]:
    """Everything of a verified checkpoint into the parts; the step, the seconds and the peak memory behind it."""
    load_into(model, folder, averaged=False)
    try:
        ema.load(read_tensors(folder, AVERAGES, ema.live))
        optimizers.load(read_tensors(folder, OPTIMIZER, optimizers.like()))
        state = read_state(folder)
        guard.skipped, guard.skipped_in_a_row = int(state["skipped"]), int(state["skipped_in_a_row"])
        return state["step"], float(state["seconds"]), int(state.get("peak_memory_bytes", 0))
    except (KeyError, ValueError, RuntimeError) as mismatch:
        message = f"does not fit this configuration ({mismatch}): resume with the run's own config.yaml"
        raise CheckpointError("CHECKPOINT", folder, "state", message) from mismatch


def companions(config: Config, tokenizer: Tokenizer | None, data: PairedDataset, run: Path, origin: Path | None) -> dict[str, Path]:
    """Folders that every checkpoint carries: the tokenizer and, where latents were projected, the projection.

    Where the data's latents are not read, the space is that of the checkpoint which training comes from, `origin`.
    """
    held = (
        {} if data.folder is None else {name: data.folder / name for name in ("tokenizer", "projection") if (data.folder / name).is_dir()}
    )
    if not data.has_latents:
        held.pop("projection", None)
        if origin is not None and (origin / "projection").is_dir():
            held["projection"] = shutil.copytree(origin / "projection", run / "projection", dirs_exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(run / "tokenizer")
        held["tokenizer"] = run / "tokenizer"
    if "tokenizer" not in held:
        raise InputError(
            "NO_TOKENIZER", config.data.latent_dir, "tokenizer.path", "the data carries no tokenizer: name the one that made its tokens"
        )
    return held


def model_for(config: Config, data: PairedDataset, tokenizer: Tokenizer | None) -> TextLatentDiffusion:
    """A fresh model. Where the data's latents are not read, its own begin with mean 0 and deviation 1."""
    manifest, width = data.manifest, config.model.latent_dim
    mean, std = (manifest.latent_mean, manifest.latent_std) if data.has_latents else ((0.0,) * width, (1.0,) * width)
    assert mean is not None, "data with latents say where they lie"
    assert std is not None, "data with latents say how they are spread"
    return build_model(
        config.model,
        vocab_size=manifest.vocab_size,
        eos_id=eos_of(data, tokenizer),
        latent_mean=torch.tensor(mean),
        latent_std=torch.tensor(std),
        text_weighting=config.loss.text_weighting,
        seed=config.training.seed,
    )


def loader_for(
    config: Config,
    data: PairedDataset,
    tokenizer: Tokenizer | None,
    validation: bool = False,
    batch: GlobalBatch | None = None,
    world: World = ALONE,
) -> Loader:
    """The rows of this rank; of a validation, and without a `world`, all rows."""
    t, m = config.training, config.model
    batch = batch or global_batch(t, world)
    return Loader(
        data,
        batch_size=min(t.eval_batch_size, len(data)) if validation else batch.rows,
        bucket_rows=config.data.bucket_rows,
        seed=t.seed,
        rank=world.rank,
        world_size=world.size,
        alike=t.shard,
        accumulation=1 if validation else batch.accumulation,
        length_mode=m.length,
        eos_id=eos_of(data, tokenizer),
        max_length=m.max_seq_len,
        fill_multiple=m.row_multiple,
        shuffle=not validation,
        prefetch=0 if validation else config.data.prefetch,
        window_rows=config.data.window_rows,
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
        speed=config.logging.speed,
        epoch_steps=steps_per_epoch if t.num_epochs else None,
    )
