"""Pretrained RWKV-7 weights from a file or a folder: read, named, sized and complete, or refused.

    *.safetensors | *.pth (weights only) | a folder of either, also sharded  ->  tensors under published names + `Sizes`

Nothing is executed: a `.pth` is unpickled by torch's list of harmless types, or not at all. What a file has that no RWKV-7
computes with is ignored where it stands outside the stack, and refused inside it. A file without a head has the embedding as
its head; norms saved without a bias have none, which is a bias of zero.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lgdlm.errors import InputError
from lgdlm.models.language_model import LanguageModel, language_model, shapes_of
from lgdlm.models.pretrained_layout import UNUSED, Sizes, published, sizes_of

TORCH_FILES = (".pth", ".pt", ".bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NORM_EPS, HEAD_EPS = 1e-5, 64e-5  # of the published model: layer norms, and the norm of each head


@dataclass(frozen=True)
class Pretrained:
    """Complete weights.

    tensors   by published name, in the dtype of the file
    layout    `published` or `huggingface`
    ignored   names in the file that nothing computes with, and why
    absent    names that the file lacks, and what stands for them
    """

    source: Path
    tensors: dict[str, Tensor]
    sizes: Sizes
    layout: str
    ignored: dict[str, str]
    absent: dict[str, str]

    def rows(self, index: Tensor | None) -> Pretrained:
        """The same with rows `index` int64 [V] of the vocabulary, in that order; None: all of them."""
        if index is None:
            return self
        some = {name: t[index] if name in ("emb.weight", "head.weight") else t for name, t in self.tensors.items()}
        return replace(self, tensors=some, sizes=replace(self.sizes, vocab_size=len(index)))

    def model(self, **options: Any) -> LanguageModel:
        """The language model of these weights; `options` of `language_model`."""
        return language_model(self.tensors, self.sizes, **options)


def read_pretrained(path: Path) -> Pretrained:
    """The weights at `path`: a file, or a folder with one of them.

    Raises InputError: MISSING_FILE, SEVERAL_FILES, UNREADABLE, UNSAFE_WEIGHTS, UNKNOWN_WEIGHTS, MISSING_WEIGHTS, BAD_WEIGHTS.
    """
    files = weight_files(path)
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _tensors_in(file)
    try:
        tensors, layout, strange = published(found)
        ignored = dict.fromkeys(strange, "not a part of RWKV-7")
        for name in [name for name in tensors if UNUSED.fullmatch(name)]:
            ignored[name] = "layer 0 has no value residual"
            del tensors[name]
        settings = _settings(path if path.is_dir() else path.parent) if layout == "huggingface" else {}
        _tie(tensors, settings)
        sizes = sizes_of(tensors)
        _check_settings(settings, sizes)
        tensors, absent = _complete(tensors, sizes, settings)
    except InputError as problem:
        raise InputError(problem.code, path, problem.field, problem.message) from problem
    return Pretrained(path, tensors, sizes, layout, ignored, absent)


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: `path`, or those of the folder `path`; shards as its index lists them."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError("MISSING_FILE", path, "weights", "no such file or folder: expected RWKV-7 weights, .safetensors or .pth")
    for index in (path / name for name in INDEXES):
        if index.is_file():
            return _shards(index)
    for kinds in ((".safetensors",), TORCH_FILES):
        files = sorted(p for p in path.iterdir() if p.suffix in kinds and p.is_file())
        if len(files) > 1:
            names = ", ".join(p.name for p in files[:4])
            raise InputError("SEVERAL_FILES", path, "weights", f"which one of {len(files)}? name the file itself ({names})")
        if files:
            return files
    raise InputError("MISSING_FILE", path, "weights", "the folder holds neither .safetensors nor .pth files")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a shard lies outside the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise InputError("UNREADABLE", index, "weight_map", f"is not the index of sharded weights ({problem})") from problem
    for name in names:
        if not (index.parent / name).is_file():
            raise InputError("MISSING_FILE", index.parent / name, "weights", f"{index.name} lists this shard and it is not there")
    return [index.parent / name for name in names]


def _tensors_in(path: Path) -> dict[str, Tensor]:
    try:
        found = read_torch_file(path) if path.suffix in TORCH_FILES else load_file(path)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as problem:
        raise InputError("UNREADABLE", path, "file", f"cannot be read as weights ({problem})") from problem
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(t, Tensor) for name, t in found.items()):
        raise InputError("UNKNOWN_WEIGHTS", path, "file", "a flat table of named tensors is expected: is this a training checkpoint?")
    return found


def read_torch_file(path: Path) -> object:
    """What torch saved, as long as it consists of tensors, numbers and texts. Raises InputError: UNSAFE_WEIGHTS, UNREADABLE."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's age: it is read by the list of harmless types or not
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as problem:
        message = "holds more than tensors, or is no file of torch: save its tensors alone, best as .safetensors"
        raise InputError("UNSAFE_WEIGHTS", path, "file", message) from problem
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as problem:
        raise InputError("UNREADABLE", path, "file", f"cannot be read as weights ({problem})") from problem


