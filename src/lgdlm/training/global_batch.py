"""How many rows a step has, and the share of a rank.

    rows = train_batch_size x gradient_accumulation_steps x ranks      where a run begins
    rows = what they were                                              where it goes on with the same two numbers, on however many ranks

The second line is why a run that moves to another number of processes goes on with the same samples in each step; to change the batch,
change one of the two numbers. What a rank cannot take at once it takes in more micro-batches, none above `train_batch_size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lgdlm.config import Training
from lgdlm.errors import CheckpointError, InputError
from lgdlm.training.checkpoint import read_state
from lgdlm.training.distributed import World
from lgdlm.training.naming import STATE

KEYS = ("rows", "train_batch_size", "gradient_accumulation_steps")


@dataclass(frozen=True)
class GlobalBatch:
    """`rows` of all ranks; `accumulation` micro-batches of each; `record` is what a checkpoint remembers."""

    rows: int
    accumulation: int
    record: dict[str, int]


def recorded(folder: Path) -> dict[str, int] | None:
    """The record of a verified checkpoint; None where it is older than records. Raises CheckpointError."""
    record = read_state(folder).get("batch")
    if record is None:
        return None
    if not isinstance(record, dict) or not all(type(record.get(name)) is int and record[name] > 0 for name in (*KEYS, "ranks")):
        raise CheckpointError("CHECKPOINT", folder / STATE, "batch", f"expected {', '.join(KEYS)} and ranks, counts from 1")
    return record


def global_batch(training: Training, world: World, before: Mapping[str, int] | None = None) -> GlobalBatch:
    """The batch of a run; `before` is the record that it goes on from. Raises InputError (BATCH_SIZE) where ranks cannot share it."""
    micro, accumulation = training.train_batch_size, training.gradient_accumulation_steps
    asked = {**dict(zip(KEYS, (micro * accumulation * world.size, micro, accumulation), strict=True)), "ranks": world.size}
    if before is None or any(before[name] != asked[name] for name in KEYS[1:]) or before["rows"] == asked["rows"]:
        return GlobalBatch(asked["rows"], accumulation, asked)
    rows = before["rows"]
    if rows % world.size:
        message = f"the run has {rows} rows a step, which {world.size} processes cannot share evenly: use another number of them"
        raise InputError("BATCH_SIZE", "configuration", "training.train_batch_size", message)
    share = rows // world.size
    accumulation = next(n for n in range(-(-share // micro), share + 1) if share % n == 0)
    return GlobalBatch(rows, accumulation, asked | {"rows": rows})
