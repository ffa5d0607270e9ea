"""The commands of the cycle package: one pass to see that all is well, and training from a YAML file.

smoke_cycle_vae_forward.py --config F [--device cpu]
train_cycle_vae.py --config F [--override k=v ...] [--synthetic] [--resume C]
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgdlm.cli import train
from lgdlm.cli.compose import compose
from lgdlm.cli.progress import say
from lgdlm.config import Config, Loss
from lgdlm.doors.flags import Flag, Given, run_flags
from lgdlm.doors.training import CONFIGS, taken_for_granted
from lgdlm.errors import Diverged, InputError
from lgdlm.strict_yaml import read_yaml

CONFIG = Flag("config", required=True, help="a .yaml file, or the name of a shipped configuration")
SMOKE = (CONFIG, Flag("device", default="cpu", help="cpu, cuda, cuda:1, ..."))
TRAIN = (
    CONFIG,
    Flag("override", list, help="words of the form key=value"),
    Flag("synthetic", bool, help="train on made-up texts whose latents are a linear function of their words"),
    Flag("resume", help="a checkpoint, or auto for the newest of the run"),
)
MADE_UP_TEXTS, MADE_UP_WORDS = 256, 64


def smoke_cycle_vae_forward() -> int:
    """The exit code of `cycle_vae_impl/entrypoints/smoke_cycle_vae_forward.py`."""
    return run_flags("One forward and backward pass with both cycles on.", SMOKE, _smoke)


def train_cycle_vae() -> int:
    """The exit code of `cycle_vae_impl/entrypoints/train_cycle_vae.py`."""
    return run_flags("Train as a YAML file says.", TRAIN, _train)


def _smoke(given: Given) -> int:
    """One line of JSON with the metrics of one pass; Diverged (6) where a number of it is not finite."""
    import torch

    from lgdlm.data.synthetic import tiny_dataset
    from lgdlm.hardware import compute_dtype
    from lgdlm.objectives.build import build_objectives
    from lgdlm.objectives.objective import Ratio, Totals, add_parts, mean_of
    from lgdlm.rng import Rng
    from lgdlm.training.assemble import loader_for, model_for
    from lgdlm.training.modes import refuse_contradictions, trained_modes

    config = compose(given.words, given["config"])
    refuse_contradictions(config)
    if "cycle_vae" not in trained_modes(config):
        message = f"{config.loss.loss_type} has no cycles: set loss.loss_type=cycle_vae"
        raise InputError("CONFIG", given["config"], "loss.loss_type", message)
    device = _device(given["device"])
    data = tiny_dataset(MADE_UP_TEXTS, MADE_UP_WORDS, config.model.latent_dim, config.training.seed)
    model = model_for(config, data, None).to(device).train()
    loss, step = both_cycles(config.loss)
    objective = build_objectives({"cycle_vae"}, loss, config.training)["cycle_vae"]
    drawn = loader_for(config, data, None).step(1)
    dtype, parts = compute_dtype(config.training.dtype, device.type), dict[str, Ratio]()
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        for batch in drawn.batches:
            on_device = batch.to(device)
            report = objective(model, on_device, Rng(config.training.seed, step, on_device.rows), Totals(drawn.tokens, drawn.rows))
            report.total.backward()
            add_parts(parts, report.parts)
    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    metrics = {
        **mean_of(parts),
        "grad_norm": float(torch.stack(gradients).norm()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise Diverged("NON_FINITE", given["config"], bad[0], "is not finite in the first pass")
    print(json.dumps({name: round(value, 6) for name, value in metrics.items()}, allow_nan=False))
    return 0


def both_cycles(loss: Loss) -> tuple[Loss, int]:
    """The weights with both cycles due, and a step behind every warm-up and ramp."""
    ends = (loss.cycle_text_warmup_steps + loss.cycle_text_ramp_steps, loss.cycle_latent_warmup_steps + loss.cycle_latent_ramp_steps)
    step = max(ends) + 1
    return replace(loss, cycle_prob=1.0), math.ceil(step / loss.cycle_every) * loss.cycle_every


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise InputError("USAGE", "command-line", "--device", f"{name} cannot be used here ({str(problem).splitlines()[0]})") from problem
    return device


def _train(given: Given) -> int:
    words = [*given["override"], *given.words]
    if given["resume"] is not None:
        words.append(f"training.resume={given['resume']}")
    words += taken_for_granted([*words, *said_in(given["config"])])
    config = compose(words, given["config"])
    return train.run(_made_up(config) if given["synthetic"] else config)


def said_in(config: str) -> list[str]:
    """What a YAML file says itself, as words; of a file that stands on a configuration of another kind, also that its data are its own."""
    if not config.endswith((".yaml", ".yml")):
        return []
    values = read_yaml(Path(config))
    words = [f"{group}.{name}={value}" for group, keys in values.items() if isinstance(keys, Mapping) for name, value in keys.items()]
    bases = [base for base in values.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    return [*words, *(["data.latent_dir="] if any(base not in CONFIGS for base in bases) else [])]


def _made_up(config: Config) -> Config:
    """The configuration on data that are written into `logging.save_dir/synthetic` and stay there."""
    from lgdlm.data.synthetic import write_tiny

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        message = "writes its data first: run it once alone, then name them by data.latent_dir"
        raise InputError("USAGE", "command-line", "--synthetic", message)
    folder = write_tiny(Path(config.logging.save_dir, "synthetic"), MADE_UP_TEXTS, MADE_UP_WORDS, config.model.latent_dim)
    say(f"made-up data: {folder}")
    return replace(config, data=replace(config.data, latent_dir=str(folder), token_dir=""), tokenizer=replace(config.tokenizer, path=None))
