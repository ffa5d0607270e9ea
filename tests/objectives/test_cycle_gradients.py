"""Which parameters each term of cycle_vae may move, exactly, under every policy and for every denoiser.

term                                    moves
cycle_text, shared, stop                what l2t moves
cycle_text, shared, no stop             what l2t or t2l moves
cycle_text, decoder_only                the two heads that are the decoder's own
cycle_latent, argmax or categorical     what t2l moves
cycle_latent, gumbel_st                 what l2t or t2l moves, the length head excepted
prior                                   what t2l moves
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from cycle_world import batch, cycle, moved, report, row, small_model

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import Weights
from lgdlm.objectives.frozen import decoder_own
from lgdlm.rng import Rng

MODELS = {
    "transformer": {},
    "transformer, own head": {"tie_embeddings": False},
    "transformer, factorised": {"embedding_dim": 8},
    "transformer, from text": {"latent_pred_from": "text"},
    "transformer, eos": {"length": "eos"},
    "mmdit": {},
    "mmdit, from prefix": {"latent_pred_from": "prefix", "tie_embeddings": False},
    "rwkv7": {},
    "rwkv7, causal": {"causality": "causal", "latent_pred_from": "text"},
    "rwkv7, blocks": {"causality": "block_causal", "block_size": 2, "block_context": "clean"},
}
TEXT = {
    "stop": {},
    "no stop": {"stop_gradient": False},
    "decoder only": {"update": "decoder_only"},
    "sampled": {"through": "sampled"},
    "sampled, no stop": {"through": "sampled", "stop_gradient": False},
    "random time, no stop": {"t_mode": "random", "stop_gradient": False},
}
each_model = pytest.mark.parametrize("name", MODELS)


@cache
def model_of(name: str) -> TextLatentDiffusion:
    return small_model(name.partition(",")[0], **MODELS[name])


@cache
def sets(name: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """What l2t moves, what t2l moves, and the decoder's own."""
    model = model_of(name)
    own = {id(p) for p in decoder_own(model)}
    l2t, t2l = (moved(model, sum(report(row(mode), model, step=k).total for k in (1, 2, 3))) for mode in ("l2t", "t2l"))
    return frozenset(l2t), frozenset(t2l), frozenset(n for n, p in model.named_parameters() if id(p) in own)


@each_model
def test_the_decoders_own_parameters_are_those_that_no_latent_prediction_uses(name: str) -> None:
    model = model_of(name)
    l2t, t2l, own = sets(name)
    assert own
    assert own <= l2t
    assert not own & t2l
    assert all(part.startswith(("denoiser.text_head", "length.")) for part in own)
    assert ("denoiser.text_head.decode.weight" in own) == (not MODELS[name].get("tie_embeddings", True))
    assert not any(part.startswith("denoiser.latent_head") for part in l2t)
    unused = {n for n, _ in model.named_parameters()} - l2t - t2l
    assert not unused, "every parameter has a use"


@each_model
@pytest.mark.parametrize("policy", TEXT)
def test_the_text_cycle_moves_what_its_policy_allows_and_nothing_else(name: str, policy: str) -> None:
    model, (l2t, t2l, own) = model_of(name), sets(name)
    objective = cycle(text=TEXT[policy], text_weight=1.0)
    found = moved(model, sum(report(objective, model, step=k).total for k in (1, 2, 3)))
    expected = {"stop": l2t, "sampled": l2t, "decoder only": own}.get(policy, l2t | t2l)
    assert found == expected


@each_model
@pytest.mark.parametrize("sampling", ["argmax", "categorical", "gumbel_st"])
def test_the_latent_cycle_moves_the_encoder_and_through_soft_tokens_the_decoder(name: str, sampling: str) -> None:
    model, (l2t, t2l, _) = model_of(name), sets(name)
    objective = cycle(latent={"sampling": sampling}, latent_weight=1.0)
    found = moved(model, sum(report(objective, model, step=k).total for k in (1, 2, 3)))
    lengths = {n for n, _ in model.named_parameters() if n.startswith("length.")}
    assert found == (t2l | l2t - lengths if sampling == "gumbel_st" else t2l)


@each_model
@pytest.mark.parametrize("prior", ["moments", "mmd", "diffusion"])
def test_the_prior_moves_the_encoder_alone(name: str, prior: str) -> None:
    model, (_, t2l, _) = model_of(name), sets(name)
    assert moved(model, sum(report(cycle(prior=prior), model, step=k).total for k in (1, 2, 3))) == t2l


def test_what_was_frozen_before_stays_frozen_and_what_was_not_does_not() -> None:
    model = small_model()
    kept = model.denoiser.embedding.table.weight.requires_grad_(False)
    report(cycle(text={"update": "decoder_only"}, text_weight=1.0, prior="diffusion"), model).total.backward()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["denoiser.embedding.table.weight"]
    assert kept.grad is None


def read_latents(model: TextLatentDiffusion) -> torch.Tensor:
    data = batch()
    z0 = model.standardise(data.latent)
    pair = row("t2l").question(model, data, z0, Rng(0, 0, data.rows))
    with torch.no_grad():
        return model(pair).latent


@pytest.mark.parametrize("update", ["shared", "decoder_only"])
def test_a_detached_latent_still_moves_the_encoder_through_the_shared_backbone(update: str) -> None:
    """What the latents are read as after a step on the cycle alone: bit for bit the same only under decoder_only."""
    model = small_model()
    before, optimizer = read_latents(model), torch.optim.SGD(model.parameters(), lr=0.1)
    objective = cycle(text={"update": update}, text_weight=1.0)
    loss = report(objective, model).total
    loss.backward()
    optimizer.step()
    assert float(report(objective, model).total.detach()) < float(loss.detach())
    assert torch.equal(before, read_latents(model)) == (update == "decoder_only")


def test_half_precision_loses_no_gradient() -> None:
    """Autocast keeps the first copy that it makes of a weight: one made without gradient would silently freeze the weight."""
    model, data = small_model(), batch()
    objective = cycle(base=Weights(), text_weight=1.0, latent_weight=1.0, prior="diffusion", probe_every=1)
    exact = report(objective, model, data)
    names = moved(model, exact.total)
    norms = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    with torch.autocast("cpu", torch.bfloat16):
        rough = report(objective, model, data)
    assert moved(model, rough.total) == names
    for name, p in model.named_parameters():
        if norms.get(name, 0) > 1e-2:
            assert float(p.grad.norm()) == pytest.approx(norms[name], rel=0.25), name
