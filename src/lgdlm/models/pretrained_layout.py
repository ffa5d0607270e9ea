"""Names of RWKV-7 weights in the layouts that people publish, and the sizes that their shapes imply.

    published      emb  blocks.i.ln0|ln1|ln2  blocks.i.att.x_r w1 receptance ln_x ...  blocks.i.ffn.x_k key value  ln_out  head
    huggingface    model.embeddings  model.layers.i.pre_norm|attn_norm|ffn_norm  ....attn.x_r w_lora r_proj g_norm ...
                   ....ffn.x_k key value  model.norm  lm_head

Inside, everything is `published`: the names of the training code, which are also those of `RWKV7`. The other layout (of
`fla` and `rwkv7-hf`) has each tensor once as well; the low-rank factors lie transposed in it and gains are flat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from lgdlm.errors import InputError

ENDS = {
    "emb.weight": "embeddings.weight",
    "ln_out.weight": "norm.weight",
    "ln_out.bias": "norm.bias",
    "head.weight": "lm_head.weight",
}
NORMS = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
PROJECTIONS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
FACTORS = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}
MIXES = "rwkvag"  # the order of the six token shifts where they lie in one tensor

LOW_RANK = re.compile(r"blocks\.\d+\.att\.[wavg]([012])")
UNUSED = re.compile(r"blocks\.0\.att\.v[012]")  # layer 0 defines the value residual; some files carry its factors all the same


@dataclass(frozen=True)
class Sizes:
    """All that a checkpoint's shapes say. `ranks` are the widths of the low-rank signals w, a, v, g; `tied`: the head is the embedding."""

    vocab_size: int
    hidden_size: int
    n_blocks: int
    head_size: int
    ffn_size: int
    ranks: dict[str, int] = field(default_factory=dict)
    tied: bool = False


def published_name(name: str) -> str | None:
    """The published name of a `huggingface` one, with or without its `model.`; None for a name that belongs to no RWKV-7."""
    name = name.removeprefix("model.")
    for ours, theirs in ENDS.items():
        if name == theirs:
            return ours
    if (match := re.fullmatch(r"layers\.(\d+)\.(\w+)\.(.+)", name)) is None:
        return None
    layer, part, rest = match.groups()
    for ours, theirs in NORMS.items():
        if part == theirs:
            return f"blocks.{layer}.{ours}.{rest}"
    if part == "ffn":
        return f"blocks.{layer}.ffn.{rest}"
    if part != "attn":
        return None
    if low_rank := re.fullmatch(r"([wavg])_lora\.lora\.(.+)", rest):
        digit = {theirs: ours for ours, theirs in FACTORS.items()}.get(low_rank[2])
        return None if digit is None else f"blocks.{layer}.att.{low_rank[1]}{digit}"
    first, dot, last = rest.partition(".")
    ours = {theirs: ours for ours, theirs in PROJECTIONS.items()}.get(first, first)
    return f"blocks.{layer}.att.{ours}{dot}{last}"


def huggingface_name(name: str) -> str:
    """The `huggingface` name of a published one."""
    if name in ENDS:
        return ENDS[name] if name == "head.weight" else f"model.{ENDS[name]}"
    _, layer, part, rest = name.split(".", 3)
    if part in NORMS:
        return f"model.layers.{layer}.{NORMS[part]}.{rest}"
    if part == "ffn":
        return f"model.layers.{layer}.ffn.{rest}"
    if LOW_RANK.fullmatch(name):
        return f"model.layers.{layer}.attn.{rest[0]}_lora.lora.{FACTORS[rest[1]]}"
    first, dot, last = rest.partition(".")
    return f"model.layers.{layer}.attn.{PROJECTIONS.get(first, first)}{dot}{last}"


def huggingface_tensor(name: str, tensor: Tensor) -> Tensor:
    """A published tensor as it lies in the other layout: factors transposed, gains flat except the six of the token shift."""
    if (match := LOW_RANK.fullmatch(name)) and match[1] != "0":
        return tensor.T.contiguous()
    flat = tensor.dim() == 3 and ".att.x_" not in name
    return tensor.flatten() if flat else tensor


def published(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str, list[str]]:
    """Tensors under published names, the layout they had, and the names that mean nothing in it.

    What stands outside the stack cannot change what it computes. Raises InputError (UNKNOWN_WEIGHTS) for names of neither layout.
    """
    if "emb.weight" in tensors:
        known = {name: t for name, t in tensors.items() if name in ENDS or name.startswith("blocks.")}
        return known, "published", [name for name in tensors if name not in known]
    known, strange = {}, []
    for name, tensor in _shifts_apart(tensors):
        ours = published_name(name)
        if ours is None:
            strange.append(name)
        else:
            match = LOW_RANK.fullmatch(ours)
            known[ours] = tensor.T.contiguous() if match and match[1] != "0" else tensor
    if inside := [name for name in strange if name.removeprefix("model.").startswith("layers.")]:
        raise InputError("UNKNOWN_WEIGHTS", "weights", inside[0], f"is no part of RWKV-7 ({len(inside)} such tensors)")
    if "emb.weight" not in known:
        some = ", ".join(list(tensors)[:3]) or "no tensors at all"
        raise InputError("UNKNOWN_WEIGHTS", "weights", "layout", f"neither emb.weight nor model.embeddings.weight is among them ({some})")
    return known, "huggingface", strange


def _shifts_apart(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Old files hold the six token shifts of a layer in one tensor `attn.x_x` [6, ...]."""
    for name, tensor in tensors.items():
        if name.endswith(".attn.x_x"):
            yield from ((f"{name[:-1]}{letter}", part) for letter, part in zip(MIXES, tensor, strict=True))
        else:
            yield name, tensor


def sizes_of(tensors: dict[str, Tensor]) -> Sizes:
    """Every size from the shapes of published tensors. Raises InputError (MISSING_WEIGHTS, UNKNOWN_WEIGHTS)."""
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)}
    n_blocks = len(layers)
    if layers != set(range(n_blocks)) or not layers:
        raise InputError(
            "MISSING_WEIGHTS", "weights", "blocks", f"layers 0 to {n_blocks} are expected without a gap, got {sorted(layers)[:8]}"
        )
    if any(".att.time_" in name for name in tensors):
        raise InputError("UNKNOWN_WEIGHTS", "weights", "version", "att.time_... belongs to RWKV-6 or older: RWKV-7 weights are expected")
    V, H = _matrix(tensors, "emb.weight")
    ranks = {letter: _matrix(tensors, f"blocks.0.att.{letter}1")[1] for letter in "wag"}
    if n_blocks > 1:
        ranks["v"] = _matrix(tensors, "blocks.1.att.v1")[1]
    return Sizes(
        vocab_size=V,
        hidden_size=H,
        n_blocks=n_blocks,
        head_size=_matrix(tensors, "blocks.0.att.r_k")[1],
        ffn_size=_matrix(tensors, "blocks.0.ffn.key.weight")[0],
        ranks=ranks,
        tied="head.weight" not in tensors,
    )


def _matrix(tensors: dict[str, Tensor], name: str) -> tuple[int, int]:
    if name not in tensors:
        raise InputError("MISSING_WEIGHTS", "weights", name, "is not in the file: these are no complete RWKV-7 weights")
    if tensors[name].dim() != 2:
        raise InputError("BAD_WEIGHTS", "weights", name, f"a matrix is expected, got the shape {list(tensors[name].shape)}")
    return tensors[name].shape[0], tensors[name].shape[1]
