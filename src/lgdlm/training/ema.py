"""Averaged weights: what samplers and evaluation use.

ema <- d ema + (1 - d) w,   d = min(decay, (1 + k) / (10 + k)) at step k, so that early weights are forgotten
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lgdlm.training.sharding import local


class Ema:
    """Float32 averages of a model's trainable parameters, by name. `decay` 0 keeps the weights themselves.

    A sharded parameter's average is sharded alike: each rank averages the part that it holds.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, live = ([local(t.detach()) for t in tensors.values()] for tensors in (self.average, self.live))
        torch._foreach_lerp_(averages, live, 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take saved averages. Raises ValueError where they are not of the same parameters and shapes."""
        if differing := sorted(tensors.keys() ^ self.average.keys()):
            raise ValueError(f"{differing[0]} is averaged in one of the two only ({len(differing)} such parameters)")
        for name, value in self.average.items():
            if (value.shape, value.dtype) != (tensors[name].shape, tensors[name].dtype):
                got = f"{tensors[name].dtype} {list(tensors[name].shape)}"
                raise ValueError(f"{name}: expected {value.dtype} {list(value.shape)}, got {got}")
        for name, value in self.average.items():
            value.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averaged weights inside the block, its own again behind it."""
        own = {name: p.detach().clone() for name, p in self.live.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, p in self.live.items():
            p.copy_(values[name])