def _settings(folder: Path) -> dict[str, Any]:
    """`config.json` beside the weights, or nothing."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as problem:
        raise InputError("UNREADABLE", path, "file", f"is not readable as JSON ({problem})") from problem
    if not isinstance(settings, dict):
        raise InputError("UNREADABLE", path, "file", "an object is expected")
    return settings


def _tie(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Drop the head where `config.json` says that it is the embedding; a file without a head says so by itself."""
    said = settings.get("tie_word_embeddings")
    if "head.weight" not in tensors and said is False:
        raise InputError("MISSING_WEIGHTS", "weights", "lm_head.weight", "is not in the file, and config.json says it is not tied")
    if "head.weight" in tensors and said is True:
        if not torch.equal(tensors["head.weight"], tensors["emb.weight"]):
            raise InputError("BAD_WEIGHTS", "weights", "lm_head.weight", "differs from the embedding, and config.json says they are tied")
        del tensors["head.weight"]


def _check_settings(settings: dict[str, Any], sizes: Sizes) -> None:
    """What no shape says and would change every logit."""
    eps = settings.get("norm_eps", NORM_EPS)
    expected = {
        "norm_eps": (eps, NORM_EPS),
        "head_dim x norm_eps": (round(sizes.head_size * eps, 9) if settings else HEAD_EPS, HEAD_EPS),
        "hidden_act": (settings.get("hidden_act", "sqrelu"), "sqrelu"),
        "norm_first": (settings.get("norm_first", True), True),
        "attn": (settings.get("attn"), None),
    }
    for name, (value, wanted) in expected.items():
        if value != wanted:
            raise InputError("BAD_WEIGHTS", "config.json", name, f"{wanted} is what RWKV-7 computes with, got {value}")


def _complete(tensors: dict[str, Tensor], sizes: Sizes, settings: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of the stack in its shape, and what stands for absent ones."""
    shapes = shapes_of(sizes)
    absent = {"head.weight": "tied to emb.weight"} if sizes.tied else {}
    if surplus := [name for name in tensors if name not in shapes]:
        raise InputError(
            "UNKNOWN_WEIGHTS", "weights", surplus[0], f"is no part of RWKV-7 ({len(surplus)} such tensors): another version of it?"
        )
    missing = [name for name in shapes if name not in tensors]
    no_bias = settings.get("norm_bias") is False
    for name in missing:
        if not (no_bias and name.endswith(".bias") and ".ln_x." not in name):
            raise InputError("MISSING_WEIGHTS", "weights", name, f"is not in the file ({len(missing)} such tensors): it is incomplete")
        tensors[name] = torch.zeros(shapes[name])
        absent[name] = "zeros: these norms have no bias"
    for name, shape in shapes.items():
        if tensors[name].numel() != shape.numel() or (len(shape) == 2 and tensors[name].shape != shape):
            message = f"the shape {list(shape)} is expected, got {list(tensors[name].shape)}"
            raise InputError("BAD_WEIGHTS", "weights", name, message)
        if not tensors[name].is_floating_point() or not bool(torch.isfinite(tensors[name]).all()):
            raise InputError("BAD_WEIGHTS", "weights", name, f"finite numbers are expected, got others ({tensors[name].dtype})")
    return {name: tensors[name].reshape(shape) for name, shape in shapes.items()}, absent
