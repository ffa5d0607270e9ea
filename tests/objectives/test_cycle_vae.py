"""cycle_vae adds up: its base, its ramps, its turns, its metrics, and batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cycle_world import D, batch, cycle, report, row, small_model

from lgdlm.objectives.cycle_vae import Ramp, Turns
from lgdlm.objectives.denoising import Weights
from lgdlm.objectives.latent_prior import PRIORS
from lgdlm.objectives.objective import Totals, add_parts, mean_of
from lgdlm.objectives.text_cycle import sampled_latent
from lgdlm.rng import Rng

METRICS = {
    "base_l2t_text_loss", "base_t2l_latent_loss", "cycle_text_loss", "cycle_latent_loss", "cycle_text_weight", "cycle_latent_weight",
    "text_accuracy", "latent_norm", "latent_pred_norm", "x0_pred_norm", "t_lat_mean",
}  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_without_cycles_it_is_l2t_plus_t2l(dropout: float) -> None:
    model, weights = small_model(), Weights(0.7, 1.3, 0.5)
    both = report(cycle(base=weights, dropout=dropout), model)
    apart = [report(row(mode, weights, dropout), model) for mode in ("l2t", "t2l")]
    assert both.total.item() == (apart[0].total + apart[1].total).item()
    assert both.metrics["base_l2t_text_loss"] == apart[0].metrics["text_loss"]
    assert both.metrics["base_t2l_latent_loss"] == apart[1].metrics["latent_loss"]
    assert both.metrics["nelbo"] == apart[0].metrics["nelbo"]


def test_every_documented_metric_is_a_finite_float() -> None:
    objective = cycle(base=Weights(), text_weight=0.1, latent_weight=0.1, prior="mmd", probe_every=2)
    metrics = report(objective, small_model(), step=4).metrics
    assert metrics.keys() >= METRICS | {"cycle_text_loss_sampled", "prior_loss", "pseudo_length", "nelbo", "length_loss"}
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert (metrics["cycle_text_weight"], metrics["cycle_latent_weight"]) == (0.1, 0.1)
    assert "cycle_text_loss_sampled" not in report(objective, small_model(), step=5).metrics, "measured every second step only"


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    model, weights = small_model(), Weights(0.7, 1.3, 0.5)
    ones = {
        "base": cycle(base=weights),
        "text": cycle(text_weight=1.0, text={"length_weight": 0.5}),
        "latent": cycle(latent_weight=1.0),
        "prior": cycle(prior="moments"),
    }
    terms = {name: float(report(objective, model).total.detach()) for name, objective in ones.items()}
    whole = cycle(
        base=weights, text_weight=0.2, text={"length_weight": 0.5}, latent_weight=0.3, prior="moments", prior_weight=0.4, probe_every=1
    )
    found = report(whole, model)
    expected = terms["base"] + 0.2 * terms["text"] + 0.3 * terms["latent"] + 0.4 * terms["prior"]
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert found.metrics["cycle_latent_loss"] == pytest.approx(terms["latent"], rel=1e-5)
    assert found.metrics["prior_loss"] == pytest.approx(terms["prior"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, (2, 0)),
        ({"text_weight": 1.0}, (3, 1)),
        ({"latent_weight": 1.0}, (3, 1)),
        ({"text_weight": 1.0, "latent_weight": 1.0}, (4, 2)),
        ({"text_weight": 1.0, "text": {"stop_gradient": False}, "latent_weight": 1.0, "latent": {"sampling": "gumbel_st"}}, (6, 0)),
        ({"text_weight": 1.0, "latent_weight": 1.0, "prior": "moments", "probe_every": 1}, (5, 2)),
        ({"prior": "diffusion"}, (4, 0)),
    ],
)
def test_a_step_makes_a_fixed_number_of_single_passes(options: dict[str, Any], passes: tuple[int, int]) -> None:
    """With and without gradient: there is no sampling loop in training."""
    model, made = small_model(), []
    model.denoiser.register_forward_pre_hook(lambda *_: made.append(torch.is_grad_enabled()))
    report(cycle(base=Weights(), **options), model)
    assert (made.count(True), made.count(False)) == passes


def test_weights_ramp_up() -> None:
    assert [Ramp(0.5, 3, 4).at(step) for step in range(1, 10)] == [0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert [Ramp(0.5, 2, 0).at(step) for step in range(1, 5)] == [0, 0, 0.5, 0.5]
    assert Ramp(0.5).at(1) == 0.5
    model = small_model()
    objective = cycle(base=Weights(), text_weight=0.0)
    objective.text_weight = Ramp(1.0, 2, 2)
    weights, losses = [], []
    for step in range(1, 6):
        found = report(objective, model, step=step)
        weights.append(found.metrics["cycle_text_weight"])
        losses.append("cycle_text_loss" in found.metrics)
    assert weights == [0, 0, 0.5, 1, 1]
    assert losses == [False, False, True, True, True], "a cycle that has no weight costs nothing"


def test_turns_are_taken_evenly_and_by_all_ranks_alike() -> None:
    def due(turns: Turns, rows: int, seed: int = 3) -> list[bool]:
        return [turns.due(Rng(seed, step, torch.arange(rows, rows + 4))) for step in range(1, 401)]

    assert due(Turns(every=4), 0) == [step % 4 == 0 for step in range(1, 401)]
    chosen = due(Turns(chance=0.25), 0)
    assert chosen == due(Turns(chance=0.25), 64), "another rank has other rows"
    assert chosen != due(Turns(chance=0.25), 0, seed=4)
    assert abs(sum(chosen) - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)
    assert not any(due(Turns(chance=0.0), 0))
    model = small_model()
    objective = cycle(base=Weights(), text_weight=1.0, latent_weight=1.0, turns=Turns(every=2))
    assert [report(objective, model, step=k).metrics["cycle_latent_weight"] for k in (1, 2, 3, 4)] == [0, 1, 0, 1]


@pytest.mark.parametrize("sampling", ["argmax", "categorical", "gumbel_st"])
@pytest.mark.parametrize("prior", ["none", "diffusion"])
def test_batches_add_up_to_the_large_one(sampling: str, prior: str) -> None:
    """Accumulation and ranks: a row's noise is its own, and every term is divided by the global totals."""
    model, totals = small_model(), Totals(30, 6)
    objective = cycle(
        base=Weights(), dropout=0.3, text_weight=0.5, latent={"sampling": sampling}, latent_weight=0.5, prior=prior, probe_every=1
    )
    whole = report(objective, model, batch(6), totals=totals)
    parts = [report(objective, model, batch(rows, start=start), totals=totals) for start, rows in ((0, 2), (2, 3), (5, 1))]
    summed: dict = {}
    for part in parts:
        add_parts(summed, part.parts)
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)
    means = mean_of(summed)
    assert means.keys() == whole.metrics.keys()
    del means["loss"]  # of a global batch: summed by the step, not averaged
    assert means == pytest.approx({name: whole.metrics[name] for name in means}, rel=1e-4, abs=1e-6)


