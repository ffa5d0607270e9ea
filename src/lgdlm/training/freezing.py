"""Gradual unfreezing: parameters that wait, and the step from which they train.

    waits(step) = step <= unfreeze_after_steps        steps count from 1

A waiting parameter has no gradient, so optimizer, decay and averages leave it as it is, bit for bit. Who waits is a function of the step
alone: nothing about it is saved, and a run that is resumed behind the threshold goes on with everything thawed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

from lgdlm.compat import parameter_names
from lgdlm.errors import InputError

OWN_PARTS = ("posterior.", "prior.")  # Stage II's own, which are new and cannot wait


class Freezer:
    """The parameters of `model` that `patterns` find (`re.search` in their names), held until `after` steps are done.

    Without patterns: all that train but Stage II's own parts. A pattern thaws what was frozen for good too, such as a pretrained backbone.
    `after` None holds nothing. Raises InputError for a pattern that matches nothing or is none, for patterns without `after`, and where
    nothing would train until then. To be made before the optimizer, which must know every parameter that will ever train.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str] = (), after: int | None = None):
        if patterns and after is None:
            raise _refusal("unfreeze_patterns", "without unfreeze_after_steps they would never thaw: give both, or freeze nothing")
        self.after = after or 0
        self.waiting: dict[str, nn.Parameter] = {}
        if after is None:
            return
        named = dict(model.named_parameters())
        found = _matching(named, patterns) if patterns else [n for n, p in named.items() if p.requires_grad and not n.startswith(OWN_PARTS)]
        self.waiting = {name: named[name] for name in found}
        if all(name in self.waiting or not p.requires_grad for name, p in named.items()):
            raise _refusal("unfreeze_after_steps", f"nothing would train in the first {after} steps: name fewer parameters")
        for p in self.waiting.values():
            p.requires_grad_(True)

    def thaws_at(self, step: int) -> bool:
        """Whether this is the first step of what waited."""
        return bool(self.waiting) and step == self.after + 1

    def at(self, step: int) -> bool:
        """Hold or thaw for `step`; True when that changed anything."""
        trains = step > self.after
        changed = [p for p in self.waiting.values() if p.requires_grad != trains]
        for p in changed:
            p.requires_grad_(trains)
        return bool(changed)


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as problem:
            raise _refusal("unfreeze_patterns", f"{pattern!r} is no regular expression: {problem}") from problem
        matching = [name for name in names if any(expression.search(spelling) for spelling in parameter_names(name))]
        if not matching:
            example = next(iter(names))
            raise _refusal("unfreeze_patterns", f"{pattern!r} matches no parameter; names look like {example}")
        found |= dict.fromkeys(matching)
    return list(found)


def _refusal(key: str, message: str) -> InputError:
    return InputError("CONFIG", "config", f"training.{key}", message)
