"""One optimizer step: a pure function of (weights, moments, data of the step, seed, step).

    each rank: backward over its own rows    ->    gradients and metrics summed over ranks    ->    clip, guard, update, average

From the sum on all ranks do the same with the same numbers, so their weights stay equal without being sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch

from lgdlm.data.loader import StepData
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.objective import Objective, Ratio, Totals, add_parts, mean_of
from lgdlm.objectives.schedule import ObjectiveSchedule
from lgdlm.rng import Rng
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.ema import Ema
from lgdlm.training.freezing import Freezer
from lgdlm.training.gradients import clip_gradients, sum_gradients, sum_parts
from lgdlm.training.guard import Guard
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.sharding import is_sharded


class TrainStep:
    """Forward and backward over the step's batches, clip, guard, update, average.

    `compute_dtype` is autocast's type (None: float32); weights, moments and times stay float32. `clip` 0 only measures the
    gradient's norm. `poison` names samples whose loss is made NaN: a test hook for the guard.
    """

    def __init__(
        self,
        model: TextLatentDiffusion,
        objectives: Mapping[str, Objective],
        schedule: ObjectiveSchedule,
        optimizers: Optimizers,
        ema: Ema,
        guard: Guard,
        *,
        seed: int,
        clip: float = 1.0,
        compute_dtype: torch.dtype | None = None,
        poison: Collection[str] = (),
        freezer: Freezer | None = None,
        world: World = ALONE,
    ):
        self.model, self.objectives, self.schedule = model, objectives, schedule
        self.parameters = list(model.parameters())  # walking the modules at every step costs as much as a tiny layer
        self.count = sum(p.numel() for p in self.parameters)
        self.optimizers, self.ema, self.guard = optimizers, ema, guard
        self.seed, self.clip, self.compute_dtype, self.poison = seed, clip, compute_dtype, frozenset(poison)
        self.freezer, self.world = freezer or Freezer(model), world
        self.sharded = any(is_sharded(p) for p in self.parameters)

    def __call__(self, data: StepData, step: int, lr_scale: float) -> dict[str, float | None]:
        """Metrics of the step as floats; `loss` is None when the step was skipped."""
        if not self.model.training:
            self.model.train()
        self.freezer.at(step)
        torch.manual_seed(((self.seed << 32) ^ step) % (1 << 63))  # dropout is the one consumer of the global generator
        name = self.schedule.at(step)
        parts = sum_parts(self._accumulate(self.objectives[name], data, step), self.world)
        sum_gradients(self.parameters, self.world)
        norm = clip_gradients(self.parameters, self.clip or float("inf"), self.world)
        active = sum(p.numel() for p in self.parameters if p.grad is not None) / self.count
        admitted = self.guard.admits(parts["loss"].top, norm)
        if admitted:
            self.optimizers.step(lr_scale)
            self.ema.update(step)
        self.optimizers.zero_grad()
        means: dict[str, float | None] = {f"{name}/{key}": value for key, value in mean_of(parts).items() if key != "loss"}
        record = {"loss": parts["loss"].top, "grad_norm": norm, "active_params_ratio": active, **means}
        return record if admitted else {"loss": None}

    def _accumulate(self, objective: Objective, data: StepData, step: int) -> dict[str, Ratio]:
        totals, parts = Totals(data.tokens, data.rows), dict[str, Ratio]()
        device = self.model.device
        # kept casts would be whole copies of what each rank holds a part of
        autocast = partial(torch.autocast, device.type, self.compute_dtype, cache_enabled=not self.sharded)
        with autocast(enabled=self.compute_dtype is not None):  # one context, so that each weight is cast once a step, not once a batch
            for batch in data.batches:
                batch = batch.to(device)
                report = objective(self.model, batch, Rng(self.seed, step, batch.rows), totals)
                total = report.total
                if self.poison and not self.poison.isdisjoint(batch.sample_ids):
                    total = total * float("nan")
                if total.requires_grad:  # a mode of which every parameter still waits teaches nothing
                    with autocast(enabled=False):
                        total.backward()
                add_parts(parts, {**report.parts, "loss": Ratio(float(total.detach()), batch.size / data.rows)})
        return parts
