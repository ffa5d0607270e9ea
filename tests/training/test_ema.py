"""The average: its definition, its start, and that applying it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.training.ema import Ema


def walk(model: nn.Module, steps: int, ema: Ema) -> list[torch.Tensor]:
    path = []
    for k in range(1, steps + 1):
        for i, p in enumerate(model.parameters()):
            p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * k + i)))
        ema.update(k)
        path.append(next(model.parameters()).detach().clone().double())
    return path


def test_the_average_is_the_weighted_sum_of_the_path() -> None:
    model = nn.Linear(3, 2)
    start = model.weight.detach().clone().double()
    ema = Ema(model, 0.7)
    expected = start
    for k, w in enumerate(walk(model, 40, ema), 1):
        d = min(0.7, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * w
    torch.testing.assert_close(ema.average["weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_early_weights_are_forgotten() -> None:
    """With a fixed decay of 0.999 the start would still weigh 0.96 after 40 steps."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1000.0)
    ema = Ema(model, 0.999)
    walk(model, 40, ema)
    assert abs(float(ema.average["weight"])) < 5


def test_without_decay_it_is_the_weights() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.0)
    walk(model, 3, ema)
    assert all(torch.equal(ema.average[name], p) for name, p in model.named_parameters())


def test_applying_it_leaves_no_trace(joint_model: TextLatentDiffusion) -> None:
    ema = Ema(joint_model, 0.9)
    walk(joint_model, 2, ema)
    own = {name: p.detach().clone() for name, p in joint_model.named_parameters()}
    inside = []

    def fail() -> None:
        inside.extend(torch.equal(p, ema.average[name]) for name, p in joint_model.named_parameters())
        raise KeyError

    with pytest.raises(KeyError), ema.applied():
        fail()
    assert inside
    assert all(inside)
    assert all(torch.equal(p, own[name]) for name, p in joint_model.named_parameters())
    assert not any(torch.equal(p, ema.average[name]) for name, p in joint_model.named_parameters())


def test_averages_of_other_parameters_are_refused_whole() -> None:
    ema = Ema(nn.Linear(3, 2), 0.9)
    before = {name: value.clone() for name, value in ema.average.items()}
    for wrong in ({"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, {**before, "more": torch.zeros(1)}):
        with pytest.raises(ValueError, match=r"bias|more"):
            ema.load(wrong)
    assert all(torch.equal(ema.average[name], before[name]) for name in before)
    ema.load({name: value + 1 for name, value in before.items()})
    assert all(torch.equal(ema.average[name], before[name] + 1) for name in before)


def test_only_trained_parameters_are_averaged() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert set(Ema(model, 0.9).average) == {"weight"}
