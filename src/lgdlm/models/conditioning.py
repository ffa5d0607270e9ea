"""How the two clocks and the latent reach the layers.

cond = MLP([sinusoids(t_text), sinusoids(t_latent)])                       one vector [B, H] per row
FiLM         x (1 + gamma) + beta
add          x + beta
AdaLN-Zero   x + gate * branch(norm(x) (1 + scale) + shift), six vectors a block, gates at zero
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ClockEmbedding(nn.Module):
    """Both clocks, float32 [B] each in [0, 1], to a condition [B, H].

    Sinusoids at frequencies from 1 to 1000 per unit of time, so that the ends (0 and 1) and small times are told apart.
    """

    def __init__(self, hidden_size: int, frequencies: int = 32):
        super().__init__()
        self.frequencies = frequencies
        self.enter = nn.Linear(4 * frequencies, hidden_size)
        self.leave = nn.Linear(hidden_size, hidden_size)

    def forward(self, t_text: Tensor, t_latent: Tensor) -> Tensor:
        clocks = torch.stack([t_text, t_latent], dim=1).float()
        # made here: a buffer would be rounded with the weights in half precision, and 1000 t would then be another angle
        scale = torch.linspace(0.0, math.log(1000.0), self.frequencies, dtype=torch.float32, device=clocks.device).exp()
        angle = clocks[..., None] * scale
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)
        return self.leave(nn.functional.silu(self.enter(waves.to(self.enter.weight.dtype))))


class Conditioning(nn.Module):
    """What a block does with `cond`: shift, scale and gate for each branch, [B, 1, H] each or absent.

    `kind` is `adaln_zero` (six vectors), `film` (shift and scale for each branch; plain residuals) or `add` (shift
    only). The final linear starts at zero, so a new block ignores its condition; with `adaln_zero` it starts as identity.
    """

    KINDS = ("adaln_zero", "film", "add")

    def __init__(self, hidden_size: int, kind: str = "adaln_zero", branches: int = 2):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"time_conditioning {kind!r}: expected one of {', '.join(self.KINDS)}")
        self.kind, self.branches = kind, branches
        self.vectors = {"adaln_zero": 3, "film": 2, "add": 1}[kind]
        self.linear = nn.Linear(hidden_size, self.vectors * branches * hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def open_gates(self) -> None:
        """Let gates start at one: around a branch that has been trained, zero would switch it off."""
        if self.kind == "adaln_zero":
            self.linear.bias.view(self.branches, self.vectors, -1)[:, 2].fill_(1.0)

    def forward(self, cond: Tensor) -> list[Modulation]:
        """[B, H] to one `Modulation` per branch."""
        pieces = self.linear(nn.functional.silu(cond))[:, None].chunk(self.vectors * self.branches, dim=-1)
        groups = [pieces[i * self.vectors : (i + 1) * self.vectors] for i in range(self.branches)]
        return [Modulation(*group) for group in groups]


class Modulation:
    """Shift, scale and gate of one branch; a missing scale is 0 and a missing gate is 1."""

    def __init__(self, shift: Tensor, scale: Tensor | None = None, gate: Tensor | None = None):
        self.shift, self.scale, self.gate = shift, scale, gate

    def before(self, x: Tensor) -> Tensor:
        """norm(x) (1 + scale) + shift."""
        return x + self.shift if self.scale is None else torch.addcmul(self.shift, x, 1 + self.scale)

    def after(self, residual: Tensor, branch: Tensor) -> Tensor:
        """residual + gate * branch."""
        return residual + branch if self.gate is None else torch.addcmul(residual, self.gate, branch)
