"""RWKV-7 weights out of a checkpoint of ours, or out of other weights, into a layout that other programs read.

    rwkv   OUT/model.pth, as the `rwkv` package and RWKV-LM read it       (of a denoiser: what `adoption.published` says)
    hf     OUT/model.safetensors + config.json, as `fla` and `rwkv7-hf` read them
    both   + the tokenizer's files where it is known, so that a later run finds the rows of its own vocabulary

Weights that go from one layout to the other and back are the same bits. A denoiser's conditioning, latent, fusions and right-to-left
halves have no place in a language model: they stay behind, and their names are returned.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lgdlm.data.storage import make_folder, write_bytes, write_json
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.data.tokenizer_identity import FILE as IDENTITY
from lgdlm.errors import InputError
from lgdlm.models.adoption import published
from lgdlm.models.pretrained import NORM_EPS, read_pretrained
from lgdlm.models.pretrained_layout import Sizes, huggingface_name, huggingface_tensor
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.training.naming import STATE, find_checkpoint
from lgdlm.training.restore import restore

LAYOUTS = ("rwkv", "hf")
DTYPES = {"keep": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WEIGHTS, CONFIG = {"rwkv": "model.pth", "hf": "model.safetensors"}, "config.json"
STALE = {"rwkv": (WEIGHTS["hf"], CONFIG), "hf": (WEIGHTS["rwkv"],)}  # of an earlier export to the other layout, which this one replaces


@dataclass(frozen=True)
class Exported:
    """`left` are the names in the source that are not in the weights."""

    folder: Path
    tensors: int
    sizes: Sizes
    left: list[str]


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint of ours."""
    return (path / "latest").is_file() or (path / STATE).is_file()


def export(source: Path, out: Path, layout: str, *, dtype: str = "keep", overwrite: bool = False) -> Exported:
    """Write the weights of `source` (a run, a checkpoint, or weights in any layout) to the folder `out`.

    `dtype`: a key of DTYPES; `keep` is that of the source, float32 for a checkpoint, whose averaged weights are taken. Raises InputError
    (EXISTS for a folder that holds anything, CONFIG for a checkpoint of another network, FP16_RANGE), CheckpointError, StorageError.
    """
    assert layout in LAYOUTS
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError("EXISTS", out, "out", "holds files already; choose another out, or overwrite=true")
    tokenizer = None
    if is_checkpoint(source):
        restored = restore(find_checkpoint(source))
        if not isinstance(restored.model.denoiser, RWKVDenoiser):
            message = f"is a {restored.config.model.denoiser}: only model=rwkv7 has RWKV-7 weights"
            raise InputError("CONFIG", source, "model.denoiser", message)
        tensors, sizes, left = published(restored.model.denoiser)
        tokenizer = restored.tokenizer
    else:
        weights = read_pretrained(source)
        tensors, sizes, left = weights.tensors, weights.sizes, list(weights.ignored)
        beside = source if source.is_dir() else source.parent
        if (beside / IDENTITY).is_file():
            tokenizer = load_tokenizer(beside)
    end = 0 if tokenizer is None else tokenizer.eos_id
    tensors = {name: _cast(name, tensor, DTYPES[dtype], source) for name, tensor in tensors.items()}
    make_folder(out)
    if tokenizer is not None:
        tokenizer.save(out)
    if layout == "hf":
        kept = str(tensors["emb.weight"].dtype).removeprefix("torch.")
        tensors = {huggingface_name(name): huggingface_tensor(name, tensor) for name, tensor in tensors.items()}
        write_json(out / CONFIG, huggingface_settings(sizes, kept, end))
    tensors = {name: t.cpu().contiguous() for name, t in tensors.items()}
    write_bytes(out / WEIGHTS[layout], save(tensors, metadata={"format": "pt"}) if layout == "hf" else _torch_file(tensors))
    for name in STALE[layout]:
        (out / name).unlink(missing_ok=True)
    return Exported(out, len(tensors), sizes, left)


def _torch_file(tensors: dict[str, Tensor]) -> bytes:
    """The bytes of a `.pth`: the table of tensors alone, each with no more than its own numbers."""
    file = io.BytesIO()
    torch.save({name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in tensors.items()}, file)
    return file.getvalue()


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None, source: Path) -> Tensor:
    found = tensor if dtype is None else tensor.to(dtype)
    if not bool(torch.isfinite(found).all()):
        raise InputError("FP16_RANGE", source, name, "has values beyond the range of fp16: use weights_dtype=bf16 or fp32")
    return found


def huggingface_settings(sizes: Sizes, dtype: str, end: int) -> dict[str, Any]:
    """`config.json` of the `hf` layout."""
    s = sizes
    return {
        "model_type": "rwkv7",
        "architectures": ["RWKV7ForCausalLM"],
        "vocab_size": s.vocab_size,
        "hidden_size": s.hidden_size,
        "num_hidden_layers": s.n_blocks,
        "head_dim": s.head_size,
        "num_heads": s.hidden_size // s.head_size,
        "intermediate_size": s.ffn_size,
        "hidden_ratio": s.ffn_size / s.hidden_size,
        "decay_low_rank_dim": s.ranks["w"],
        "a_low_rank_dim": s.ranks["a"],
        "v_low_rank_dim": s.ranks.get("v", 1),  # a single layer has none
        "gate_low_rank_dim": s.ranks["g"],
        "value_dim": [s.hidden_size] * s.n_blocks,
        "hidden_act": "sqrelu",
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": NORM_EPS,
        "tie_word_embeddings": s.tied,
        "torch_dtype": dtype,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
