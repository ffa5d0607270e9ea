"""RWKV-7 as a block-causal denoiser: what each block's answer may depend on, and one question asked in three ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.config import RWKV7Model
from lgdlm.models.block_causal import BlockMemory
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.objective import Totals
from lgdlm.rng import Rng

V, D, L, P, N, K = 30, 5, 2, 2, 11, 4
VARIANTS = {
    "concat": {},
    "gated shared film": {"fusion": "gated", "share_directions": True, "time_conditioning": "film"},
    "sum text": {"fusion": "sum", "latent_pred_from": "text", "time_conditioning": "add"},
}


def awake(net: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype) * 0.1)


def denoiser(context: str = "clean", **options: object) -> RWKVDenoiser:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "latent_dim": D, "latent_len": L, "hidden_size": 32, "n_blocks": 2, "head_size": 16, "latent_prefix_len": P}
    net = RWKVDenoiser(**{**sizes, "causality": "block_causal", "block_size": K, "block_context": context, **options}).double()
    awake(net)
    return net


def texts(seed: int = 1, lengths: tuple[int, ...] = (N, N)) -> tuple[Tensor, Tensor, Tensor]:
    """Noised and clean tokens, and what is real."""
    g = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, V, (len(lengths), N), generator=g)
    noised = clean.masked_fill(torch.rand(clean.shape, generator=g) < 0.6, V)
    return noised, clean, torch.arange(N) < torch.tensor(lengths)[:, None]


def question(noised: Tensor, mask: Tensor, t_text: float = 0.6) -> NoisyPair:
    B, g = len(noised), torch.Generator().manual_seed(2)
    latent = torch.randn(B, L, D, generator=g, dtype=torch.float64)
    return NoisyPair(noised, torch.full((B,), t_text), latent, torch.full((B,), 0.2), mask)


def block_after_block(net: RWKVDenoiser, pair: NoisyPair, clean: Tensor) -> tuple[Tensor, Tensor, BlockMemory]:
    """The definition: each block's question beside the memory of the clean ones before it. Logits, latent of the last, memory."""
    memory = net.remember(pair.at(text=clean[:, :0], attention_mask=pair.attention_mask[:, :0]))
    logits, answer = [], None
    for cut in torch.arange(pair.text.shape[1]).split(K):
        answer = net(pair.at(text=pair.text[:, cut], attention_mask=pair.attention_mask[:, cut], memory=memory))
        memory = net.remember(pair.at(text=clean[:, cut], attention_mask=pair.attention_mask[:, cut], memory=memory))
        logits.append(answer.text_logits)
    assert answer is not None
    return torch.cat(logits, dim=1), answer.latent, memory


@pytest.fixture(params=VARIANTS)
def net(request: pytest.FixtureRequest) -> RWKVDenoiser:
    return denoiser(**VARIANTS[request.param])


def test_all_blocks_at_once_are_blocks_one_by_one(net: RWKVDenoiser) -> None:
    """Values, the latent's prediction, and the gradient of every parameter."""
    noised, clean, mask = texts()
    pair = question(noised, mask)

    def gradients(logits: Tensor, latent: Tensor) -> dict[str, Tensor]:
        weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        found = torch.autograd.grad((logits * weight).sum() + latent.square().sum(), list(net.parameters()), allow_unused=True)
        return {name: torch.zeros(1) if g is None else g for (name, _), g in zip(net.named_parameters(), found, strict=True)}

    answer = net(pair.at(context=clean))
    logits, latent, _ = block_after_block(net, pair, clean)
    torch.testing.assert_close(answer.text_logits, logits)
    torch.testing.assert_close(answer.latent, latent)
    together, apart = gradients(answer.text_logits, answer.latent), gradients(logits, latent)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], msg=name)


