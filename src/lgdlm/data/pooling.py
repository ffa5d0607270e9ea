"""From the states of a text's tokens to one vector.

    mean   sum_i m_i h_i / sum_i m_i        cls   h at the first real token      lasttoken   h at the last real token

m is the mask of real tokens. Every pooling looks at the mask alone, so padding may stand left or right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pool(names: Sequence[str], hidden: Tensor, mask: Tensor) -> Tensor:
    """The poolings `names` of `hidden` [B, N, H] side by side, [B, H * len(names)]; `mask` bool [B, N] has a True in each row."""
    assert mask.any(dim=1).all(), "a text has at least one token"
    return torch.cat([POOLINGS[name](hidden, mask) for name in names], dim=-1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(dim=1, keepdim=True)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / mask.sum(dim=1, keepdim=True).to(hidden.dtype).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The i-th real token counts i times."""
    weight = (mask.cumsum(dim=1) * mask).to(hidden.dtype)
    return (hidden * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)


def _maximum(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(dim=1)]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(dim=1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # the names of sentence-transformers
    "mean": _mean,
    "cls": _first,
    "lasttoken": _last,
    "max": _maximum,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
}
