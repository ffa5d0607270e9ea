"""Drawing a token at each asked position by inverting the cumulative distribution.

    w = softmax(logits / temperature),    token = first j with  w_1 + ... + w_j >= u (w_1 + ... + w_V)

One uniform a position and no sort. The sum is taken in two levels, blocks of the vocabulary and then the tokens of one block, so only the
block sums and one block a position are ever accumulated (in float64), and a chunk of positions at a time, so the weights stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.errors import InputError

BLOCK = 256  # tokens whose weights are summed together: the square root of a 65,536-token vocabulary
CHUNK = 1 << 19  # weights held at once: 2 MiB of float32 stay in the cache
COLD = 1e-3
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


def likeliest(logits: Tensor) -> Tensor:
    """The argmax, [M, V] to int64 [M]."""
    top = logits.max(dim=1)
    _check(top.values)
    return top.indices


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """From the whole softmax: logits [M, V], uniforms float64 [M] in (0, 1), to int64 [M]."""
    return torch.cat([_draw_chunk(weights, v) for weights, v in _weights(logits, u, temperature)])


def _draw_chunk(weights: Tensor, u: Tensor) -> Tensor:
    tail = -weights.shape[1] % BLOCK
    blocks = (F.pad(weights, (0, tail)) if tail else weights).unflatten(1, (-1, BLOCK))
    edges = blocks.sum(dim=2).double().cumsum(dim=1)
    target = (u * edges[:, -1])[:, None]
    # the first edge that reaches the target: its block has positive weight, because 0 < target <= last edge
    block = torch.searchsorted(edges, target)
    upper = edges.gather(1, block)
    lower = torch.where(block > 0, edges.gather(1, (block - 1).clamp_min(0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(dim=1)
    # the share of the block, not the rest of the sum: float32 block sums and the float64 ones here differ in the last digits
    share = (target - lower) / (upper - lower)
    return (block * BLOCK + torch.searchsorted(inside, share * inside[:, -1:]))[:, 0]


def draw_truncated(logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """From the softmax restricted to the likeliest tokens (`TokenDraw`), [M, V] to int64 [M]."""
    limit = min(top_k or logits.shape[1], logits.shape[1])
    return torch.cat([_draw_nucleus(weights, v, limit, top_p) for weights, v in _weights(logits, u, temperature)])


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


def chunks(logits: Tensor, values: Tensor) -> zip[tuple[Tensor, Tensor]]:
    """[M, V] and [M] a few positions at a time, so that what is computed from the logits stays in the cache."""
    rows = max(1, CHUNK // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    return zip(logits.split(rows), values.split(rows), strict=True)


def _weights(logits: Tensor, u: Tensor, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
    """softmax(logits / temperature) float32 with the uniforms, chunk by chunk; each chunk is written over the last one."""
    cold, room = torch.empty(0), torch.empty(0)
    for part, v in chunks(logits, u):
        scaled = part.float()
        if room.shape != scaled.shape:
            cold, room = torch.empty_like(scaled), torch.empty_like(scaled)
        if temperature < COLD:  # the quotient could overflow unless the maximum is taken off first
            scaled = torch.sub(scaled, scaled.amax(dim=1, keepdim=True), out=cold)
        if temperature != 1:
            scaled = torch.div(scaled, temperature, out=cold)
        weights = torch.softmax(scaled, dim=1, out=room)
        _check(weights[:, 0])  # a NaN or an infinity anywhere in the row makes all its weights NaN
        yield weights, v


def _check(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError("NAN_LOGITS", "model", "text_logits", "the denoiser's logits are not finite; sample from an earlier checkpoint")
