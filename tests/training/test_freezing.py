"""What is frozen, and what a mode does not use, keeps every bit: through steps, moments and decay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_world import assembly, data_folder

from lgdlm.training.assemble import Assembly

UNUSED = {"l2t": ("latent_head",), "t2l": ("text_head", "length.")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def weights(parts: Assembly) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parts.model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_frozen_parameter_is_never_thawed_by_a_step(data: Path, tmp_path: Path, optimizer: str) -> None:
    """Trap: a loop that sets requires_grad for all undoes the freezing at each step."""
    parts = assembly(data, tmp_path, f"optimizer.name={optimizer}", "optimizer.weight_decay=0.5", "loss.loss_type=random")
    frozen = [name for name, _ in parts.model.named_parameters() if name.startswith(("denoiser.embedding", "denoiser.blocks"))]
    assert 0 < len(frozen) < len(weights(parts))
    for name, p in parts.model.named_parameters():
        p.requires_grad_(name not in frozen)
    before = weights(parts)
    for k in range(1, 7):
        parts.train_step(parts.loader.step(k), k, 1.0)
    after = weights(parts)
    assert {name for name, p in parts.model.named_parameters() if not p.requires_grad} == set(frozen)
    assert [name for name in frozen if not torch.equal(before[name], after[name])] == []
    assert not torch.equal(before["denoiser.latent_head.mlp.0.weight"], after["denoiser.latent_head.mlp.0.weight"])


@pytest.mark.parametrize("mode", UNUSED)
def test_moments_do_not_carry_on_what_a_mode_does_not_use(data: Path, tmp_path: Path, mode: str) -> None:
    """After steps of all modes the moments are warm; a step without a gradient must not follow them, nor decay."""
    parts = assembly(data, tmp_path, "optimizer.weight_decay=0.5", "loss.loss_type=random", "model.tie_embeddings=false")
    step = parts.train_step
    for k in range(1, 7):
        step(parts.loader.step(k), k, 1.0)
    assert {step.schedule.at(k) for k in range(1, 7)} == {"l2t", "t2l", "unconditional"}
    before = weights(parts)
    step.schedule = type("Only", (), {"at": lambda self, k: mode})()
    step(parts.loader.step(7), 7, 1.0)
    after = weights(parts)
    unused = [name for name in before if any(part in name for part in UNUSED[mode])]
    assert unused
    assert [name for name in unused if not torch.equal(before[name], after[name])] == []
    assert any(not torch.equal(before[name], after[name]) for name in before)
