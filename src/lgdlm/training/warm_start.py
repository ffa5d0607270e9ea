"""A warm start: the averaged weights of a checkpoint into a fresh model, and nothing else of it.

Stage I  -> Stage I      every tensor
Stage I  -> Stage II     every tensor; posterior and prior, which it never had, stay fresh
Stage II -> Stage II     every tensor
"""

from __future__ import annotations

from pathlib import Path

import torch

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.training.checkpoint import AVERAGES, WEIGHTS, read_tensors
from lgdlm.training.freezing import OWN_PARTS
from lgdlm.training.weights import load_weights, weights_of


def start_from(model: TextLatentDiffusion, folder: Path) -> bool:
    """Copy the weights of a verified checkpoint; True where it had no posterior and the model has one, still fresh.

    Raises CheckpointError where the checkpoint is of another model.
    """
    saved = {**read_tensors(folder, WEIGHTS), **read_tensors(folder, AVERAGES)}
    absent = tuple(part for part in OWN_PARTS if not any(name.startswith(part) for name in saved))
    own = {name: tensor for name, tensor in weights_of(model).items() if name.startswith(absent)} if absent else {}
    with torch.no_grad():
        load_weights(model, {**saved, **own}, folder / AVERAGES)
    return model.posterior is not None and "posterior." in absent
