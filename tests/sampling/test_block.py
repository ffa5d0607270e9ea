"""Texts block after block: the exact law, the cache against none, what the network is asked, and what a row may depend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracles import TextTable
from oracles_block import ExactBlocks
from oracles_sampling import chi_square_bound, model_around
from torch import Tensor

from lgdlm.config import RWKV7Model
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling import Moment, Steering, TokenDraw, edit, infill, sample_joint, sample_text_from_latent
from lgdlm.sampling.block import reverse_text
from lgdlm.sampling.clock import descend, hold

V, D, K, EOS = 30, 4, 4, 0


def model(length: str = "eos", **options: object) -> TextLatentDiffusion:
    sizes = {"hidden_size": 32, "n_blocks": 2, "head_size": 16, "latent_dim": D, "max_seq_len": 64, "block_size": K, "length": length}
    config = RWKV7Model(**{**sizes, "causality": "block_causal", "block_context": "clean", **options})
    made = build_model(config, vocab_size=V, eos_id=EOS, latent_mean=torch.zeros(D), latent_std=torch.ones(D))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.2)
        made.denoiser.text_head.decode.bias.zero_()[EOS] = -9.0
    return made.eval()


def latents(rows: int = 3) -> Tensor:
    return torch.randn(rows, 1, D, generator=torch.Generator().manual_seed(2))


def run(
    made: TextLatentDiffusion, sizes: tuple[int, ...], cached: bool, steps: int = 6, rows: tuple[int, ...] | None = None, **how: object
) -> Tensor:
    count = len(sizes)
    seen = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    text = torch.where(seen, made.mask_id, EOS)
    rng = Rng(7, 0, torch.tensor(rows or range(count)))
    steering = Steering(**{"draw": TokenDraw(1.0), "cached": cached, **how})
    z = latents(8)[list(rows or range(count))]
    return reverse_text(made, text, z, seen, descend(steps, count), hold(steps, count), rng, steering)[0]


class Asked:
    """What a denoiser was asked, and for which texts it kept a memory."""

    def __init__(self, made: TextLatentDiffusion, monkeypatch: pytest.MonkeyPatch):
        self.questions: list[NoisyPair] = []
        self.remembered: list[NoisyPair] = []
        net = made.denoiser
        forward, remember = net.forward, net.remember

        def spy(into: list[NoisyPair], call: Callable) -> Callable:
            return lambda pair: (into.append(pair), call(pair))[1]

        monkeypatch.setattr(net, "forward", spy(self.questions, forward))
        monkeypatch.setattr(net, "remember", spy(self.remembered, remember))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"guidance_scale": 2.0},
        {"order": "confidence"},
        {"order": "entropy", "guidance_scale": 0.5},
        {"remask": 0.7},
        {"draw": TokenDraw(0.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", ["eos", "predicted"])
def test_the_cache_changes_no_token(length: str, how: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = model(length), (23, 9, 4)
    kept, reread = run(made, sizes, True, **how), run(made, sizes, False, **how)
    assert torch.equal(kept, reread)
    remember = made.denoiser.remember
    monkeypatch.setattr(made.denoiser, "remember", lambda pair: pair.memory or remember(pair))
    forgetful = run(made, sizes, True, **how)
    assert torch.equal(forgetful[:, :K], kept[:, :K])
    assert not torch.equal(forgetful, kept), "what stands before a block matters, or there was nothing to compare"


def test_the_cache_is_exact_over_many_blocks() -> None:
    made = model()
    kept, reread = (run(made, (90, 83), cached, steps=2) for cached in (True, False))
    assert torch.equal(kept, reread)


def test_a_cached_block_costs_the_same_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of tokens a question, one clean pass a block, a memory of constant size."""
    made = model("predicted")
    asked = Asked(made, monkeypatch)
    run(made, (64,), True, steps=2)
    assert {q.text.shape[1] for q in asked.questions} == {K}
    assert len(asked.remembered) == 64 // K
    assert sum(q.text.shape[1] for q in asked.remembered) == 64 - K, "the last block is not needed again"
    sizes = {sum(layer.wkv.numel() + layer.time_shift.numel() + layer.channel_shift.numel() for layer in q.memory.state.layers)
             for q in asked.questions}  # fmt: skip
    assert len(sizes) == 1
    assert sum(int(q.logits_at.sum()) for q in asked.questions) == 64, "each position's logits once"


def test_guidance_drops_the_latent_of_the_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("predicted")
    asked = Asked(made, monkeypatch)
    run(made, (8, 8), True, guidance_scale=3.0)
    assert {q.size for q in asked.questions} <= {2, 4}, "both branches in one call"
    assert all((q.t_latent == 0).any() and (q.t_latent == 1).any() for q in asked.questions)
    noise = [q.latent[q.t_latent == 1] for q in asked.questions if q.size == 4]
    assert all(torch.equal(noise[0], other) for other in noise), "the memory of a dropped latent is kept: its noise stands still"
    assert not torch.equal(run(made, (8, 8), True, guidance_scale=3.0), run(made, (8, 8), True))


