"""What `lgdlm sample` is given: whether it suits the mode, before a model is loaded; then the latents, read or made from texts.

input=FILE                the latents themselves
prompts=FILE, prompt=..   z = projection(encoder(text)), both those of the data that the checkpoint was trained on
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lgdlm.cli.latent_files import check_latents, read_latents
from lgdlm.cli.prompts import check_prompts, read_prompts
from lgdlm.config import Sampling
from lgdlm.data.manifest import has_manifest, read_manifest
from lgdlm.errors import InputError
from lgdlm.training.agreement import same_data
from lgdlm.training.restore import Restored
from lgdlm.training.splits import sources_of

LATENTS = ("l2t", "interpolate")  # modes of latents, which may be made from texts
TEXTS = ("t2l", "encode", "infill", "edit")


def check_inputs(asked: Sampling) -> None:
    """Raise InputError where the mode lacks what it needs, has too much, or a file is not there."""
    texts = asked.prompt is not None or asked.prompts is not None
    if asked.mode in LATENTS and asked.input is not None and texts:
        message = f"mode={asked.mode} takes latents (input) or texts (prompts), got both"
        raise InputError("CONFIG", "command-line", "sampling.input", message)
    if asked.input is None and (asked.mode == "edit" or (asked.mode in LATENTS and not texts)):
        instead = "" if asked.mode == "edit" else "; or texts: prompts=FILE"
        message = f"mode={asked.mode} needs latents: input=FILE.npy, a folder of them, or FILE.jsonl{instead}"
        raise InputError("CONFIG", "command-line", "sampling.input", message)
    if asked.mode in TEXTS or (asked.mode in LATENTS and texts):
        check_prompts(asked.prompt, asked.prompts)
    if asked.input is not None:
        check_latents(Path(asked.input))


def latents_of(asked: Sampling, restored: Restored) -> dict[str, np.ndarray]:
    """Float32 [L, D] by id: those of `sampling.input`, or of the prompts. Raises InputError."""
    if asked.input is not None:
        return read_latents(Path(asked.input), restored.model.latent_shape, restored.projection, asked.project)
    texts = read_prompts(asked.prompt, asked.prompts)[: asked.limit]
    vectors = _encoded([text for _, text in texts], restored)
    rows = vectors if restored.projection is None else restored.projection(vectors)
    length, dim = restored.model.latent_shape
    if rows.shape[1:] != (dim,) or length != 1:
        message = f"the encoder makes latents of {rows.shape[1]} numbers, the model has [{length}, {dim}]; give input=FILE.npy"
        raise InputError("LATENT_DIM", restored.folder, "sampling.prompts", message)
    return {name: row[None] for (name, _), row in zip(texts, rows, strict=True)}


def _encoded(texts: list[str], restored: Restored) -> np.ndarray:
    """Vectors [n, E] by the encoder that the manifest of the training data names."""
    trained = restored.config.data
    folder = Path(next(iter(sources_of(trained)), trained.latent_dir))
    if not trained.use_external_latents:
        message = "this model learned its latents itself: mode=encode makes them from texts, and input=FILE.jsonl reads those"
        raise InputError("CONFIG", "command-line", "sampling.prompts", message)
    if not has_manifest(folder):
        message = "the data that the model was trained on say which encoder made its latents, and are not here; give input=FILE.npy"
        raise InputError("MISSING_FILE", folder, "sampling.prompts", message)
    manifest = read_manifest(folder)
    same_data(restored.folder, manifest)
    if not manifest.encoder or manifest.encoder.get("name") == "given":
        message = "the latents of this model's data were given ready, so no encoder is known; give input=FILE.npy"
        raise InputError("BAD_ENCODER", folder, "sampling.prompts", message)
    from lgdlm.data.encoder import load_encoder

    return load_encoder(manifest.encoder).encode(texts)
