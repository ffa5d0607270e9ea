"""From configuration to network: every key of a denoiser's schema does something there, or is refused."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature

import pytest
import torch

from lgdlm.config import MODELS, Model
from lgdlm.errors import InputError
from lgdlm.models.build import DENOISERS, build_denoiser
from lgdlm.models.denoiser import NoisyPair
from lgdlm.schema import keys_of

SMALL = {"hidden_size": 64, "n_blocks": 1, "latent_dim": 4, "max_seq_len": 8}
OTHER = {  # another value than SMALL's or the default
    "hidden_size": 32, "n_blocks": 2, "n_heads": 2, "ffn_ratio": 2.0, "dropout": 0.5, "max_seq_len": 9, "embedding_dim": 16,
    "tie_embeddings": False, "qk_rmsnorm": False, "time_conditioning": "film", "latent_dim": 5, "latent_len": 2, "latent_prefix_len": 2,
    "latent_pred_from": "text",
}  # fmt: skip


def without_a_use(kind: str) -> set[str]:
    """Keys that this denoiser's schema has, that some network's constructor takes, and not this one's."""
    taken = {name: set(signature(network).parameters) for name, network in DENOISERS.items()}
    return set(keys_of(MODELS[kind])) & (set().union(*taken.values()) - taken[kind]) - {"max_seq_len"}


@pytest.mark.parametrize("kind", ["transformer", "mmdit"])
def test_every_key_of_an_attention_network_reaches_it(kind: str) -> None:
    assert not without_a_use(kind)


@pytest.mark.parametrize("kind", DENOISERS)
def test_a_key_that_a_network_has_no_use_for_is_refused(kind: str) -> None:
    """Trap: a flag that is accepted and means nothing."""
    plain = MODELS[kind](**SMALL)
    build_denoiser(plain, 20)
    for name in without_a_use(kind):
        with pytest.raises(InputError, match=f"model.{name}: model={kind} has no use for it"):
            build_denoiser(replace(plain, **{name: OTHER[name]}), 20)


def test_heads_counted_by_their_size_may_be_named() -> None:
    build_denoiser(MODELS["rwkv7"](**SMALL, head_size=16, n_heads=4), 20)


def shapes_and_answers(model: Model) -> tuple[dict[str, torch.Size], torch.Tensor]:
    """The network's parameters, and what it says in training with every one of them set to noise."""
    net = build_denoiser(model, 20).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for _, p in sorted(net.named_parameters()):
            p.copy_(torch.randn(p.shape) / 4)
    text = torch.arange(16).view(2, 8)
    t = torch.tensor([0.3, 0.6])
    latent = torch.linspace(-1, 1, 2 * net.latent_len * net.latent_dim).view(2, net.latent_len, net.latent_dim)
    answer = net(NoisyPair(text, t, latent, 1 - t, torch.ones(2, 8, dtype=torch.bool)))
    return {name: p.shape for name, p in net.named_parameters()}, answer.text_logits


ASKED_OTHERWISE = {"text_process", "self_conditioning_prob"}  # another kind of input: test_embedded_text.py


@pytest.mark.parametrize("kind", ["transformer", "mmdit"])
def test_every_key_of_a_network_changes_it(kind: str) -> None:
    """Trap: a flag that is accepted and not passed on. Another value gives other parameters, or other answers of the same ones."""
    plain = MODELS[kind](**SMALL)
    shapes, answer = shapes_and_answers(plain)
    taken = set(signature(DENOISERS[kind]).parameters) & set(keys_of(MODELS[kind])) - ASKED_OTHERWISE
    assert taken <= set(OTHER), "a new key needs another value here"
    for name in sorted(taken):
        other_shapes, other_answer = shapes_and_answers(replace(plain, **{name: OTHER[name]}))
        assert other_shapes != shapes or not torch.allclose(other_answer, answer, atol=1e-4), name