@pytest.mark.parametrize("lengths", [(11, 8), (9, 3), (4, 1)])
def test_padding_and_company_change_nothing(net: RWKVDenoiser, lengths: tuple[int, ...]) -> None:
    """Also padding in front of the text or inside it: blocks are counted in real tokens."""
    noised, clean, mask = texts(lengths=lengths)
    pair = question(noised, mask)
    together = net(pair.at(context=clean))
    place = torch.arange(N + 3)[torch.randperm(N + 3, generator=torch.Generator().manual_seed(0))[:N].sort().values]
    apart = torch.zeros(2, N + 3, dtype=torch.bool)
    apart[:, place] = mask
    wide, wide_clean = torch.full((2, N + 3), 7), torch.full((2, N + 3), 3)
    wide[:, place], wide_clean[:, place] = noised, clean
    spread = net(pair.at(text=wide, context=wide_clean, attention_mask=apart))
    torch.testing.assert_close(spread.text_logits[:, place][mask], together.text_logits[mask])
    torch.testing.assert_close(spread.latent, together.latent)
    for row, n in enumerate(lengths):
        here = slice(row, row + 1)
        alone = question(noised[:, :n], mask[:, :n])
        alone = net(NoisyPair(*(x[here] for x in (alone.text, alone.t_text, alone.latent, alone.t_latent, alone.attention_mask)),
                              context=clean[here, :n]))  # fmt: skip
        torch.testing.assert_close(alone.text_logits, together.text_logits[here, :n])
        torch.testing.assert_close(alone.latent, together.latent[here])


def test_a_memory_knows_which_rows_have_ended(net: RWKVDenoiser) -> None:
    noised, clean, mask = texts(lengths=(11, 6))
    pair = question(noised, mask)
    memory = block_after_block(net, pair, clean)[2]
    here = slice(1, 2)
    alone = NoisyPair(clean[here, :6], pair.t_text[here], pair.latent[here], pair.t_latent[here], mask[here, :6])
    expected = net.remember(alone)
    assert memory.count.tolist() == [11, 6]
    mine = memory.rows(torch.tensor([1]))
    for one, other in zip(mine.state.layers, expected.state.layers, strict=True):
        torch.testing.assert_close(one.wkv, other.wkv)
        torch.testing.assert_close(one.time_shift, other.time_shift)
        torch.testing.assert_close(one.channel_shift, other.channel_shift)
    torch.testing.assert_close(mine.mean, expected.mean)
    both = BlockMemory.stacked([memory.rows(torch.tensor([0])), mine])
    torch.testing.assert_close(both.mean, memory.mean)
    torch.testing.assert_close(both.state.layers[1].wkv, memory.state.layers[1].wkv)


def test_a_clean_text_is_read_alike_with_and_without_itself_as_context(net: RWKVDenoiser) -> None:
    """So T2L, whose text is clean, needs one pass only."""
    _, clean, mask = texts(lengths=(11, 7))
    pair = question(clean, mask, t_text=0.0)
    one, two = net(pair), net(pair.at(context=clean))
    torch.testing.assert_close(one.text_logits[mask], two.text_logits[mask])
    torch.testing.assert_close(one.latent, two.latent)


def changed(tokens: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, (tokens + 7) % V, tokens)


def blocks_that_moved(one: Prediction, other: Prediction) -> list[bool]:
    moved = (one.text_logits - other.text_logits).abs().amax(dim=(0, 2)) > 1e-9
    return [bool(part.any()) for part in moved.split(K)]


@pytest.mark.parametrize("context", ["noisy", "clean"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_block_depends_on_no_later_one(context: str, block: int) -> None:
    net = denoiser(context)
    noised, clean, mask = texts()
    where = (torch.arange(N) // K == block).expand_as(noised)
    pair, other = question(noised, mask), question(changed(noised, where), mask)
    if context == "noisy":
        assert blocks_that_moved(net(pair), net(other)) == [j >= block for j in range(3)]
    else:
        here, there = pair.at(context=clean), other.at(context=clean)
        assert blocks_that_moved(net(here), net(there)) == [j == block for j in range(3)]
        there = pair.at(context=changed(clean, where))
        assert blocks_that_moved(net(here), net(there)) == [j > block for j in range(3)], "a block must not see its own clean tokens"


# ---------------------------------------------------------------- in training


def model(**options: object) -> TextLatentDiffusion:
    sizes = {"hidden_size": 32, "n_blocks": 2, "head_size": 16, "latent_dim": D, "latent_len": L, "max_seq_len": 16, "block_size": K}
    config = RWKV7Model(**{**sizes, "causality": "block_causal", "block_context": "clean", **options})
    made = build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.zeros(D), latent_std=torch.ones(D))
    awake(made)
    return made


def batch(ids: Tensor) -> Batch:
    latent = torch.randn(len(ids), L, D, generator=torch.Generator().manual_seed(4))
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), latent, torch.arange(len(ids)))


