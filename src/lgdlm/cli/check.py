"""`lgdlm check FOLDER`: every problem of a data folder, or whether a checkpoint is whole. Changes nothing.

FOLDER (data.latent_dir)     data, as training with the same words would read them; or a run or one of its checkpoints
model.checkpoint_path        a checkpoint, whatever it looks like
"""

from __future__ import annotations

from pathlib import Path

from lgdlm.cli.prepare import Stages
from lgdlm.config import Config
from lgdlm.errors import CheckpointError, InputError

MARKS = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "training_log.jsonl", "latest", "events.jsonl"}


def run(config: Config) -> int:
    """Exit code 0 where nothing is wrong; InputError (2) or CheckpointError (3) with the first problem, the count and the list."""
    data, checkpoint = config.data.latent_dir, config.model.checkpoint_path
    if not data and checkpoint is None:
        raise InputError("CONFIG", "command-line", "data.latent_dir", "expected a folder; lgdlm check FOLDER")
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint))
    if data:
        check_checkpoint(Path(data)) if is_checkpoint(Path(data)) else check_data(config)
    return 0


def check_data(config: Config) -> None:
    """Print what a data folder holds; raise its problems."""
    from lgdlm.data.problems import refuse
    from lgdlm.training.splits import inspect_splits, named_tokenizer

    with Stages() as stages:
        found = inspect_splits(config, named_tokenizer(config), stages)
    print(f"{found.folder}: {found.layout} layout, latents of {found.latent_dim or 'no'} numbers")
    for split, rows in found.rows.items():
        print(f"  {split:<11} {rows:>9,} texts  {found.tokens[split]:>11,} tokens")
    for note in found.notes:
        print(f"  note: {note}")
    for code, count in sorted(found.kinds.items()):
        print(f"  {count:>9,}  {code}")
    refuse(found.problems)
    print("  no problems")


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a run or one of its checkpoints, finished or damaged."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & MARKS) or folder.name.startswith(("step_", "epoch_"))


def check_checkpoint(folder: Path) -> None:
    """Every hash of a checkpoint, and whether its files make a model; of a run, all its checkpoints. A damaged one does not hide others."""
    from lgdlm.data.problems import refuse
    from lgdlm.training.checkpoint import OPTIMIZER, checkpoints_of, find_checkpoint, read_tensors, verify_checkpoint
    from lgdlm.training.restore import rebuilt

    problems: list[CheckpointError] = []
    for checkpoint in checkpoints_of(folder) or [find_checkpoint(folder)]:
        try:
            manifest = verify_checkpoint(checkpoint)
            rebuilt(checkpoint, manifest)
            read_tensors(checkpoint, OPTIMIZER)
        except CheckpointError as damage:
            problems.append(damage)
            print(f"{checkpoint}: {damage.field}: {damage.message}")
            continue
        print(f"{checkpoint}: step {manifest['step']}, {len(manifest['files'])} files, no problems")
    refuse(problems)
