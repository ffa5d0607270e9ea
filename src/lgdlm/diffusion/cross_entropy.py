"""Cross entropy over a large vocabulary, a few rows at a time.

    nats_i = log sum_j exp(l_ij) - l_i,target        d nats_i / d l_ij = softmax(l_i)_j - [j = target]

Logits stay in the type the network gave them; float32 exists for one block of rows only, which stays in the cache. The
built-in function converts and stores the whole [M, V] matrix three times: that was a quarter of a training step here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 20


def _blocks(logits: Tensor) -> range:
    rows = max(1, BLOCK_BYTES // (4 * logits.shape[1]))
    return range(0, logits.shape[0], rows)


class _TokenNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        count = logits.shape[0]
        normaliser = torch.empty(count, dtype=torch.float32, device=logits.device)
        top = torch.empty_like(normaliser)
        size = _blocks(logits).step
        for start in _blocks(logits):
            block = logits[start : start + size].to(torch.float32, copy=True)  # float32 logits too: they belong to the caller
            torch.amax(block, dim=1, out=top[start : start + size])
            normaliser[start : start + size] = block.sub_(top[start : start + size, None]).exp_().sum(dim=1).log_()
        normaliser += top
        own = logits.gather(1, targets[:, None])[:, 0].float()
        right = own >= top
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.mark_non_differentiable(right)
        return normaliser - own, right

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None]:
        logits, targets, normaliser = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        size = _blocks(logits).step
        for start in _blocks(logits):
            part = slice(start, start + size)
            block = logits[part].to(torch.float32, copy=True).sub_(normaliser[part, None]).exp_()
            block.scatter_add_(1, targets[part, None], -torch.ones_like(targets[part, None], dtype=torch.float32))
            torch.mul(block, upstream[part, None], out=block)
            gradient[part] = block
        return gradient, None


def token_nats(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target], float32 [M], and whether the target had the largest logit, bool [M].

    logits float [M, V] of any width; float64 keeps its precision through the plain definition.
    """
    if logits.dtype == torch.float64 or logits.numel() == 0:
        chosen = logits.gather(1, targets[:, None])[:, 0]
        return logits.logsumexp(dim=1) - chosen, chosen >= logits.amax(dim=1) if logits.numel() else chosen.bool()
    return _TokenNats.apply(logits, targets)
