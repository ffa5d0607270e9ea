"""The three rows: what is scored, what is counted, where gradients go, and that batches add up."""

from __future__ import annotations

import math

import pytest
import torch

from lgdlm.batch import Batch
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import FILL_WEIGHT, MODES, DenoisingObjective, Weights, denoising_objectives
from lgdlm.objectives.objective import LossReport, Totals, add_parts, mean_of
from lgdlm.rng import Rng

B, N = 6, 8


def batch(lengths: tuple[int, ...] = (8,) * B, fill: bool = False, start: int = 0) -> Batch:
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 30, (B, N), generator=g)[start : start + len(lengths)]
    latent = torch.randn(B, 1, 4, generator=g)[start : start + len(lengths)]
    text = torch.arange(N) < torch.tensor(lengths)[:, None]
    rows = torch.arange(start, start + len(lengths))
    if fill:
        return Batch(ids.masked_fill(~text, 0), torch.ones_like(text), latent, rows, fill_mask=~text)
    return Batch(ids, text, latent, rows)


def run(model: TextLatentDiffusion, data: Batch, mode: str, step: int = 1, totals: Totals | None = None, **options: float) -> LossReport:
    objective = DenoisingObjective(
        MODES[mode], Weights(**{k: v for k, v in options.items() if k != "dropout"}), options.get("dropout", 0.0)
    )
    return objective(model, data, Rng(0, step, data.rows), totals or Totals(data.tokens, data.size))


def gradients(model: TextLatentDiffusion, report: LossReport) -> dict[str, float]:
    model.zero_grad()
    report.total.backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().sum()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("mode", MODES)
def test_each_row_scores_what_it_says(joint_model: TextLatentDiffusion, mode: str) -> None:
    metrics = run(joint_model, batch(), mode).metrics
    assert ("text_loss" in metrics) == ("text" in MODES[mode].scores)
    assert ("latent_loss" in metrics) == ("latent" in MODES[mode].scores)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("mode", MODES)
def test_each_row_runs_on_its_clocks(joint_model: TextLatentDiffusion, mode: str) -> None:
    """A clock that is scored visits every t in (0, 1]; the other one stands at 0, and what it shows is clean."""
    data = batch()
    z0 = joint_model.standardise(data.latent)
    asked = [DenoisingObjective(MODES[mode]).question(joint_model, data, z0, Rng(0, k, data.rows)) for k in range(50)]
    for side, times in (("text", [pair.t_text for pair in asked]), ("latent", [pair.t_latent for pair in asked])):
        t = torch.cat(times)
        if side in MODES[mode].scores:
            assert t.min() < 0.02 < 0.98 < t.max() <= 1
            assert (t - 0.5).mean().abs() < 0.03
        else:
            assert not t.any()
    if mode == "l2t":
        assert torch.equal(asked[0].latent, z0)
    if mode == "t2l":
        assert torch.equal(asked[0].text, data.input_ids)


@pytest.mark.parametrize("mode", MODES)
def test_the_network_sees_standardised_latents(joint_model: TextLatentDiffusion, mode: str) -> None:
    """Trap: latents not standardised. Shifted and stretched raw latents under shifted and stretched statistics are the same step."""
    data, seen = batch(), []
    joint_model.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].latent))
    one = run(joint_model, data, mode).metrics
    joint_model.latent_mean.add_(3.0).mul_(100.0)
    joint_model.latent_std.mul_(100.0)
    other = run(joint_model, Batch(data.input_ids, data.attention_mask, (data.latent + 3) * 100, data.rows), mode).metrics
    torch.testing.assert_close(seen[1], seen[0], atol=1e-4, rtol=1e-4)
    assert other == pytest.approx(one, rel=1e-3)


def test_what_a_mode_does_not_use_does_not_train(joint_model: TextLatentDiffusion) -> None:
    l2t, t2l = gradients(joint_model, run(joint_model, batch(), "l2t")), gradients(joint_model, run(joint_model, batch(), "t2l"))
    assert not any(value for name, value in l2t.items() if "latent_head" in name)
    assert any(value for name, value in l2t.items() if "text_head" in name)
    untied = [name for name in t2l if "text_head" in name]
    assert untied
    assert not any(t2l[name] for name in untied)
    assert not any(v for n, v in t2l.items() if n.startswith("length."))
    assert any(value for name, value in t2l.items() if "latent_head" in name)


@pytest.mark.parametrize("mode", MODES)
def test_two_half_batches_equal_the_whole(joint_model: TextLatentDiffusion, mode: str) -> None:
    """Losses are divided by the totals of the global batch, and noise follows the row: accumulation changes nothing."""
    whole = batch((8, 6, 5, 8, 2, 7))
    totals = Totals(whole.tokens, whole.size)
    halves = [batch((8, 6, 5)), batch((8, 2, 7), start=3)]
    one = run(joint_model, whole, mode, totals=totals)
    parts: dict = {}
    two = [run(joint_model, half, mode, totals=totals) for half in halves]
    for report in two:
        add_parts(parts, report.parts)
    torch.testing.assert_close(sum(r.total for r in two), one.total, atol=1e-6, rtol=1e-6)
    for name, value in mean_of(parts).items():
        assert value == pytest.approx(one.metrics[name], rel=1e-5, abs=1e-6), name


