"""`lgdlm check FOLDER`: every problem of a data folder, or whether a checkpoint is whole. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from lgdlm.cli.prepare import Stages, tokenizer_of
from lgdlm.config import Config
from lgdlm.errors import InputError


def run(config: Config) -> int:
    """Exit code 0 where nothing is wrong; InputError (2) or CheckpointError (3) with the first problem, the count and the list."""
    folder = Path(config.data.latent_dir)
    if not config.data.latent_dir:
        raise InputError("CONFIG", "command-line", "data.latent_dir", "expected a folder; lgdlm check FOLDER")
    if is_checkpoint(folder):
        return check_checkpoint(folder)
    from lgdlm.data.inspect import inspect_folder
    from lgdlm.data.problems import refuse

    tokenizer = tokenizer_of(config)
    with Stages() as stages:
        found = inspect_folder(
            folder,
            token_dir=config.data.token_dir or None,
            latent_dim=config.model.latent_dim,
            vocab_size=None if tokenizer is None else tokenizer.vocab_size,
            max_length=config.model.max_seq_len,
            external_latents=config.data.use_external_latents,
            on_progress=stages,
        )
    print(f"{folder}: {found.layout} layout, latents of {found.latent_dim or 'no'} numbers")
    for split, rows in found.rows.items():
        print(f"  {split:<11} {rows:>9,} texts  {found.tokens[split]:>11,} tokens")
    for note in found.notes:
        print(f"  note: {note}")
    for code, count in sorted(found.kinds.items()):
        print(f"  {count:>9,}  {code}")
    refuse(found.problems)
    print("  no problems")
    return 0


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a run or one of its checkpoints, finished or damaged."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & {"model.safetensors", "training_log.jsonl", "latest"}) or folder.name.startswith(("step_", "epoch_"))


def check_checkpoint(folder: Path) -> int:
    """Every hash of a checkpoint, or of all checkpoints of a run."""
    from lgdlm.training.checkpoint import checkpoints_of, find_checkpoint, verify_checkpoint

    for checkpoint in checkpoints_of(folder) or [find_checkpoint(folder)]:
        manifest = verify_checkpoint(checkpoint)
        print(f"{checkpoint}: step {manifest['step']}, {len(manifest['files'])} files, no problems")
    return 0
