"""Which tokens may be drawn: all of the softmax, or the likeliest of it.

    top_k   the k likeliest          top_p   the smallest set of likeliest tokens that holds p of what top_k kept

The draw itself is `lgdlm.diffusion.categorical`: one uniform a position, and as few tokens sorted as the truncation needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.diffusion.categorical import draw, likeliest, softmax_weights
from lgdlm.errors import InputError

NUCLEUS = 64  # likeliest tokens looked at first by top-p; eight times as many as long as they hold too little


@dataclass(frozen=True)
class TokenDraw:
    """How a token is drawn from logits.

    `temperature` 0 takes the likeliest token. `top_k` (0: all) keeps the k likeliest; `top_p` keeps the smallest set of likeliest
    tokens whose probability, among those that top_k kept, is at least p, and never less than one token.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for field, value, fits in (
            ("temperature", self.temperature, 0 <= self.temperature < float("inf")),
            ("top_k", self.top_k, self.top_k >= 0),
            ("top_p", self.top_p, 0 <= self.top_p <= 1),
        ):
            if not fits:
                bounds = "temperature >= 0, top_k >= 0, 0 <= top_p <= 1"
                raise InputError("ARGUMENT", "sampling", field, f"{value} is out of range ({bounds})")

    def __call__(self, logits: Tensor, u: Tensor) -> Tensor:
        """logits [M, V] and uniforms float64 [M] in (0, 1) to tokens int64 [M]; InputError where logits are not finite."""
        if self.temperature == 0 or self.top_k == 1:
            return likeliest(logits)
        if (self.top_k and self.top_k < logits.shape[1]) or self.top_p < 1:
            return draw_truncated(logits, u, self.temperature, self.top_k, self.top_p)
        return draw(logits, u, self.temperature)


def draw_truncated(logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """From the softmax restricted to the likeliest tokens (`TokenDraw`), [M, V] to int64 [M]."""
    limit = min(top_k or logits.shape[1], logits.shape[1])
    return torch.cat([_draw_nucleus(weights, v, limit, top_p) for weights, v in softmax_weights(logits, u, temperature)])


def _draw_nucleus(weights: Tensor, u: Tensor, limit: int, top_p: float) -> Tensor:
    """Among the `limit` likeliest, the smallest set that holds `top_p` of their probability; only as many are sorted as are needed."""
    tokens = torch.empty(len(weights), dtype=torch.long, device=weights.device)
    left = torch.arange(len(weights), device=weights.device)
    whole = limit == weights.shape[1]
    wanted = top_p * (weights if whole else weights.topk(limit, dim=1).values).double().sum(dim=1, keepdim=True)
    width = min(NUCLEUS, limit) if top_p < 1 else limit
    while len(left):
        top = weights[left].topk(width, dim=1)
        likeliest = top.values.double()
        mass = likeliest.cumsum(dim=1)
        found = mass[:, -1] >= wanted[left, 0] if width < limit else torch.ones_like(left, dtype=torch.bool)
        kept = mass - likeliest < wanted[left] if top_p < 1 else torch.ones_like(mass, dtype=torch.bool)
        kept[:, 0] = True
        mass = likeliest.masked_fill(~kept, 0.0).cumsum(dim=1)[found]
        place = torch.searchsorted(mass, u[left[found], None] * mass[:, -1:])
        tokens[left[found]] = top.indices[found].gather(1, place)[:, 0]
        left, width = left[~found], min(8 * width, limit)
    return tokens
