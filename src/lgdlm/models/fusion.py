"""Two readings of a text into one: h = fuse(h_f, h_b), token by token.

    concat   h = W [h_f; h_b]
    gated    h = g h_f + (1 - g) h_b,   g = sigmoid(W [h_f; h_b] + c)
    sum      h = h_f + h_b

`h_f` has seen the tokens up to and including its own from the left, `h_b` those from the right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConcatFusion(nn.Module):
    """One linear map of both. It starts as (h_f + h_b) plus a small random map, so both halves learn from the first step."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        eye = torch.eye(hidden_size)
        with torch.no_grad():
            self.linear.weight.mul_(0.1).add_(torch.cat([eye, eye], dim=1))

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        return self.linear(torch.cat([forward, backward], dim=-1))


class GatedFusion(nn.Module):
    """A gate per channel, read from both; it starts near one half."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.gate = nn.Linear(2 * hidden_size, hidden_size)
        nn.init.zeros_(self.gate.bias)

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([forward, backward], dim=-1)))
        return torch.lerp(backward, forward, gate)


class SumFusion(nn.Module):
    """No parameters."""

    def __init__(self, hidden_size: int):
        super().__init__()

    def forward(self, forward: Tensor, backward: Tensor) -> Tensor:
        return forward + backward


FUSIONS: dict[str, type[nn.Module]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "sum": SumFusion,
}
