"""The cells of a matrix, and how long they will take.

cells = seeds x variants, the seeds outside: a run that is stopped early has compared every variant on the seeds it got to
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lgdlm.ablation.cell import FINISHED, OWN_KEYS, Cell
from lgdlm.ablation.matrix import Matrix
from lgdlm.config import Config
from lgdlm.data.manifest import read_manifest
from lgdlm.errors import InputError
from lgdlm.models.build import build_model

Compose = Callable[[list[str], str], Config]


def plan_cells(matrix: Matrix, scale: str, seeds: Sequence[int], out: Path, words: Mapping[str, str], compose: Compose) -> list[Cell]:
    """Every cell of `matrix`, its configuration composed and checked.

    `words` (key to value, as typed) come last in every cell. Raises InputError for a key in which the variants differ or which the
    runner sets, and for whatever the schema refuses.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError("CONFIG", "command-line", "ablation.seeds", f"different seeds are expected, got {list(seeds)}")
    if scale not in matrix.scales:
        raise InputError("CONFIG", "command-line", "ablation.scale", f"no scale {scale!r}; the matrix has {', '.join(matrix.scales)}")
    for key in words:
        if key in matrix.varied():
            raise InputError("CONFIG", "command-line", key, f"the variants of {matrix.name} differ in it; write a matrix of your own")
        if key in OWN_KEYS:
            raise InputError("CONFIG", "command-line", key, "ablate sets it for each run; ablation.seeds and ablation.out decide")
    configs = {}
    for variant in matrix.variants:
        typed = {name: typed_word(name, value) for name, value in matrix.keys_of(scale, variant).items()}
        configs[variant.name] = compose([*{**typed, **{name: f"{name}={value}" for name, value in words.items()}}.values()], matrix.config)
    return [
        Cell(variant, seed, out / variant.name / f"seed_{seed}", _placed(configs[variant.name], out / variant.name, seed))
        for seed in seeds
        for variant in matrix.variants
    ]


def typed_word(name: str, value: Any) -> str:
    """`name=value` as it would be typed: text as it is, everything else as JSON."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def _placed(config: Config, parent: Path, seed: int) -> Config:
    return replace(
        config,
        training=replace(config.training, seed=seed, resume=None),
        logging=replace(config.logging, save_dir=str(parent), run_name=f"seed_{seed}"),
        evaluation=replace(config.evaluation, checkpoint=None, out=None),
    )


def minutes_left(cells: Sequence[Cell], minutes: float) -> float:
    """Minutes of the cells that still have to run: by the mean of the finished ones, before there are any by `minutes` a cell."""
    records = [cell.record() for cell in cells]
    finished = [record.seconds / 60 for record in records if record.state == FINISHED]
    each = sum(finished) / len(finished) if finished else minutes
    return each * sum(record.state != FINISHED for record in records)


def sizes_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Parameters of each variant's model, counted on models without memory; empty where the data are not prepared yet."""
    sizes: dict[str, int] = {}
    for cell in cells:
        folder = Path(cell.config.data.latent_dir)
        if cell.variant.name in sizes or not (folder / "manifest.json").is_file():
            continue
        dim = cell.config.model.latent_dim
        with torch.device("meta"):
            model = build_model(
                cell.config.model,
                vocab_size=read_manifest(folder).vocab_size,
                eos_id=0,
                latent_mean=torch.zeros(dim),
                latent_std=torch.ones(dim),
            )
        sizes[cell.variant.name] = sum(p.numel() for p in model.parameters())
    return sizes


def refuse_unequal(sizes: Mapping[str, int], tolerance: float, matrix: str) -> None:
    """InputError where the variants' sizes differ by more than `tolerance`, relative to the smallest."""
    if sizes and max(sizes.values()) > (1 + tolerance) * min(sizes.values()):
        found = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
        raise InputError("MATRIX", matrix, "equal_parameters", f"parameters differ by more than {tolerance:.2%}: {found}")
