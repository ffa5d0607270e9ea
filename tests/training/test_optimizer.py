"""Which parameter decays, which goes to Muon, that the betas are used, and that the state survives a round trip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lgdlm.config import MODELS
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.training.optimizer import Optimizers, learning_rate_scale

SMALL = {"hidden_size": 16, "n_blocks": 1, "latent_dim": 4, "max_seq_len": 8, "latent_prefix_len": 2, "embedding_dim": 8}
OF_A_KIND = {"rwkv7": {"head_size": 8}}


def model_of(name: str) -> TextLatentDiffusion:
    config = MODELS[name](**SMALL, **OF_A_KIND.get(name, {"n_heads": 2}))
    return build_model(config, vocab_size=20, eos_id=0, latent_mean=torch.zeros(4), latent_std=torch.ones(4))


def with_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def decayed(optimizers: Optimizers) -> set[str]:
    return {optimizers.names[p] for part in optimizers.parts for g in part.param_groups if g["weight_decay"] for p in g["params"]}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_and_nothing_else(name: str, optimizer: str) -> None:
    """An update without gradient shows what decays: norms, biases, gains, embeddings and the mask's row stay where they are."""
    model = model_of(name)
    optimizers = Optimizers(model, name=optimizer, lr=0.1, muon_lr=0.1, weight_decay=0.5)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for p in model.parameters():
        p.data.add_(1.0)
        p.grad = torch.zeros_like(p)
    optimizers.step(1.0)
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key] + 1.0)}
    matrices = {key for key, m in model.named_modules() if isinstance(m, nn.Linear)}
    low_rank = {key for key, _ in model.named_parameters() if key.rpartition(".")[2] in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")}
    expected = {f"{key}.weight" for key in matrices if f"{key}.weight" in before} | low_rank
    assert moved == decayed(optimizers) == expected
    everything = [p for part in optimizers.parts for g in part.param_groups for p in g["params"]]
    assert len(everything) == len(set(everything)) == len(before), "each parameter is updated once"


@pytest.mark.parametrize("name", MODELS)
def test_muon_takes_matrices_of_the_blocks(name: str) -> None:
    model = model_of(name)
    adamw, muon = Optimizers(model, name="muon").parts
    taken = {p for g in muon.param_groups for p in g["params"]}
    names = {key for key, p in model.named_parameters() if p in taken}
    assert names
    assert all(".blocks." in key and not key.endswith(("r_k", "kind", "bias")) for key in names)
    assert all(p.dim() == 2 and min(p.shape) > 1 for p in taken)
    assert len(Optimizers(model, name="adamw").parts) == 1


def test_adamw_is_adamw_with_the_given_betas() -> None:
    """Three updates by hand: a second beta that is not passed on would be found in the second one."""
    model = nn.Linear(3, 2, bias=False)
    w = model.weight.detach().clone().double()
    lr, decay, (beta1, beta2), eps = 0.1, 0.2, (0.8, 0.6), 1e-6
    optimizers = Optimizers(model, lr=lr, weight_decay=decay, betas=(beta1, beta2), eps=eps)
    m = v = torch.zeros_like(w)
    for k in range(1, 4):
        with_gradients(model, k)
        g = model.weight.grad.double()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w = w * (1 - 0.5 * lr * decay) - 0.5 * lr * (m / (1 - beta1**k)) / ((v / (1 - beta2**k)).sqrt() + eps)
        optimizers.step(0.5)
        torch.testing.assert_close(model.weight.detach().double(), w, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_continues_where_it_was(name: str, fused: bool) -> None:
    def run(steps: range, model: TextLatentDiffusion, optimizers: Optimizers) -> None:
        for k in steps:
            with_gradients(model, k)
            optimizers.step(1.0)

    one, two = model_of("transformer"), model_of("transformer")
    a, b = Optimizers(one, name=name, fused=fused), Optimizers(two, name=name, fused=fused)
    run(range(3), one, a)
    two.load_state_dict(one.state_dict())
    b.load({key: value.clone() for key, value in a.tensors().items()})
    run(range(3, 6), one, a)
    run(range(3, 6), two, b)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert a.tensors().keys() == b.tensors().keys()
    assert all(torch.equal(value, b.tensors()[key]) for key, value in a.tensors().items())


def test_a_state_of_another_optimizer_is_refused_whole() -> None:
    model = model_of("transformer")
    muon, adamw = Optimizers(model, name="muon"), Optimizers(model, name="adamw")
    with_gradients(model, 0)
    muon.step(1.0)
    with pytest.raises(ValueError, match="not part of this optimizer"):
        adamw.load(muon.tensors())
    assert not adamw.tensors()
    adamw.step(1.0)
    tensors = adamw.tensors()
    key = next(key for key in tensors if key.endswith("exp_avg"))
    with pytest.raises(ValueError, match="shape"):
        adamw.load({**tensors, key: torch.zeros(7)})


def test_frozen_parameters_are_left_alone() -> None:
    model = model_of("transformer")
    model.denoiser.embedding.table.weight.requires_grad_(False)
    names = set(Optimizers(model).names.values())
    assert "denoiser.embedding.table.weight" not in names
    assert "denoiser.embedding.mask" in names


def test_the_learning_rate_rises_and_falls() -> None:
    scales = [learning_rate_scale(k, (k - 1) / 100, 10, "cosine", 0.1) for k in range(1, 101)]
    assert scales[0] == pytest.approx(0.1, rel=1e-3)
    assert all(a < b for a, b in zip(scales[:9], scales[1:10], strict=True))
    assert all(a > b for a, b in zip(scales[10:], scales[11:], strict=False))
    assert learning_rate_scale(100, 1.0, 10, "cosine", 0.1) == pytest.approx(0.1)
    assert learning_rate_scale(50, 0.5, 0, "cosine", 0.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert [learning_rate_scale(k, 0.9, 4, "constant", 0.0) for k in (1, 4, 90)] == [0.25, 1.0, 1.0]
