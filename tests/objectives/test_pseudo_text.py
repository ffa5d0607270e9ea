"""Pseudo-text: never the mask, a length of its own, the decoder's distribution, and the gradient of soft tokens."""

from __future__ import annotations

import pytest
import torch
from cycle_world import LONGEST, V, batch, cycle, report, row, small_model
from oracles_sampling import chi_square_bound

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.pseudo_text import SAMPLINGS, PseudoText, pseudo_text
from lgdlm.rng import Rng

each_sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


def taken(model: TextLatentDiffusion, sampling: str, rows: int = 6, width: int = 5, same: bool = False) -> PseudoText:
    latent = torch.randn(1 if same else rows, 1, 3, generator=torch.Generator().manual_seed(2)).expand(rows, -1, -1)
    return pseudo_text(model, latent, width, Rng(1, 1, torch.arange(rows)), sampling)


@each_sampling
@pytest.mark.parametrize("length", ["predicted", "eos"])
def test_it_holds_no_mask_and_ends_where_it_says(sampling: str, length: str) -> None:
    model = small_model(length=length)
    text = taken(model, sampling, rows=200)
    assert text.finite
    assert int(text.tokens.min()) >= 0
    assert int(text.tokens.max()) < V == model.mask_id
    assert bool((text.tokens[~text.seen] == model.eos_id).all())
    lengths = text.seen.sum(dim=1)
    assert bool((lengths >= 1).all())
    assert torch.equal(text.seen, torch.arange(text.seen.shape[1]) < lengths[:, None]), "text comes first"
    if length == "eos":
        for tokens, n in zip(text.tokens.tolist(), lengths.tolist(), strict=True):
            ends = tokens.index(0) + 1 if 0 in tokens else len(tokens)
            assert n == ends
        assert text.tokens.shape[1] == 5


def test_a_predicted_length_is_the_latents_and_not_the_datas() -> None:
    model = small_model()
    with torch.no_grad():
        model.length.mlp[-1].weight.zero_()
        model.length.mlp[-1].bias.fill_(-1e4)[6] = 1e4
    for width in (1, 5, LONGEST):
        assert taken(model, "argmax", width=width).seen.sum(dim=1).tolist() == [7] * 6
    metrics = report(cycle(latent_weight=1.0), model, batch(width=3)).metrics
    assert metrics["pseudo_length"] == 7.0


@pytest.mark.parametrize("sampling", ["categorical", "gumbel_st"])
def test_tokens_and_lengths_follow_the_decoder(sampling: str) -> None:
    """One latent in many rows: the counts of a position's tokens, and of the lengths, against the model's own probabilities."""
    rows, model = 6_000, small_model()
    with torch.no_grad():
        text = taken(model, sampling, rows=rows, same=True)
        latent = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(2))
        at = torch.zeros(1)
        lengths = model.length(latent, at).softmax(dim=1)[0]
        long = text.tokens[text.seen.sum(dim=1) == LONGEST]
        masks = torch.full((1, LONGEST), model.mask_id)
        logits = model(NoisyPair(masks, at + 1, latent, at, torch.ones_like(masks, dtype=torch.bool))).text_logits[0]
    for counts, p in (
        (torch.bincount(text.seen.sum(dim=1) - 1, minlength=LONGEST), lengths),
        (torch.bincount(long[:, 2], minlength=V), logits[2].softmax(dim=0)),
    ):
        expected = p.double() * counts.sum()
        assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_bound(len(p))


def test_argmax_takes_the_likeliest() -> None:
    model = small_model()
    with torch.no_grad():
        text = taken(model, "argmax")
        latent = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(2))
        at = torch.zeros(6)
        assert torch.equal(text.seen.sum(dim=1), 1 + model.length(latent, at).argmax(dim=1))
        masks = torch.where(text.seen, model.mask_id, 0)
        logits = model(NoisyPair(masks, at + 1, latent, at, text.seen)).text_logits
    assert torch.equal(text.tokens[text.seen], logits.argmax(dim=2)[text.seen])


@each_sampling
def test_a_rows_text_is_its_own(sampling: str) -> None:
    """Whatever else is in the batch: the canvas may be wider, the text is the same."""
    model = small_model()
    whole = taken(model, sampling)
    latent = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(2))
    alone = pseudo_text(model, latent[4:5], 5, Rng(1, 1, torch.tensor([4])), sampling)
    n = int(alone.seen.sum())
    assert n == int(whole.seen[4].sum())
    assert torch.equal(alone.tokens[0, :n], whole.tokens[4, :n])


@pytest.mark.parametrize("denoiser", ["transformer", "mmdit", "rwkv7"])
def test_soft_tokens_change_no_value_and_have_the_gradient_of_one_hot_rows(denoiser: str) -> None:
    """The gradient to `soft` is what a one-hot input times the table would get, and the table's own gradient does not change."""
    model = small_model(denoiser, tie_embeddings=False)
    data = batch()
    pair = row("t2l").question(model, data, model.standardise(data.latent), Rng(0, 0, data.rows))
    table = model.denoiser.embedding.table
    soft = torch.randn(*data.input_ids.shape, V, generator=torch.Generator().manual_seed(3)).softmax(dim=2).requires_grad_()
    plain, through = model(pair).latent, model(pair.at(soft=soft)).latent
    assert torch.equal(plain, through)

    model.zero_grad()
    through.square().sum().backward()
    of_table = table.weight.grad.clone()
    one_hot = torch.nn.functional.one_hot(data.input_ids, V).float().requires_grad_()
    lookup = table.forward
    table.forward = lambda tokens: one_hot @ table.weight
    model.zero_grad()
    model(pair).latent.square().sum().backward()
    table.forward = lookup
    torch.testing.assert_close(soft.grad, one_hot.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_table, table.weight.grad, rtol=1e-4, atol=1e-6)


def test_the_linear_reading_passes_a_tokens_own_gradient() -> None:
    model = small_model(latent_skip="linear")
    with torch.no_grad():
        model.reading.table.normal_(generator=torch.Generator().manual_seed(4))
    data = batch()
    pair = row("t2l").question(model, data, model.standardise(data.latent), Rng(0, 0, data.rows))
    soft = torch.zeros(*data.input_ids.shape, V, requires_grad=True)
    mean, _ = model.reading(pair.at(soft=soft))
    assert torch.equal(mean, model.reading(pair)[0])
    mean.sum().backward()
    expected = model.reading.table[:V].sum(dim=1) / (2 * data.input_ids.shape[1] - 1) ** 0.5
    torch.testing.assert_close(soft.grad, expected.expand_as(soft))


def test_logits_that_are_not_finite_are_said_and_not_drawn_from() -> None:
    for part in ("text_head", "length"):
        model = small_model()
        with torch.no_grad():
            bias = model.length.mlp[-1].bias if part == "length" else model.denoiser.text_head.decode.bias
            bias[2] = float("nan")
        for sampling in SAMPLINGS:
            assert not taken(model, sampling).finite