@pytest.mark.parametrize("mode", ["l2t", "unconditional"])
def test_the_identity_of_a_masked_token_reaches_later_blocks_only(mode: str) -> None:
    """Through the questions of training: a clean context shows block j what lies before it, and nothing of its own."""
    joint, (_, clean, _) = model(), texts(lengths=(N,) * 6)
    objective, rng = DenoisingObjective(MODES[mode]), Rng(0, 1, torch.arange(6))

    def asked(ids: Tensor) -> NoisyPair:
        data = batch(ids)
        assert data.latent is not None
        return objective.question(joint, data, joint.standardise(data.latent), rng)

    pair = asked(clean)
    assert pair.logits_at is not None
    assert torch.equal(pair.context, clean)
    for block in range(3):
        hidden = pair.logits_at & (torch.arange(N) // K == block)
        assert hidden.any()
        other = asked(changed(clean, hidden))
        assert torch.equal(other.text, pair.text)
        assert not torch.equal(other.context, pair.context)
        everywhere = joint(pair.at(logits_at=None)).text_logits, joint(other.at(logits_at=None)).text_logits
        moved = [bool(part.any()) for part in ((everywhere[0] - everywhere[1]).abs().amax(dim=(0, 2)) > 1e-4).split(K)]
        assert moved == [j > block for j in range(3)]


def test_the_latent_is_not_told_what_its_texts_clock_hides() -> None:
    """In the joint row the latent's answer comes from the text as it is noised: clean blocks would give it away."""
    joint, (_, clean, _) = model(), texts(lengths=(N,) * 6)
    objective, rng = DenoisingObjective(MODES["unconditional"]), Rng(0, 1, torch.arange(6))

    def losses(ids: Tensor) -> dict[str, float]:
        data = batch(ids)
        return objective(joint, data, rng, Totals(data.tokens, data.size)).metrics

    data = batch(clean)
    assert data.latent is not None
    hidden = objective.question(joint, data, joint.standardise(data.latent), rng).logits_at
    assert hidden is not None
    one, two = losses(clean), losses(changed(clean, hidden))
    assert one["latent_loss"] == pytest.approx(two["latent_loss"], rel=1e-6)
    assert one["text_loss"] != pytest.approx(two["text_loss"], rel=1e-3)


def test_an_encoder_asks_of_the_whole_text() -> None:
    joint, (_, clean, _) = model(), texts(lengths=(N,) * 6)
    data = batch(clean)
    assert data.latent is not None
    pair = DenoisingObjective(MODES["t2l"], condition_dropout=0.5).question(joint, data, data.latent, Rng(0, 1, data.rows))
    assert pair.context is None
    assert set(pair.t_text.tolist()) == {0.0, 1.0}
    assert bool((pair.text[pair.t_text == 1] == V).all())


@pytest.mark.parametrize("options", [{}, {"share_directions": True, "fusion": "gated"}, {"latent_pred_from": "text"}], ids=str)
def test_every_parameter_learns_in_block_diffusion(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    joint, data = model(**options), batch(texts(lengths=(N,) * 6)[1])
    report = DenoisingObjective(MODES["unconditional"])(joint, data, Rng(0, 1, data.rows), Totals(data.tokens, data.size))
    report.total.backward()
    silent = [name for name, p in joint.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []
    assert all(torch.isfinite(p.grad).all() for p in joint.parameters() if p.grad is not None)