def test_nothing_is_drawn_behind_a_block_that_ends_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    with torch.no_grad():
        made.denoiser.text_head.decode.bias[EOS] = 30.0
    asked = Asked(made, monkeypatch)
    tokens = run(made, (40, 40), True)
    assert (tokens == EOS).all()
    assert sum(int(q.logits_at.sum()) for q in asked.questions) == 2 * K
    assert len(asked.remembered) == 1, "the latent alone: no second block is begun"


def test_a_row_depends_on_itself_alone() -> None:
    made, sizes = model("predicted"), (21, 9, 14)
    together = run(made, sizes, True, rows=(5, 6, 7), guidance_scale=1.5)
    for i, n in enumerate(sizes):
        alone = run(made, (n,), True, rows=(5 + i,), guidance_scale=1.5)
        assert torch.equal(together[i, :n], alone[0])


TABLE = TextTable.random(3, 4, seed=11, concentration=2.0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_follow_the_exact_law(size: int) -> None:
    made, count = model_around(ExactBlocks(TABLE, size), eos_id=2), 4000
    made.length = type("Four", (torch.nn.Module,), {"max_length": 4})()
    text, seen = torch.full((count, 4), 3), torch.ones(count, 4, dtype=torch.bool)
    paths = descend(150, count), hold(150, count)
    rng = Rng(3, 0, torch.arange(count))
    tokens, _ = reverse_text(made, text, torch.zeros(count, 1, 1), seen, *paths, rng, Steering(cached=False))
    counts = torch.bincount(TABLE.index(tokens), minlength=81).double()
    law = TABLE.probability * count
    assert float(law.min()) > 3, "or the statistic has no chi-square law"
    assert ((counts - law) ** 2 / law).sum() < chi_square_bound(81)


def test_infilling_keeps_what_is_given_and_clocks_every_block_by_its_own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("predicted")
    asked = Asked(made, monkeypatch)
    g = torch.Generator().manual_seed(5)
    tokens = torch.randint(1, V, (2, 12), generator=g)
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[:, :4] = False  # the first block is open
    keep[0, 9] = False  # the last has one hole, in one row
    sample = infill(made, tokens, keep, latents(2), num_steps=5, order="confidence")
    assert torch.equal(sample.tokens[keep], tokens[keep])
    assert int(sample.tokens.max()) < V
    starts = {float(q.t_text.max()) for q in asked.questions if bool((q.text == V).sum(dim=1).max() == q.logits_at.sum(dim=1).max())}
    assert max(starts) == 1.0
    last = [q for q in asked.questions if q.size == 1]
    assert last
    assert all(float(q.t_text) <= 0.25 for q in last)


@pytest.mark.parametrize("length", ["eos", "predicted"])
def test_an_edit_of_nothing_keeps_the_text_and_of_everything_writes_another(length: str) -> None:
    made = model(length)
    tokens = torch.randint(1, V, (2, 11), generator=torch.Generator().manual_seed(5))
    seen = torch.arange(11) < torch.tensor([11, 6])[:, None]
    same, other = (edit(made, tokens, share, latents(2), seen, num_steps=4).tokens for share in (0.0, 1.0))
    assert torch.equal(same[seen], tokens[seen])
    assert (other != tokens)[seen].sum() > 8
    assert int(other.max()) < V


def test_joint_samples_draw_the_latent_before_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("predicted")
    asked = Asked(made, monkeypatch)
    sample = sample_joint(made, 3, seq_len=10, num_steps=4)
    assert sample.tokens.shape == (3, 10)
    assert int(sample.tokens.max()) < V
    first, rest = asked.questions[:4], asked.questions[4:]
    assert all((q.t_text == 1).all() and (q.text == V).all() and not q.logits_at.any() for q in first)
    assert all((q.t_latent == 0).all() and q.text.shape[1] <= K for q in rest)


def test_a_callback_sees_the_whole_text_grow() -> None:
    made = model("predicted")
    moments: list[Moment] = []
    sample = sample_text_from_latent(made, latents(2), length=torch.tensor([10, 6]), num_steps=3, callback=moments.append)
    assert [m.step for m in moments] == list(range(10))
    assert all(m.text.shape == (2, 10) for m in moments)
    left = [int((m.text == V).sum()) for m in moments]
    assert left[0] == 16
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert torch.equal(moments[-1].text, sample.tokens)
    assert torch.equal(sample_text_from_latent(made, latents(2), length=torch.tensor([10, 6]), num_steps=3).tokens, sample.tokens)
