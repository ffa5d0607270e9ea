"""Stage II's loss: what it is made of, whom each part moves, and that batches add up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lgdlm.batch import Batch
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.posterior import POOLS, Posterior, TextLatentEncoder
from lgdlm.models.prior import PRIOR_TYPES, build_prior
from lgdlm.objectives.denoising import MODES, DenoisingObjective, Weights
from lgdlm.objectives.objective import LossReport, Totals, add_parts, mean_of
from lgdlm.objectives.variational import VariationalObjective, distortion
from lgdlm.rng import Rng

B, N = 8, 8
LENGTHS = (8, 6, 5, 8, 2, 7, 8, 3)


def batch(lengths: tuple[int, ...] = LENGTHS, start: int = 0) -> Batch:
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 30, (B, N), generator=g)[start : start + len(lengths)]
    text = torch.arange(N) < torch.tensor(lengths)[:, None]
    return Batch(ids, text, None, torch.arange(start, start + len(lengths)))


def objective(dropout: float = 0.0, **options: Any) -> VariationalObjective:
    return VariationalObjective(DenoisingObjective(MODES["l2t"], Weights(), dropout), **options)


def run(model: TextLatentDiffusion, data: Batch, step: int = 1, totals: Totals | None = None, **options: Any) -> LossReport:
    return objective(**options)(model, data, Rng(0, step, data.rows), totals or Totals(data.tokens, data.size))


def gradients(model: TextLatentDiffusion, report: LossReport) -> dict[str, torch.Tensor]:
    model.zero_grad()
    report.total.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def moved(found: dict[str, torch.Tensor], part: str) -> bool:
    return any(bool(g.any()) for name, g in found.items() if name.startswith(part))


@pytest.fixture(params=PRIOR_TYPES)
def model(request: pytest.FixtureRequest, stage2_model: TextLatentDiffusion) -> TextLatentDiffusion:
    stage2_model.prior = build_prior(request.param, 4)
    return stage2_model


def test_no_latent_of_the_data_is_needed(model: TextLatentDiffusion) -> None:
    metrics = run(model, batch(), geom_weight=1.0).metrics
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    other = replace(batch(), latent=torch.randn(B, 1, 4))
    assert run(model, other, geom_weight=1.0).metrics == metrics, "and none is read"


def test_the_loss_is_the_sum_of_its_parts(model: TextLatentDiffusion) -> None:
    """The decoder's loss at q's own z, the divergence of that z, and the distortion, by their weights."""
    data = batch()
    whole = run(model, data, kl_weight=0.3, geom_weight=0.7)
    rng = Rng(0, 1, data.rows)
    q, states = model.read(data.input_ids, data.text_mask)
    z = q.draw(rng)
    decoder = DenoisingObjective(MODES["l2t"]).of_latent(model, data, z, rng, Totals(data.tokens, data.size))
    assert model.prior is not None
    kl = model.prior.divergence(model, q, z, rng).sum() / B
    mask = data.attention_mask[..., None]
    pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
    geometry = distortion(pooled, q.mean.flatten(1)).mean()
    torch.testing.assert_close(whole.total, decoder.total + 0.3 * kl + 0.7 * geometry)
    metrics = whole.metrics
    assert metrics["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["bound"] == pytest.approx(metrics["nelbo"] + kl.item() * B / data.tokens, rel=1e-5)
    assert metrics["geometry"] == pytest.approx(geometry.item(), rel=1e-5)


def test_two_half_batches_equal_the_whole(model: TextLatentDiffusion) -> None:
    whole, halves = batch(), [batch(LENGTHS[:4]), batch(LENGTHS[4:], start=4)]
    totals = Totals(whole.tokens, whole.size)
    options = {"totals": totals, "kl_weight": 0.5, "geom_weight": 1.0, "free_bits": 0.2, "dropout": 0.3}
    one, parts = run(model, whole, **options), {}
    two = [run(model, half, **options) for half in halves]
    for report in two:
        add_parts(parts, report.parts)
    torch.testing.assert_close(sum(r.total for r in two), one.total, atol=1e-5, rtol=1e-5)
    for name, value in mean_of(parts).items():
        assert value == pytest.approx(one.metrics[name], rel=1e-4, abs=1e-5), name
    both = gradients(model, replace(one, total=sum(r.total for r in two)))  # type: ignore[arg-type]
    for name, gradient in gradients(model, run(model, whole, **options)).items():
        torch.testing.assert_close(both[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_padding_is_neither_read_nor_counted(model: TextLatentDiffusion) -> None:
    data = batch()
    other = replace(data, input_ids=torch.where(data.attention_mask, data.input_ids, 29))
    assert run(model, data).metrics == pytest.approx(run(model, other).metrics, rel=1e-5)
    assert run(model, data).parts["bound"].bottom == data.tokens == sum(LENGTHS)


def test_what_each_part_moves(model: TextLatentDiffusion) -> None:
    found = gradients(model, run(model, batch(), kl_weight=0.1))
    for part in ("posterior.trunk", "posterior.mean", "posterior.log_variance", "denoiser.blocks", "denoiser.text_head", "length"):
        assert moved(found, part), part
    assert moved(found, "prior") == any(True for _ in model.prior.parameters())  # type: ignore[union-attr]
    assert moved(found, "denoiser.latent_head") == (type(model.prior).__name__ == "DiffusionPrior"), "what is not used does not train"


@pytest.mark.parametrize("kind", POOLS)
def test_every_encoder_learns(stage2_model: TextLatentDiffusion, kind: str) -> None:
    torch.manual_seed(0)
    stage2_model.posterior = TextLatentEncoder(32, 4, kind=kind)
    found = gradients(stage2_model, run(stage2_model, batch(), kl_weight=0.1))
    still = [name for name, g in found.items() if name.startswith("posterior") and not g.any()]
    assert not still


def kl_pull(model: TextLatentDiffusion, **options: Any) -> dict[str, torch.Tensor]:
    """What the divergence alone adds to the gradients."""
    with_kl, without = (gradients(model, run(model, batch(), **{**options, **more})) for more in ({}, {"kl_weight": 0.0}))
    return {name: g - without[name] for name, g in with_kl.items()}


def test_the_posterior_is_pulled_by_kl_weight(model: TextLatentDiffusion) -> None:
    """Twice the weight, twice the pull; and none where the weight is 0, whatever the prior learns."""
    single, double = kl_pull(model, kl_weight=0.1), kl_pull(model, kl_weight=0.2)
    for name in ("posterior.mean.weight", "posterior.log_variance.bias"):
        assert single[name].abs().max() > 1e-4
        torch.testing.assert_close(double[name], 2 * single[name], atol=1e-5, rtol=1e-3)


def test_a_trained_prior_learns_at_its_own_weight(model: TextLatentDiffusion) -> None:
    """Also during the warm-up, when nothing pulls q: else it would meet a posterior that has run away."""
    names = [name for name, _ in model.named_parameters() if name.startswith("prior")]
    names += ["denoiser.latent_head.mlp.2.weight"] if type(model.prior).__name__ == "DiffusionPrior" else []
    found = {(kl, own): gradients(model, run(model, batch(), kl_weight=kl, prior_weight=own)) for kl in (0.0, 0.5) for own in (1.0, 2.0)}
    for name in names:
        assert found[0.0, 1.0][name].any()
        torch.testing.assert_close(found[0.0, 1.0][name], found[0.5, 1.0][name], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[0.0, 2.0][name], 2 * found[0.0, 1.0][name], atol=1e-6, rtol=1e-4)


def test_the_weight_rises_over_the_warm_up(model: TextLatentDiffusion) -> None:
    weights = [run(model, batch(), step, kl_weight=0.8, kl_warmup_steps=4).metrics["kl_weight"] for step in (1, 2, 4, 9)]
    assert weights == pytest.approx([0.2, 0.4, 0.8, 0.8])
    assert run(model, batch(), 1, kl_weight=0.8).metrics["kl_weight"] == 0.8


def test_free_bits_cost_nothing(stage2_model: TextLatentDiffusion) -> None:
    """A dimension below its free bits is not pulled; one above is pulled as ever. What is reported is the divergence itself."""
    stage2_model.prior = build_prior("fixed_gaussian", 4)
    assert stage2_model.posterior is not None
    with torch.no_grad():
        stage2_model.posterior.mean.weight.zero_()
        stage2_model.posterior.mean.bias.copy_(torch.tensor([0.0, 0.5, 2.0, 3.0]))
        stage2_model.posterior.log_variance.weight.zero_()
        stage2_model.posterior.log_variance.bias.zero_()
    each = torch.tensor([0.0, 0.5, 2.0, 3.0]).square() / 2  # nats
    plain, floored = (run(stage2_model, batch(), kl_weight=1.0, free_bits=bits) for bits in (0.0, 1.0))
    assert plain.metrics["kl"] == pytest.approx(float(each.sum())) == floored.metrics["kl"]
    assert (floored.total - plain.total).item() == pytest.approx(float((each.clamp_min(1.0) - each).sum()), rel=1e-4)
    pull, free = kl_pull(stage2_model, kl_weight=1.0), kl_pull(stage2_model, kl_weight=1.0, free_bits=1.0)
    assert not free["posterior.mean.bias"][:2].abs().max() > 1e-5 < pull["posterior.mean.bias"][1].abs()
    torch.testing.assert_close(free["posterior.mean.bias"][2:], pull["posterior.mean.bias"][2:], atol=1e-5, rtol=1e-4)


def test_chance_does_not_decide_who_is_free(stage2_model: TextLatentDiffusion) -> None:
    """The diffusion's estimate is far off in single rows; a posterior at the standard normal is free all the same."""
    assert stage2_model.posterior is not None
    with torch.no_grad():
        for head in (stage2_model.posterior.mean, stage2_model.posterior.log_variance):
            head.weight.zero_()
            head.bias.zero_()
    pull, free = kl_pull(stage2_model, kl_weight=1.0), kl_pull(stage2_model, kl_weight=1.0, free_bits=0.01)
    assert pull["posterior.mean.bias"].abs().max() > 1e-3
    assert free["posterior.mean.bias"].abs().max() < 1e-5


