"""Clock paths: where a modality's clock stands before and after each reverse step.

path[i] -> path[i + 1] is step i; float32 [steps + 1, B], never increasing

descend   start, ..., 0      the modality is generated
hold      t, ..., t          0: it is the condition; 1: it is unknown
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.errors import InputError


def descend(steps: int, rows: int, start: Tensor | float = 1.0, device: torch.device | None = None) -> Tensor:
    """Evenly from `start` (one time, or float [B]) down to exactly 0 in `steps` steps."""
    if steps < 1:
        raise InputError("ARGUMENT", "sampling", "num_steps", f"at least 1 is expected, got {steps}")
    share = torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps
    first = torch.as_tensor(start, dtype=torch.float64, device=device).expand(rows)
    return (share[:, None] * first).float()


def hold(steps: int, rows: int, at: float = 0.0, device: torch.device | None = None) -> Tensor:
    """The clock stands still."""
    return torch.full((steps + 1, rows), at, device=device)