def test_padding_is_neither_read_nor_counted(joint_model: TextLatentDiffusion) -> None:
    data = batch((8, 3, 5, 8, 1, 2))
    other = Batch(torch.where(data.attention_mask, data.input_ids, 29), data.attention_mask, data.latent, data.rows)
    for mode in MODES:
        a, b = run(joint_model, data, mode), run(joint_model, other, mode)
        assert a.metrics == pytest.approx(b.metrics, rel=1e-6)
    assert data.tokens == 27
    full = run(joint_model, data, "l2t")
    assert full.parts["nelbo"].bottom == 27


def test_filling_behind_the_first_eos_pulls_weakly_and_is_never_reported(joint_model: TextLatentDiffusion) -> None:
    joint_model.length = None
    data = batch((8, 3, 5, 8, 1, 2), fill=True)
    report = run(joint_model, data, "l2t")
    assert report.parts["text_loss"].bottom == data.tokens == 27
    outside = float(report.total.detach()) - report.metrics["text_loss"]
    assert outside > 0, "the filling has a gradient"
    bound_of_filling = outside / FILL_WEIGHT
    assert bound_of_filling > outside, "and less than its full weight"
    assert run(joint_model, data, "t2l").metrics["latent_loss"] == pytest.approx(
        run(joint_model, batch((8, 3, 5, 8, 1, 2)), "t2l").metrics["latent_loss"], rel=1e-5
    ), "a known text is read without its filling"


def test_a_model_that_only_says_eos_gets_no_credit_for_the_filling(joint_model: TextLatentDiffusion) -> None:
    """Trap: PAD counted as text. Every filled position is EOS and would be right; no token of the texts is."""
    joint_model.length = None
    with torch.no_grad():
        joint_model.denoiser.text_head.decode.bias[joint_model.eos_id] = 1e3
    data = batch((7, 3, 5, 6, 1, 2), fill=True)
    metrics = run(joint_model, data, "l2t").metrics
    assert metrics["text_accuracy"] == 0
    assert metrics["text_cross_entropy"] > 900


def test_the_bound_holds_the_length(joint_model: TextLatentDiffusion) -> None:
    data = batch((8, 3, 5, 8, 1, 2))
    metrics = run(joint_model, data, "l2t").metrics
    assert metrics["nelbo"] == pytest.approx(metrics["text_loss"] + metrics["length_loss"] * data.size / data.tokens)


def test_dropped_conditions_leave_no_trace(joint_model: TextLatentDiffusion) -> None:
    data = batch()
    other = Batch(data.input_ids, data.attention_mask, data.latent + 3, data.rows)
    dropped = [run(joint_model, d, "l2t", dropout=1.0).metrics["nelbo"] for d in (data, other)]
    kept = [run(joint_model, d, "l2t").metrics["nelbo"] for d in (data, other)]
    assert dropped[0] == pytest.approx(dropped[1], rel=1e-5)
    assert kept[0] != pytest.approx(kept[1], rel=1e-3)
    texts = Batch((data.input_ids % 28) + 1, data.attention_mask, data.latent, data.rows)
    unread = [run(joint_model, d, "t2l", dropout=1.0).metrics["latent_loss"] for d in (data, texts)]
    assert unread[0] == pytest.approx(unread[1], rel=1e-5)


def test_random_times_are_the_default_and_full_is_a_choice(joint_model: TextLatentDiffusion) -> None:
    """Trap: a decoder trained on all-mask texts alone never saw what a sampler shows it."""
    data = batch()
    z0 = joint_model.standardise(data.latent)
    random, full = denoising_objectives(Weights(), 0.0), denoising_objectives(Weights(), 0.0, "full", "full")
    times = [random["l2t"].question(joint_model, data, z0, Rng(0, k, data.rows)).t_text for k in range(50)]
    assert torch.cat(times).std() > 0.25
    assert torch.cat(times).min() < 0.05
    assert (full["l2t"].question(joint_model, data, z0, Rng(0, 1, data.rows)).text == joint_model.mask_id).all()
    assert (full["t2l"].question(joint_model, data, z0, Rng(0, 1, data.rows)).t_latent == 1).all()


def test_the_magnitude_of_a_latent_is_learned(joint_model: TextLatentDiffusion) -> None:
    """Trap: on normalised vectors a prediction of twice the length would cost nothing."""
    process, z = joint_model.latent_process, torch.randn(3, 1, 4)
    t = torch.full((3,), 0.7)
    z_t = process.noise(z, t, Rng(0, 0, torch.arange(3)))
    target = process.target(z, z_t, t)
    assert process.loss(target, z, z_t, t).max() < 1e-9 < process.loss(2 * target, z, z_t, t).min()
