"""Which parameter is updated how, and by how much at each step.

AdamW   everything; decay on matrices only, never on norms, biases, gains, embeddings
Muon    the matrices of the blocks (Jordan 2024), scaled to AdamW's update size; AdamW for the rest, which includes
        the conditioning: its zero start needs no rotation, and it is a third of Muon's cost
lr(k) = lr * min(1, k / warmup) * course(share done),   course = half a cosine from 1 to min_ratio, or 1
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lgdlm.errors import InputError
from lgdlm.training.sharding import is_sharded


def learning_rate_scale(step: int, done: float, warmup: int, course: str, min_ratio: float) -> float:
    """Factor of the learning rate at `step` (from 1), when the share `done` in [0, 1] of the training is behind."""
    rise = min(1.0, step / warmup) if warmup else 1.0
    return rise if course == "constant" else rise * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * done)))


# two axes, and yet no matrix: RWKV's bonus (one gain a channel, by head) and the prefix's type embedding (one row a position)
ROWS = ("r_k", "kind")
SLOTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}


def matrices(model: nn.Module) -> set[Tensor]:
    """The trainable parameters that multiply vectors: two axes, and neither a table of embeddings nor one of ROWS.

    Gains stored as [1, 1, H] are vectors; a head tied to the token table is the table.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    named = ((name.rpartition(".")[2], p) for name, p in model.named_parameters() if p.requires_grad)
    return {p for name, p in named if p.dim() == 2 and name not in ROWS and p not in tables}


def refuse_misfit(key: str, value: Tensor, slot: str, parameter: Tensor) -> None:
    """ValueError where `value` cannot be the state in `slot` of a parameter: like it, or in `step` one number."""
    shape, dtype = (parameter.shape, parameter.dtype) if slot != "step" else (torch.Size(), torch.float32)
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{key}: expected shape {list(shape)} of {dtype}, got {list(value.shape)} of {value.dtype}")


class Optimizers:
    """One or two torch optimizers behind one `step`, with their state by parameter name."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "adamw",
        lr: float = 1e-3,
        muon_lr: float = 6e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = True,
    ):
        trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
        self.names: dict[Tensor, str] = {p: key for key, p in trainable.items()}
        decayed = matrices(model)
        muon = [p for key, p in trainable.items() if name == "muon" and p in decayed and ".blocks." in key and ".conditioning." not in key]
        taken = set(muon)
        decay = [p for p in trainable.values() if p in decayed and p not in taken]
        plain = [p for p in trainable.values() if p not in decayed]
        groups = [
            {"params": alike, "weight_decay": decay_of}
            for params, decay_of in ((decay, weight_decay), (plain, 0.0))
            for alike in ([p for p in params if not is_sharded(p)], [p for p in params if is_sharded(p)])  # never in one fused call
            if alike
        ]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)]
        if muon:
            if not hasattr(torch.optim, "Muon"):
                raise InputError(
                    "CONFIG", "config", "optimizer.name", f"muon comes with torch 2.9 and later, this is {torch.__version__}: use adamw"
                )
            self.parts.append(torch.optim.Muon(muon, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        self.base = [group["lr"] for group in self._groups()]

    def _groups(self) -> Iterator[dict]:
        for part in self.parts:
            yield from part.param_groups

    def step(self, scale: float) -> None:
        """One update with every learning rate multiplied by `scale`."""
        for group, lr in zip(self._groups(), self.base, strict=True):
            group["lr"] = lr * scale
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def lr_at(self, scale: float) -> float:
        """AdamW's learning rate of a step with this scale."""
        return self.base[0] * scale

    def tensors(self) -> dict[str, Tensor]:
        """Every state tensor as `<parameter>|<slot>`; a slot of a parameter that never got a gradient does not exist."""
        found = {}
        for part in self.parts:
            for parameter, slots in part.state.items():
                for slot, value in slots.items():
                    found[f"{self.names[parameter]}|{slot}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return found

    def like(self) -> dict[str, Tensor]:
        """For each state tensor that there can be, the parameter whose shape it has."""
        parameters = [(p, SLOTS[type(part).__name__] - {"step"}) for part in self.parts for g in part.param_groups for p in g["params"]]
        return {f"{self.names[p]}|{slot}": p for p, slots in parameters for slot in slots}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`. Raises ValueError, before anything is taken, for state of another optimizer, parameter or shape."""
        by_name = {self.names[p]: (part, g, p) for part in self.parts for g in part.param_groups for p in g["params"]}
        found = []
        for key, value in tensors.items():
            name, _, slot = key.rpartition("|")
            if name not in by_name or slot not in SLOTS[type(by_name[name][0]).__name__]:
                raise ValueError(f"{key} is not part of this optimizer")
            part, group, parameter = by_name[name]
            refuse_misfit(key, value, slot, parameter)
            home = parameter.device if slot != "step" or group.get("fused") else "cpu"  # unfused AdamW counts steps on the host
            found.append((part, parameter, slot, value.to(home, copy=True)))
        for part, parameter, slot, value in found:
            part.state[parameter][slot] = value
