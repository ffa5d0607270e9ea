"""Two readings of a text into one: h = fuse(h_f, h_b), token by token.

    concat   h = W [h_f; h_b]
    gated    h = g h_f + (1 - g) h_b,   g = sigmoid(W [h_f; h_b] + c)
    sum      h = s (h_f + h_b),          s = 1, or 1/2 where both halves are trained readings already

`h_f` has seen the tokens up to and including its own from the left, `h_b` those from the right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Fusion(nn.Module, ABC):
    """[B, N, H] twice to [B, N, H]."""

    @abstractmethod
    def __init__(self, hidden_size: int):
        super().__init__()

    @abstractmethod
    def forward(self, forward: Tensor, backward: Tensor) -> Tensor: ...

    @abstractmethod
    def start_at_mean(self) -> None:
        """Begin at (h_f + h_b) / 2: two trained readings are then together as large as one."""


class ConcatFusion(Fusion):
    """One linear map of both. It starts as (h_f + h_b) plus a small random map, so both halves learn from the first step."""

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size)
        self.linear = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        eye = torch.eye(hidden_size)
        with torch.no_grad():
            self.linear.weight.mul_(0.1).add_(torch.cat([eye, eye], dim=1))

    @torch.no_grad()
    def start_at_mean(self) -> None:
        """The mean plus the small random map."""
        self.linear.weight.sub_(torch.eye(len(self.linear.weight)).to(self.linear.weight).repeat(1, 2) / 2)

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        return self.linear(torch.cat([forward, backward], dim=-1))


class GatedFusion(Fusion):
    """A gate per channel, read from both; it starts near one half."""

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size)
        self.gate = nn.Linear(2 * hidden_size, hidden_size)
        nn.init.zeros_(self.gate.bias)

    def start_at_mean(self) -> None:
        """A gate near one half takes the mean already."""

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([forward, backward], dim=-1)))
        return torch.lerp(backward, forward, gate)


class SumFusion(Fusion):
    """No parameters. Its scale s never trains, and is saved with the weights that were made for it."""

    scale: Tensor

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size)
        self.register_buffer("scale", torch.ones(()))

    def start_at_mean(self) -> None:
        """The scale of the mean, for good."""
        self.scale.fill_(0.5)

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        return (forward + backward) * self.scale


FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "sum": SumFusion,
}
