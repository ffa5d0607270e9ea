"""The guard that is always on: a non-finite loss or gradient drops the update, is counted, and after too many in a row ends the run.

Nothing is replaced by a constant: weights, moments and averages simply do not see the step. Ranks agree by an integer: a NaN that one of
them has alone drops the step on all, and which samples belong to which step never changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lgdlm.errors import Diverged


class Guard:
    """`patience`: how many steps in a row may be skipped before training ends. `agree` is whether a flag is true on every rank."""

    def __init__(self, patience: int, agree: Callable[[bool], bool] = bool):
        self.patience, self.agree, self.skipped_in_a_row, self.skipped = patience, agree, 0, 0

    def admits(self, loss: float, grad_norm: float) -> bool:
        """True when both are finite, on every rank."""
        finite = self.agree(math.isfinite(loss) and math.isfinite(grad_norm))
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        self.skipped += not finite
        return finite

    @property
    def exhausted(self) -> bool:
        """More steps in a row were skipped than patience allows."""
        return self.skipped_in_a_row > self.patience

    def forget_row(self) -> None:
        """Uncount the present row of skipped steps: the state behind the last step that counted."""
        self.skipped, self.skipped_in_a_row = self.skipped - self.skipped_in_a_row, 0

    def verdict(self, where: object, step: int, reason: str, counted: int) -> Diverged:
        """The error that ends the run; `counted` is the last step that was not skipped."""
        return Diverged(
            "DIVERGED", where, f"step {step}",
            f"{self.skipped_in_a_row} skipped steps in a row ({reason}), training.max_skipped_steps is {self.patience}: lower optimizer.lr"
            f" or see the samples in events.jsonl; last good step: {counted}",
        )  # fmt: skip