def test_the_text_cycle_is_l2t_where_the_reading_is_perfect() -> None:
    """With z' = z and the same masks the cycle's loss is the decoder's own."""
    model, data = small_model(), batch()
    objective = cycle(text_weight=1.0)
    z0 = model.standardise(data.latent)
    found = objective.text.write(model, data, z0, Rng(3, 1, data.rows), Totals(data.tokens, data.size))
    assert found.total.item() == pytest.approx(report(row("l2t"), model).total.item(), rel=1e-6)


def test_logits_that_are_not_finite_reach_the_guard() -> None:
    model = small_model()
    with torch.no_grad():
        model.denoiser.text_head.decode.bias[3] = float("inf")
    assert math.isnan(report(cycle(latent_weight=1.0), model).total.item())


# ---------------------------------------------------------------- sampled latents and priors


def gaussian_rows(count: int = 20_000, dim: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    """Means m ~ N(0, .6) and z | m ~ N(m, .4): z is standard normal, m is the perfect reading."""
    g = torch.Generator().manual_seed(1)
    mean = torch.randn(count, 1, dim, generator=g) * 0.6**0.5
    return mean, mean + torch.randn(count, 1, dim, generator=g) * 0.4**0.5


def test_a_sampled_latent_has_the_law_of_the_datas() -> None:
    mean, z = gaussian_rows()
    a = sampled_latent(mean, z, Rng(0, 0, torch.arange(len(z))))
    assert float((a - mean).var()) == pytest.approx(0.4, rel=0.03)
    assert float(a.var()) == pytest.approx(1.0, rel=0.03)
    assert float((a * mean).mean()) == pytest.approx(0.6, rel=0.03)
    covariance = ((a - mean) * (z - mean)).mean()
    assert abs(float(covariance)) < 0.02, "it is another draw than the data's"
    assert float((a == z).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("prior", ["moments", "mmd"])
def test_a_prior_is_zero_for_a_perfect_reading_and_only_then(prior: str) -> None:
    """Means over many small batches with their standard errors: unbiased whatever the batch size."""
    model = small_model()
    mean, z = gaussian_rows(4_000)

    def estimate(reading: torch.Tensor, rows: int, straight: bool = False) -> tuple[float, float]:
        found = []
        for start in range(0, len(z), rows):
            m, data = reading[start : start + rows], z[start : start + rows]
            rng = Rng(0, 0, torch.arange(start, start + rows))
            read = m if straight else sampled_latent(m, data, rng)
            found.append(PRIORS[prior](model, read, data, torch.ones(rows, 4, dtype=torch.bool), rng).mean())
        values = torch.stack(found)
        return float(values.mean()), float(values.std() / len(values) ** 0.5)

    for rows in (2, 3, 40):
        value, error = estimate(mean, rows)
        assert abs(value) < 4 * error, rows
    for wrong in (1.6 * mean, mean + 0.5, 0.5 * mean):
        value, error = estimate(wrong, 40)
        assert value > 8 * error, "a reading that is too sure, shifted, or too blunt"
    value, error = estimate(mean, 40, straight=True)
    assert value > 8 * error, "means themselves are narrower than the data: the prior does not judge them"


@pytest.mark.parametrize("prior", ["moments", "mmd"])
def test_a_single_row_has_nothing_to_compare_with(prior: str) -> None:
    found = report(cycle(base=Weights(), prior=prior), small_model(), batch(1))
    assert "prior_loss" not in found.metrics
    assert found.total.item() == pytest.approx(report(cycle(base=Weights()), small_model(), batch(1)).total.item())


def test_the_diffusion_prior_prefers_the_likely_latent() -> None:
    """Under a model that answers as for z ~ N(0, 1) the cost of a latent grows with its distance from the middle."""
    model = small_model()
    process = model.latent_process

    class Standard(torch.nn.Module):
        def forward(self, pair):
            assert bool((pair.text == model.mask_id)[pair.attention_mask].all())
            assert bool((pair.t_text == 1).all())
            zero, one = torch.zeros_like(pair.latent), torch.ones_like(pair.latent)
            return type("Answer", (), {"latent": process.answer_of_gaussian(zero, one, pair.latent, pair.t_latent)})()

    stand_in = type("Model", (), {"latent_process": process, "mask_id": model.mask_id, "eos_id": 0, "parameters": model.parameters})()
    stand_in.__class__.__call__ = lambda self, pair: Standard()(pair)
    stand_in.__class__.unknown_text = lambda self, seen, rng: model.unknown_text(seen, rng)
    rows, seen = torch.arange(512), torch.ones(512, 4, dtype=torch.bool)
    costs = []
    for radius in (0.0, 1.0, 2.0):
        latent = torch.full((512, 1, D), radius, requires_grad=True)
        values = PRIORS["diffusion"](stand_in, latent, latent.detach(), seen, Rng(0, 0, rows))
        values.sum().backward()
        costs.append(float(values.detach().mean()))
        assert radius == 0 or bool((latent.grad.mean(dim=0) > 0).all()), "downhill is towards the middle"
    assert costs == sorted(costs)