def test_condition_dropout_takes_the_latent_away(model: TextLatentDiffusion) -> None:
    """So that guidance and the unconditional bound go on working; the divergence is paid all the same."""
    kept, dropped = run(model, batch()), run(model, batch(), dropout=1.0)
    assert dropped.metrics["kl"] == kept.metrics["kl"]
    found = gradients(model, run(model, batch(), dropout=1.0, kl_weight=0.0))
    assert not moved(found, "posterior"), "with every latent dropped the decoder says nothing to q"


def test_distances_are_kept_up_to_scale_rotation_and_place() -> None:
    g = torch.Generator().manual_seed(0)
    states = torch.randn(16, 12, generator=g)
    turn, _ = torch.linalg.qr(torch.randn(12, 12, generator=g))
    assert distortion(states, 3 * states @ turn + 5).max() < 1e-9
    other = distortion(states, torch.randn(16, 12, generator=g))
    assert other.min() > 1e-3
    assert distortion(states, 7 * torch.randn(16, 12, generator=g)).mean() == pytest.approx(float(other.mean()), rel=1.0)
    assert len(distortion(states[:7], states[:7])) == 1, "what is left over a four has no distance"
    same = states.clone()
    same[1] = same[0]
    assert distortion(same, same).max() < 1e-9, "two equal texts may share a latent"


def test_only_latents_are_pulled_into_place() -> None:
    g = torch.Generator().manual_seed(1)
    states, latents = (torch.randn(8, 6, generator=g, requires_grad=True) for _ in range(2))
    distortion(states, latents).sum().backward()
    assert states.grad is None
    assert latents.grad is not None
    assert latents.grad.any()
    optimizer = torch.optim.Adam([latents], lr=0.05)
    before = float(distortion(states, latents).mean().detach())
    for _ in range(200):
        optimizer.zero_grad()
        distortion(states, latents).mean().backward()
        optimizer.step()
    assert float(distortion(states, latents).mean().detach()) < 0.05 * before


def test_half_precision_leaves_the_divergence_whole(model: TextLatentDiffusion) -> None:
    data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        q, _ = model.read(data.input_ids, data.text_mask)
        report = run(model, data)
    assert isinstance(q, Posterior)
    assert q.mean.dtype == q.log_variance.dtype == report.total.dtype == torch.float32
    assert report.metrics["kl"] == pytest.approx(run(model, data).metrics["kl"], rel=0.05)
