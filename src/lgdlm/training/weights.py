"""A model's tensors by name, and their comparison with those of a file.

saved = parameters + buffers that persist;   a file fits where names, shapes and types are equal and every number is finite
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lgdlm.errors import CheckpointError


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied matrix stands once, under its first name."""
    unsaved = {f"{p}.{n}" if p else n for p, m in model.named_modules() for n in m._non_persistent_buffers_set}
    buffers = {name: b for name, b in model.named_buffers() if name not in unsaved}
    return {name: t.detach() for name, t in {**dict(model.named_parameters()), **buffers}.items()}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy `tensors` into the model: the same names, shapes and types, or CheckpointError naming the first that differs."""
    for name, tensor in compare_weights(model, tensors, where).items():
        tensor.copy_(tensors[name])


def compare_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The model's own weights, whose names, shapes and types are those of `tensors`; else CheckpointError."""
    own = weights_of(model)
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or surplus:
        name, what = (missing[0], "missing") if missing else (surplus[0], "not part of this model")
        raise CheckpointError(
            "CHECKPOINT", where, name, f"tensor is {what} ({len(missing)} missing, {len(surplus)} surplus): is this the same model?"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError("CHECKPOINT", where, name, f"expected shape {list(tensor.shape)}, got {list(tensors[name].shape)}")
        if tensor.dtype != tensors[name].dtype:
            raise CheckpointError("CHECKPOINT", where, name, f"expected {tensor.dtype}, got {tensors[name].dtype}")
    return own
