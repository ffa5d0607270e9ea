"""`lgdlm check FOLDER`: every problem of a data folder, or whether a checkpoint is whole. Changes nothing.

FOLDER (data.latent_dir)     data, as training with the same words would read them (their width, and whether they have latents, is
                             right where no word says it); or a run or one of its checkpoints
model.checkpoint_path        a checkpoint, whatever it looks like
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from lgdlm.cli.prepare import Stages
from lgdlm.cli.progress import shown
from lgdlm.config import Config
from lgdlm.data.manifest import holds_data
from lgdlm.errors import CheckpointError, InputError
from lgdlm.training.old_spelling import place_meant

MARKS = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "training_log.jsonl", "latest", "events.jsonl"}


def run(config: Config, words: Sequence[str] | None = None) -> int:
    """Exit code 0 where nothing is wrong; InputError (2) or CheckpointError (3) with the first problem, the count and the list.

    Keys that none of `words` sets are open, and what the data have is right; None: `config` means all of its keys.
    """
    from lgdlm.training.splits import PRESENCE, WIDTH

    said = {word.partition("=")[0] for word in words or ()}
    open_keys = () if words is None else ((WIDTH,) if WIDTH not in said else ()) + ((PRESENCE,) if not said & {WIDTH, PRESENCE} else ())
    data, checkpoint = config.data.latent_dir, config.model.checkpoint_path
    if not data and not config.data.sources and checkpoint is None:
        raise InputError("CONFIG", "command-line", "data.latent_dir", "expected a folder; lgdlm check FOLDER")
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint))
    place = Path(data) if not data or Path(data).is_dir() else place_meant(Path(data))  # RUN/latest is a file
    if data and is_checkpoint(place):
        check_checkpoint(place)
    elif data or config.data.sources:
        if data:
            refuse_parent(place)
        check_data(config, open_keys)
    return 0


def refuse_parent(folder: Path) -> None:
    """Raise InputError for a folder that is neither data nor a run, and holds some."""
    if not folder.is_dir() or holds_data(folder):
        return
    inside = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and (holds_data(entry) or is_checkpoint(entry)))
    if inside:
        message = f"holds runs or data folders ({', '.join(inside[:3])}{', ...' if inside[3:] else ''}): name one of them"
        raise InputError("NO_DATA", folder, "data.latent_dir", message)


def check_data(config: Config, open_keys: Collection[str] = ()) -> None:
    """Print what the data folders hold; raise their problems, and what keeps several from being mixed. `open_keys` as `inspect_splits`."""
    from lgdlm.data.problems import refuse
    from lgdlm.training.splits import PRESENCE, WIDTH, inspect_splits, named_tokenizer, open_splits

    tokenizer = named_tokenizer(config)
    with Stages() as stages:
        inspections = inspect_splits(config, tokenizer, stages, open_keys=open_keys)
    with shown():
        for found in inspections:
            print(f"{found.folder}: {found.layout} layout, latents of {found.latent_dim or 'no'} numbers")
            for split, rows in found.rows.items():
                print(f"  {split:<11} {rows:>9,} texts  {found.tokens[split]:>11,} tokens")
            for note in found.notes:
                print(f"  note: {note}")
            for code, count in sorted(found.kinds.items()):
                print(f"  {count:>9,}  {code}")
    refuse([problem for found in inspections for problem in found.problems])
    if config.data.sources:
        first = inspections[0].latent_dim
        model = replace(config.model, latent_dim=first) if first is not None and WIDTH in open_keys else config.model
        without = first is None and PRESENCE in open_keys
        data = replace(config.data, use_external_latents=config.data.use_external_latents and not without)
        open_splits(replace(config, model=model, data=data), tokenizer)
    print("  no problems")


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a run or one of its checkpoints, finished or damaged."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & MARKS) or folder.name.startswith(("step_", "epoch_"))


def check_checkpoint(folder: Path) -> None:
    """Every hash of a checkpoint, and whether its files make a model; of a run, all its checkpoints. A damaged one does not hide others.

    One that a run in progress throws away meanwhile is not there, and not damaged.
    """
    from lgdlm.data.problems import refuse
    from lgdlm.training.checkpoint import verify_checkpoint
    from lgdlm.training.naming import TRIES, checkpoints_of, find_checkpoint
    from lgdlm.training.restore import look_into

    problems: list[CheckpointError] = []
    whole = 0
    for _ in range(TRIES):
        for checkpoint in checkpoints_of(folder) or [find_checkpoint(folder)]:
            try:
                manifest = verify_checkpoint(checkpoint, look_into)
                look_into(checkpoint, manifest)
            except CheckpointError as damage:
                if checkpoint.exists() or checkpoint == folder:
                    problems.append(damage)
                    with shown():
                        print(f"{checkpoint}: {damage.field}: {damage.message}")
                continue
            whole += 1
            with shown():
                print(f"{checkpoint}: step {manifest['step']}, {len(manifest['files'])} files, no problems")
        if whole or problems:
            break
    else:
        raise CheckpointError("CHECKPOINT", folder, "checkpoint", "each was thrown away while it was looked at: check one by name")
    refuse(problems)
