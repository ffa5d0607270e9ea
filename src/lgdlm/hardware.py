"""What the machine is good at, and how much of it a process has used."""

from __future__ import annotations

import resource
import sys
from functools import cache

import torch


@cache
def bf16_pays(device_type: str = "cpu") -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones: AMX or AVX512_BF16 on a CPU, Ampere or later on CUDA."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(name: str, device_type: str = "cpu") -> torch.dtype | None:
    """Autocast's type for `training.dtype`: None is plain float32; `auto` takes bf16 where it is faster."""
    return torch.bfloat16 if name == "bf16" or (name == "auto" and bf16_pays(device_type)) else None


def peak_memory(device_type: str = "cpu") -> int:
    """Largest memory this process has held so far, in bytes: of the device where it computes on one, else resident."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes
