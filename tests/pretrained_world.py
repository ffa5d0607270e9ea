"""Small random RWKV-7 weights in the layouts that people publish, and the answers of the packages that read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lgdlm.models.language_model import LanguageModel, shapes_of
from lgdlm.models.pretrained_layout import Sizes

RANKS = {"w": 16, "a": 8, "v": 8, "g": 24}
SIZES = Sizes(vocab_size=97, hidden_size=128, n_blocks=3, head_size=64, ffn_size=192, ranks=RANKS)


def random_weights(sizes: Sizes = SIZES, seed: int = 0, dtype: torch.dtype = torch.float32, unused: bool = True) -> dict[str, Tensor]:
    """Nothing at zero or one, so that every tensor counts; with `unused` layer 0 carries its idle value residual, as some files do."""
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes_of(sizes).items():
        noise = torch.randn(shape, generator=g)
        if name.endswith(".weight") and len(shape) == 1:
            weights[name] = 1 + 0.2 * noise
        elif ".x_" in name:
            weights[name] = torch.rand(shape, generator=g)
        elif name.endswith(("w0", "a0", "v0", "k_k", "k_a", "r_k", "bias")):
            weights[name] = 0.5 * noise
        else:
            weights[name] = noise * (1.0 if name == "emb.weight" else shape[-1] ** -0.5)
    if unused:
        H = sizes.hidden_size
        for name, shape in {"v0": (1, 1, H), "v1": (H, 8), "v2": (8, H)}.items():
            weights[f"blocks.0.att.{name}"] = torch.randn(shape, generator=g)
    return {name: t.to(dtype) for name, t in weights.items()}


def pth(folder: Path, sizes: Sizes = SIZES, **options: object) -> Path:
    """A file as the training code writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rwkv7-tiny.pth"
    torch.save(random_weights(sizes, **options), path)
    return path


def tokens(count: int, B: int = 1, seed: int = 1, sizes: Sizes = SIZES) -> Tensor:
    return torch.randint(0, sizes.vocab_size, (B, count), generator=torch.Generator().manual_seed(seed))


def read_by_rwkv(path: Path, ids: list[int], out: Path) -> Tensor:
    """Logits [n, V] of the `rwkv` package: whole, and checked there against a text cut in two. In a process: it reads the environment."""
    code = f"""
import torch
from rwkv.model import RWKV
from safetensors.torch import save_file
model = RWKV(model={str(path.with_suffix(""))!r}, strategy="cpu fp32")
whole, _ = model.forward({ids!r}, None, full_output=True)
_, state = model.forward({ids[:5]!r}, None, full_output=True)
rest, _ = model.forward({ids[5:]!r}, state, full_output=True)
torch.testing.assert_close(rest, whole[5:], atol=1e-4, rtol=0)
save_file({{"logits": whole.contiguous()}}, {str(out)!r})
"""
    environment = {**os.environ, "RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=300)
    return load_file(out)["logits"]


def huggingface_config(folder: Path, **changes: object) -> None:
    """Rewrite some fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def randomised(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Every parameter moved."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
    return model
