"""Gradual unfreezing: parameters that wait, and the step from which each trains.

    waits(p, step) = step <= after(p)        steps count from 1; named by several stages, p waits for the last of them

A waiting parameter has no gradient, so optimizer, decay and averages leave it as it is, bit for bit. Who waits is a function of the step
alone: nothing about it is saved, and a run that is resumed behind a threshold goes on with everything thawed that it thaws.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from lgdlm.compat import parameter_names
from lgdlm.config import Training
from lgdlm.errors import InputError

OWN_PARTS = ("posterior.", "prior.")  # Stage II's own, which are new and cannot wait
BACKBONE = r"^denoiser\.(blocks|backbone)\."  # of every denoiser: the blocks between its ends


@dataclass(frozen=True)
class Stage:
    """Parameters whose names a pattern finds (`re.search`) wait until `after` steps are done; `key` names the stage in errors."""

    patterns: tuple[str, ...]
    after: int
    key: str = "unfreeze_patterns"


class Freezer:
    """The parameters of `model` that `patterns` find (`re.search` in their names), held until `after` steps are done; and those of `stages`
    until theirs are.

    Without patterns: all that train but Stage II's own parts. A pattern thaws what was frozen for good too, such as a pretrained backbone.
    `after` None and no stages hold nothing. Raises InputError for a pattern that matches nothing or is none, for patterns without `after`,
    and where nothing would train at first. To be made before the optimizer, which must know every parameter that will ever train.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str] = (), after: int | None = None, stages: Sequence[Stage] = ()):
        if patterns and after is None:
            raise _refusal("unfreeze_patterns", "without unfreeze_after_steps they would never thaw: give both, or freeze nothing")
        named = dict(model.named_parameters()) if after is not None or stages else {}
        self.after: dict[str, int] = {}
        if after is not None and not patterns:
            self.after = {n: after for n, p in named.items() if p.requires_grad and not n.startswith(OWN_PARTS)}
        for stage in [Stage(tuple(patterns), after or 0), *stages] if patterns else stages:
            for name in _matching(named, stage.patterns, stage.key):
                self.after[name] = max(stage.after, self.after.get(name, 0))
        self.waiting = {name: named[name] for name in self.after}
        if named and all(name in self.waiting or not p.requires_grad for name, p in named.items()):
            first = min(self.after.values())
            raise _refusal("unfreeze_after_steps", f"nothing would train in the first {first} steps: name fewer parameters")
        for p in self.waiting.values():
            p.requires_grad_(True)

    def thawed_at(self, step: int) -> list[nn.Parameter]:
        """The parameters that train from this step on, and not before."""
        return [p for name, p in self.waiting.items() if step == self.after[name] + 1]

    def thaws_at(self, step: int) -> bool:
        """Whether this is the first step of any that waited."""
        return bool(self.thawed_at(step))

    def at(self, step: int) -> bool:
        """Hold or thaw for `step`; True when that changed anything."""
        changed = [(p, step > self.after[name]) for name, p in self.waiting.items() if p.requires_grad != (step > self.after[name])]
        for p, trains in changed:
            p.requires_grad_(trains)
        return bool(changed)


def stages_of(training: Training, steps_per_epoch: int) -> list[Stage]:
    """The stages that the configuration names besides `unfreeze_patterns`; InputError for one without an end, or with two."""
    stages = []
    for thaw in training.unfreeze_schedule:
        if (thaw.steps is None) == (thaw.epochs is None) or not thaw.patterns:
            message = f"a stage has patterns, and either steps or epochs; got {thaw.patterns}, {thaw.steps} and {thaw.epochs}"
            raise _refusal("unfreeze_schedule", message)
        after = thaw.steps if thaw.steps is not None else (thaw.epochs or 0) * steps_per_epoch
        stages.append(Stage(tuple(thaw.patterns), after, "unfreeze_schedule"))
    if training.backbone_unfreeze_epoch is not None:
        stages.append(Stage((BACKBONE,), training.backbone_unfreeze_epoch * steps_per_epoch, "backbone_unfreeze_epoch"))
    return stages


def _matching(names: Iterable[str], patterns: Sequence[str], key: str) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as problem:
            raise _refusal(key, f"{pattern!r} is no regular expression: {problem}") from problem
        matching = [name for name in names if any(expression.search(spelling) for spelling in parameter_names(name))]
        if not matching:
            example = next(iter(names))
            raise _refusal(key, f"{pattern!r} matches no parameter; names look like {example}")
        found |= dict.fromkeys(matching)
    return list(found)


def _refusal(key: str, message: str) -> InputError:
    return InputError("CONFIG", "config", f"training.{key}", message)
