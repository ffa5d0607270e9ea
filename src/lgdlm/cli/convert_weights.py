"""`lgdlm convert INPUT out=FOLDER layout=rwkv|hf|run`: RWKV-7 weights out of a run or a file, or a run out of weights.

INPUT may be a checkpoint of an earlier system (`checkpoint.pt`, `epoch_XXX/`): its RWKV-7 stack is taken, or for `run` a model of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lgdlm.cli.progress import say
from lgdlm.config import Config, RWKV7Model
from lgdlm.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lgdlm.training.assemble import Assembly
    from lgdlm.training.old_checkpoint import OldCheckpoint

LAYOUTS = ("rwkv", "hf", "run")


def run(config: Config, source: str, out: str) -> int:
    """Exit code 0."""
    from lgdlm.training.export import export
    from lgdlm.training.old_checkpoint import read_old, write_stack
    from lgdlm.training.old_spelling import old_weights

    p, old = config.prepare, read_old(Path(source)) if old_weights(Path(source)) is not None else None
    if p.layout == "run":
        return _begin_run(config, source, Path(out), old)
    with TemporaryDirectory(prefix="lgdlm-") as aside:
        weights = Path(source) if old is None else write_stack(old, Path(aside))
        done = export(weights, Path(out), p.layout, dtype=p.weights_dtype, overwrite=p.overwrite)
    s = done.sizes
    say(f"converted: {done.folder}, {done.tensors} tensors, {s.n_blocks} blocks of width {s.hidden_size}, {s.vocab_size} token rows")
    if done.left:
        say(f"left behind: {len(done.left)} tensors ({kinds_of(done.left)})")
    return 0


def kinds_of(names: list[str]) -> str:
    """`fuse 12, clock 4, ...`: the parts that the names belong to, the largest first."""
    found = Counter(name.split(".")[3] if name.startswith("backbone.blocks.") else name.split(".")[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in found.most_common())


def _begin_run(config: Config, source: str, out: Path, old: OldCheckpoint | None) -> int:
    """A run whose first checkpoint is the model before its first step: the weights as they were adopted, or those of `old`."""
    from lgdlm.training.assemble import assemble
    from lgdlm.training.checkpoint import save_checkpoint
    from lgdlm.training.naming import checkpoints_of
    from lgdlm.training.old_checkpoint import write_stack
    from lgdlm.training.run import RunDirectory

    ours = None if old is None else old.ours()
    if old is not None and ours is None and old.stack() is None:
        raise old.refusal()
    if ours is None and not isinstance(config.model, RWKV7Model):
        raise InputError(
            "CONFIG", "command-line", "model", f"layout=run makes an RWKV-7 denoiser: say model=rwkv7, got {config.model.denoiser}"
        )
    if not config.data.latent_dir:
        message = "layout=run needs the data that the model is for: their tokenizer and the statistics of their latents are part of it"
        raise InputError("CONFIG", "command-line", "data.latent_dir", message)
    if checkpoints_of(out):
        raise InputError("RUN_EXISTS", out, "out", "this run has checkpoints already: choose another out")
    steps = config.training.num_train_steps or 1
    model, training = config.model, replace(config.training, num_train_steps=steps)
    directory = RunDirectory(out)
    try:
        if ours is None:
            weights = source if old is None else str(write_stack(old, out))
            assert isinstance(model, RWKV7Model)
            model = replace(model, rwkv_local_path=weights)
        parts = assemble(replace(config, model=model, training=training), out)
        if ours is not None and old is not None:
            _load(parts, ours, old.source)
        directory.start(parts.config_yaml, 0, None)
        if parts.adopted is not None:
            directory.event("weights_adopted", source=parts.adopted.source, parity_error=parts.adopted.parity_error)
        else:
            directory.event("weights_converted", source=source, step=0 if old is None else old.step)
        folder = save_checkpoint(out, parts.plan.name_of(0), parts.snapshot(0, 0.0))
    finally:
        directory.close()
    say(parts.adopted.line() if parts.adopted is not None else f"weights: {source}, {len(ours or ())} tensors used")
    say(f"checkpoint: {folder}")
    return 0


def _load(parts: Assembly, tensors: dict[str, Tensor], source: Path) -> None:
    """All tensors of a model of ours into the parts, their averages included. Raises CheckpointError where they do not fit."""
    import torch

    from lgdlm.training.weights import load_weights

    with torch.no_grad():
        load_weights(parts.model, tensors, source)
        for name, average in parts.train_step.ema.average.items():
            average.copy_(tensors[name])
