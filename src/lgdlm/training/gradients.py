"""The gradient of the global batch, where each rank has that of its own rows; its norm, and its clipping.

    g = sum over ranks of g_rank        |g|^2 = sum over parameters        g <- g min(1, clip / |g|)

Every loss is divided by the totals of the whole global batch, so ranks add up, they are not averaged, and uneven texts weigh as in one
process. Summed are buckets of parameters in their order. A parameter that a rank has no gradient for (a head its rows did not use) counts
as zero there; one that nobody has a gradient for has none anywhere, so that optimizer, decay and averages leave it alone.

Sharded parameters (`lgdlm.training.sharding`) arrive summed; each rank holds its part of their gradient, and the norm is of all parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lgdlm.objectives.objective import Ratio, add_parts
from lgdlm.training.distributed import World
from lgdlm.training.sharding import is_sharded, local

BUCKET = 25 << 20  # bytes: large enough to fill a connection, small enough to be copied beside the gradients


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """`grad` of every parameter that is not sharded becomes the sum over ranks, the same bits on all of them."""
    if world.size == 1:
        return
    whole = [p for p in parameters if not is_sharded(p)]
    present = torch.tensor([p.grad is not None for p in whole], dtype=torch.int32)
    world.maximum(present)
    used = [p for p, somewhere in zip(whole, present.tolist(), strict=True) if somewhere]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in _buckets(used):
        gradients = [p.grad for p in bucket if p.grad is not None]
        total = torch.cat([gradient.reshape(-1) for gradient in gradients])
        world.sum([total])
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of one dtype, each up to BUCKET bytes or a single larger one."""
    bucket: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        here = p.numel() * p.element_size()
        if bucket and (size + here > BUCKET or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += here
    if bucket:
        yield bucket


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], largest: float, world: World) -> float:
    """Scale the gradients down to norm `largest` where theirs is above it; returns the norm they had."""
    if not any(is_sharded(p) for p in parameters):
        return float(torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True))
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    parts = [local(p.grad) for p in parameters if p.grad is not None and is_sharded(p)]
    whole = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    squares = _square(parts)
    world.sum([squares])
    norm = (squares + _square(whole)).sqrt()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient))
    return float(norm)


def _square(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of squares of all entries, a float32 scalar."""
    if not gradients:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(list(gradients)).float().square()


def sum_parts(parts: dict[str, Ratio], world: World) -> dict[str, Ratio]:
    """The metrics of all ranks, added up by rank; what only some of them measured is there too."""
    if world.size == 1:
        return parts
    total: dict[str, Ratio] = {}
    for text in world.gather(json.dumps([(name, part.top, part.bottom) for name, part in parts.items()])):
        add_parts(total, {name: Ratio(top, bottom) for name, top, bottom in json.loads(text)})
    return total
