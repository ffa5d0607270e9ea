"""`lgdlm convert INPUT out=FOLDER layout=rwkv|hf|run`: RWKV-7 weights out of a run or a file, or a run out of weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from lgdlm.cli.progress import say
from lgdlm.config import Config, RWKV7Model
from lgdlm.errors import InputError

LAYOUTS = ("rwkv", "hf", "run")


def run(config: Config, source: str, out: str) -> int:
    """Exit code 0."""
    if config.prepare.layout == "run":
        return _begin_run(config, source, Path(out))
    from lgdlm.training.export import export

    p = config.prepare
    done = export(Path(source), Path(out), p.layout, dtype=p.weights_dtype, overwrite=p.overwrite)
    s = done.sizes
    say(f"converted: {done.folder}, {done.tensors} tensors, {s.n_blocks} blocks of width {s.hidden_size}, {s.vocab_size} token rows")
    if done.left:
        say(f"left behind: {len(done.left)} tensors ({kinds_of(done.left)})")
    return 0


def kinds_of(names: list[str]) -> str:
    """`fuse 12, clock 4, ...`: the parts that the names belong to, the largest first."""
    found = Counter(name.split(".")[3] if name.startswith("backbone.blocks.") else name.split(".")[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in found.most_common())


def _begin_run(config: Config, source: str, out: Path) -> int:
    """A run whose first checkpoint is the model before its first step: the weights as they were adopted."""
    from lgdlm.training.assemble import assemble
    from lgdlm.training.checkpoint import checkpoints_of, save_checkpoint
    from lgdlm.training.run import RunDirectory

    if not isinstance(config.model, RWKV7Model):
        raise InputError(
            "CONFIG", "command-line", "model", f"layout=run makes an RWKV-7 denoiser: say model=rwkv7, got {config.model.denoiser}"
        )
    if not config.data.latent_dir:
        message = "layout=run needs the data that the model is for: their tokenizer and the statistics of their latents are part of it"
        raise InputError("CONFIG", "command-line", "data.latent_dir", message)
    if checkpoints_of(out):
        raise InputError("RUN_EXISTS", out, "out", "this run has checkpoints already: choose another out")
    steps = config.training.num_train_steps or 1
    model, training = replace(config.model, rwkv_local_path=source), replace(config.training, num_train_steps=steps)
    directory = RunDirectory(out)
    try:
        parts = assemble(replace(config, model=model, training=training), out)
        directory.start(parts.config_yaml, 0, None)
        assert parts.adopted is not None
        directory.event("weights_adopted", source=parts.adopted.source, parity_error=parts.adopted.parity_error)
        folder = save_checkpoint(out, parts.plan.name_of(0), parts.snapshot(0, 0.0))
    finally:
        directory.close()
    say(parts.adopted.line())
    say(f"checkpoint: {folder}")
    return 0
