"""Shared by all tests: reproducible examples, and the command line run from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from lgdlm.cli import progress

if TYPE_CHECKING:
    from lgdlm.models.joint import TextLatentDiffusion

settings.register_profile("lgdlm", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lgdlm")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """--quiet, and being another rank than the first, are for a process; the tests share one."""
    yield
    progress._silent = False


@pytest.fixture
def lgdlm(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m lgdlm WORDS` in an empty folder, with one thread and nothing on stdin."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lgdlm", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture
def joint_model() -> TextLatentDiffusion:
    """A small untrained transformer over 30 tokens and latents of width 4, every parameter off its initial value."""
    import torch

    from lgdlm.config import TransformerModel
    from lgdlm.models.build import build_model

    config = TransformerModel(hidden_size=32, n_blocks=2, n_heads=2, latent_dim=4, max_seq_len=16)
    model = build_model(config, vocab_size=30, eos_id=0, latent_mean=torch.arange(4.0), latent_std=torch.tensor([0.5, 1.0, 2.0, 0.1]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture
def stage2_model() -> TextLatentDiffusion:
    """The same with a posterior and a diffusion prior."""
    import torch

    from lgdlm.config import TransformerModel
    from lgdlm.models.build import build_model

    size = {"hidden_size": 32, "n_blocks": 2, "n_heads": 2, "latent_dim": 4, "max_seq_len": 16}
    config = TransformerModel(**size, latent_encoder_type="mlp", latent_prior_type="diffusion")
    model = build_model(config, vocab_size=30, eos_id=0, latent_mean=torch.arange(4.0), latent_std=torch.tensor([0.5, 1.0, 2.0, 0.1]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()
