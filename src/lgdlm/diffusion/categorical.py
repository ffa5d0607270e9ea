"""A token from logits, by inverting the cumulative distribution.

    w = softmax(logits / temperature),    token = first j with  w_1 + ... + w_j >= u (w_1 + ... + w_V)

One uniform a position and no sort. The sum is taken in two levels, blocks of the vocabulary and then the tokens of one block, so only the
block sums and one block a position are ever accumulated (in float64), and a chunk of positions at a time, so the weights stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.errors import InputError

BLOCK = 256  # tokens whose weights are summed together: the square root of a 65,536-token vocabulary
CHUNK = 1 << 19  # weights held at once: 2 MiB of float32 stay in the cache
COLD = 1e-3


def likeliest(logits: Tensor) -> Tensor:
    """The argmax, [M, V] to int64 [M]."""
    top = logits.max(dim=1)
    _check(top.values)
    return top.indices


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """From the whole softmax: logits [M, V], uniforms float64 [M] in (0, 1), to int64 [M]."""
    return torch.cat([_draw_chunk(weights, v) for weights, v in softmax_weights(logits, u, temperature)])


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


def chunks(logits: Tensor, values: Tensor) -> zip[tuple[Tensor, Tensor]]:
    """[M, V] and [M] a few positions at a time, so that what is computed from the logits stays in the cache."""
    rows = max(1, CHUNK // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    return zip(logits.split(rows), values.split(rows), strict=True)


def softmax_weights(logits: Tensor, u: Tensor, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
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
