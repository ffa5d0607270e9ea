"""Objectives over embedded text: what they score, what they report, and that a table neither stands still nor collapses."""

from __future__ import annotations

import pytest
import torch
from oracles_embedding import ExactRows, embedded_model

from lgdlm.batch import Batch
from lgdlm.config import TransformerModel
from lgdlm.diffusion.embedding import EmbeddingDiffusion, on_sphere
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import FILL_WEIGHT, MODES, DenoisingObjective, Weights, denoising_objectives
from lgdlm.objectives.objective import Totals
from lgdlm.objectives.text_score import text_score
from lgdlm.rng import Rng

V, D, B, N = 24, 4, 8, 6


def model(**options: object) -> TextLatentDiffusion:
    sizes = {"hidden_size": 64, "n_blocks": 2, "n_heads": 2, "latent_dim": D, "max_seq_len": 16, "embedding_dim": 16}
    config = TransformerModel(**{**sizes, "text_process": "embedding", **options})
    return build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.zeros(D), latent_std=torch.ones(D), text_weighting="uniform")


def batch(rows: int = B, seed: int = 0) -> Batch:
    """Every text is one token over and over, which its latent names."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, V, (rows, 1), generator=g).expand(rows, N).contiguous()
    names = torch.randn(V, D, generator=torch.Generator().manual_seed(9))
    return Batch(tokens, torch.ones(rows, N, dtype=torch.bool), names[tokens[:, :1]], torch.arange(rows))


TOTALS = Totals(B * N, B)
EMBEDDED = {"text_loss", "text_squared_error", "text_cross_entropy", "text_accuracy", "length_loss"}


@pytest.mark.parametrize("name", MODES)
def test_every_row_scores_and_reports_without_a_bound(name: str) -> None:
    report = denoising_objectives(Weights(cross_entropy=0.5), 0.2)[name](model(), batch(), Rng(0, 1, torch.arange(B)), TOTALS)
    own = EMBEDDED if "text" in MODES[name].scores else {"latent_loss", "latent_pred_norm"}
    assert own <= set(report.metrics)
    assert "nelbo" not in report.metrics
    report.total.backward()


def test_the_loss_is_the_weighted_sum_of_both_terms() -> None:
    net, rng = model(), Rng(0, 1, torch.arange(B))
    reports = {
        (m, c): DenoisingObjective(MODES["l2t"], Weights(cross_entropy=c, squared_error=m, length=0.0))(net, batch(), rng, TOTALS)
        for m, c in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.3))
    }
    squared, nats, both = (float(r.total.detach()) for r in reports.values())
    assert both == pytest.approx(2 * squared + 0.3 * nats, rel=1e-5)
    metrics = reports[2.0, 0.3].metrics
    assert metrics["text_squared_error"] == pytest.approx(squared, rel=1e-5)
    assert metrics["text_cross_entropy"] == pytest.approx(nats, rel=1e-5)


def test_an_auxiliary_cross_entropy_is_added_to_the_masked_bound(joint_model: TextLatentDiffusion) -> None:
    ids = torch.randint(1, 30, (B, N), generator=torch.Generator().manual_seed(0))
    data = Batch(ids, torch.ones(B, N, dtype=torch.bool), torch.randn(B, 1, 4), torch.arange(B))
    rng = Rng(0, 1, torch.arange(B))
    plain, more = (DenoisingObjective(MODES["l2t"], Weights(cross_entropy=c))(joint_model, data, rng, TOTALS) for c in (0.0, 0.7))
    asked = more.parts["text_cross_entropy"]
    assert float((more.total - plain.total).detach()) == pytest.approx(0.7 * asked.top / TOTALS.tokens, rel=1e-4)
    assert plain.metrics["nelbo"] == more.metrics["nelbo"], "the bound that is reported is the bound"


def test_at_the_oracle_the_loss_is_posterior_variance_and_entropy() -> None:
    """Exactly, text by text: mean over y ~ p(y | x_t) of the loss, for the hybrid of both terms."""
    vocab, width = 7, 5
    raw = torch.randn(vocab, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law = torch.softmax(torch.randn(vocab, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=0)
    net = ExactRows(torch.arange(vocab)[:, None], law.log(), on_sphere(raw))
    exact, t = embedded_model(net, raw), torch.tensor([0.5])
    seen = torch.ones(1, 1, dtype=torch.bool)
    for step in range(4):
        x_t = exact.text_process.noise(torch.tensor([[step]]), t, Rng(0, step, torch.arange(1)))
        pair = NoisyPair(x_t, t, torch.zeros(1, 1, 1), torch.zeros(1), seen, seen)
        answer, p = exact(pair), net.posterior(pair)[0]
        total = torch.zeros((), dtype=torch.float64)
        for y in range(vocab):
            data = Batch(torch.tensor([[y]]), seen, None, torch.arange(1))
            total += p[y] * text_score(exact.text_process, data, pair, answer, 0.4, 1.5).loss[0]
        mean = p @ on_sphere(raw)
        entropy = -(p * p.clamp_min(1e-30).log()).sum()
        torch.testing.assert_close(total, 1.5 * (1 - mean.square().mean()) + 0.4 * entropy, atol=1e-6, rtol=1e-6)


def test_micro_batches_add_up_to_the_whole() -> None:
    net, rows = model(), torch.arange(B)
    objective = DenoisingObjective(MODES["unconditional"], Weights(cross_entropy=0.5))
    whole = objective(net, batch(), Rng(0, 1, rows), TOTALS).total
    data, parts = batch(), torch.zeros(())
    for part in rows.split(3):
        piece = Batch(data.input_ids[part], data.attention_mask[part], data.latent[part], part)
        parts = parts + objective(net, piece, Rng(0, 1, part), TOTALS).total
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_filling_carries_little_weight_and_is_not_reported() -> None:
    net, rng = model(length="eos"), Rng(0, 1, torch.arange(B))
    fill = torch.zeros(B, N, dtype=torch.bool)
    fill[:, 4:] = True
    data = batch()
    filled = Batch(data.input_ids, data.attention_mask, data.latent, data.rows, fill_mask=fill)
    objective = DenoisingObjective(MODES["l2t"])
    every, some = objective(net, data, rng, TOTALS), objective(net, filled, rng, TOTALS)
    kept = some.parts["text_squared_error"]
    assert kept.bottom == B * 4
    left = every.parts["text_squared_error"].top - kept.top
    assert float(some.total.detach()) * TOTALS.tokens == pytest.approx(kept.top + FILL_WEIGHT * left, rel=1e-4)


def test_self_conditioning_takes_its_share_of_steps_and_the_same_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = model(self_conditioning_prob=0.3), []
    monkeypatch.setattr(TextLatentDiffusion, "self_conditioned", lambda self, pair: seen.append(1) or pair)
    objective = DenoisingObjective(MODES["l2t"])
    by_step = []
    for step in range(60):
        counts = []
        for rank in range(2):
            before = len(seen)
            data = batch(2, rank)
            objective(net, data, Rng(0, step, torch.arange(2) + 2 * rank), Totals(4 * N, 4))
            counts.append(len(seen) - before)
        assert counts[0] == counts[1]
        by_step.append(counts[0])
    assert 8 <= sum(by_step) <= 30
    objective = DenoisingObjective(MODES["t2l"])
    before = len(seen)
    for step in range(20):
        objective(net, batch(), Rng(0, step, torch.arange(B)), TOTALS)
    assert len(seen) == before, "a known text needs no estimate of itself"


def test_gradients_survive_the_pass_without_them_under_autocast() -> None:
    """Autocast keeps the first copy of a weight, and the estimate's pass makes it without gradient."""
    net, objective = model(self_conditioning_prob=1.0), DenoisingObjective(MODES["l2t"], Weights(cross_entropy=1.0))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    with torch.autocast("cpu", torch.bfloat16):
        objective(net, batch(), Rng(0, 1, torch.arange(B)), TOTALS).total.backward()
    without = [name for name, p in net.denoiser.blocks.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def trained(net: TextLatentDiffusion, weights: Weights, steps: int, lr: float = 3e-3) -> tuple[float, float]:
    """Accuracy of the nearest token at t = 0.7 given the latent, and the table's crowding, behind some steps of l2t."""
    objective, optimizer = DenoisingObjective(MODES["l2t"], weights), torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(steps):
        data = batch(32, step)
        objective(net, data, Rng(0, step, torch.arange(32)), Totals(32 * N, 32)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    process, data, rng = net.text_process, batch(32, 10_000), Rng(1, 0, torch.arange(32))
    assert isinstance(process, EmbeddingDiffusion)
    t = torch.full((32,), 0.7)
    with torch.no_grad():
        x_t = process.noise(data.input_ids, t, rng)
        answer = net(NoisyPair(x_t, t, net.standardise(data.latent), torch.zeros(32), data.attention_mask))
    nearest, _ = process.nearest(answer.embedding)
    return float((nearest == data.input_ids).float().mean()), process.crowding()


@pytest.mark.parametrize("weights", [Weights(), Weights(cross_entropy=1.0), Weights(squared_error=0.0, cross_entropy=1.0)])
def test_it_learns_and_tokens_stay_apart(weights: Weights) -> None:
    net = model()
    before = net.denoiser.embedding.table.weight.detach().clone()
    right, crowding = trained(net, weights, 150)
    assert right > 0.9
    assert crowding < 0.15
    turned = torch.nn.functional.cosine_similarity(before, net.denoiser.embedding.table.weight.detach(), dim=1)
    assert float(turned[1:].max()) < 0.999, "every row has moved but the one of token 0, which no text has"


def test_with_a_target_that_moves_the_tokens_crowd_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what `sg` in the equation is for."""

    def moving(self: EmbeddingDiffusion, x0_hat: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return (x0_hat - self.embed(tokens)).square().mean(dim=-1)

    monkeypatch.setattr(EmbeddingDiffusion, "squared_error", moving)
    _, crowding = trained(model(), Weights(), 150)
    assert crowding > 0.2
