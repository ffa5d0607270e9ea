"""The denoiser's contract for RWKV-7: shapes, ends of the clocks, padding, the latent's ways, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.fusion import FUSIONS
from lgdlm.models.rwkv_denoiser import RWKVDenoiser

V, D, L, P, N = 30, 5, 2, 2, 11
VARIANTS = {
    "causal": {"causality": "causal", "latent_pred_from": "text"},
    "concat": {"fusion": "concat"},
    "gated shared": {"fusion": "gated", "share_directions": True, "latent_pred_from": "text"},
    "sum film": {"fusion": "sum", "time_conditioning": "film", "latent_pred_from": "prefix"},
    "blocks": {"causality": "block_causal", "block_size": 4, "fusion": "gated"},
    "blocks shared": {"causality": "block_causal", "block_size": 3, "share_directions": True, "latent_pred_from": "text"},
    "add factorised": {"time_conditioning": "add", "embedding_dim": 8, "tie_embeddings": False},
}


def denoiser(awake: bool = True, **options: object) -> RWKVDenoiser:
    """Small; `awake` moves every parameter off its initial value, where zero gates hide the blocks."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "latent_dim": D, "latent_len": L, "hidden_size": 32, "n_blocks": 2, "head_size": 16, "latent_prefix_len": P}
    net = RWKVDenoiser(**{**sizes, **options})
    if awake:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    return net


def question(B: int = 3, lengths: list[int] | None = None, t_text: float = 0.5, t_latent: float = 0.5) -> NoisyPair:
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(N) < torch.tensor(lengths or [N] * B)[:, None]
    text = torch.randint(0, V, (B, N), generator=g)
    text[:, ::2] = V
    return NoisyPair(text, torch.full((B,), t_text), torch.randn(B, L, D, generator=g), torch.full((B,), t_latent), mask)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, object]:
    return VARIANTS[request.param]


def test_answers_in_the_shapes_it_was_asked(variant: dict[str, object]) -> None:
    net, pair = denoiser(**variant), question(lengths=[N, 4, 7])
    everywhere = net(pair)
    assert everywhere.text_logits.shape == (3, N, V)
    assert everywhere.latent.shape == (3, L, D)
    assert everywhere.hidden.shape == (3, N, net.hidden_size)
    asked = (pair.text == V) & pair.attention_mask
    some = net(pair.at(logits_at=asked))
    torch.testing.assert_close(some.text_logits, everywhere.text_logits[asked])


@pytest.mark.parametrize(("t_text", "t_latent"), itertools.product([0.0, 1.0], [0.0, 1.0]))
def test_finite_at_both_ends_of_both_clocks(variant: dict[str, object], t_text: float, t_latent: float) -> None:
    net = denoiser(**variant)
    answer = net(question(t_text=t_text, t_latent=t_latent))
    (answer.text_logits.square().mean() + answer.latent.square().mean()).backward()
    assert torch.isfinite(answer.text_logits).all()
    assert torch.isfinite(answer.latent).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_both_clocks_are_heard(variant: dict[str, object]) -> None:
    net = denoiser(**variant)
    with torch.no_grad():
        before = net(question()).hidden
        assert not torch.allclose(net(question(t_text=0.6)).hidden, before, atol=1e-4)
        assert not torch.allclose(net(question(t_latent=0.6)).hidden, before, atol=1e-4)


def test_padding_and_company_change_nothing(variant: dict[str, object]) -> None:
    net, lengths = denoiser(**variant), [N, 4, 7]
    pair = question(lengths=lengths)
    together = net(pair)
    junk = net(pair.at(text=pair.text.where(pair.attention_mask, torch.full_like(pair.text, 3))))
    torch.testing.assert_close(junk.latent, together.latent, atol=1e-5, rtol=0)
    for i, n in enumerate(lengths):
        row = slice(i, i + 1)
        alone = net(NoisyPair(pair.text[row, :n], pair.t_text[row], pair.latent[row], pair.t_latent[row], pair.attention_mask[row, :n]))
        torch.testing.assert_close(together.text_logits[row, :n], alone.text_logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.latent[row], alone.latent, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.hidden[row, :n], alone.hidden, atol=1e-5, rtol=0)
        assert not together.hidden[i, n:].any()


def test_the_mask_has_a_row_of_its_own() -> None:
    net, pair = denoiser(), question()
    shown = net(pair.at(text=torch.where(pair.text == V, 0, pair.text)))
    assert not torch.allclose(shown.text_logits, net(pair).text_logits, atol=1e-4)
    assert shown.text_logits.shape[-1] == V


def test_every_parameter_learns_after_one_step(variant: dict[str, object]) -> None:
    net = denoiser(awake=False, **variant)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    pair = question(lengths=[N, 4, 7])
    for _ in range(2):
        optimizer.zero_grad()
        answer = net(pair)
        loss = F.cross_entropy(answer.text_logits[pair.attention_mask], (pair.text % V)[pair.attention_mask])
        (loss + (answer.latent - pair.latent.flip(1)).square().mean()).backward()
        silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        optimizer.step()
    assert silent == []


def reach(net: RWKVDenoiser, seen: str, asked: str) -> torch.Tensor:
    """Largest derivative of an answer with respect to the prefix tokens or the text embeddings, past the condition."""
    module = net.prefix if seen == "latent" else net.embedding
    caught: list[torch.Tensor] = []

    def catch(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[0]

    handle = module.register_forward_hook(catch)
    answer = getattr(net(question()), asked)
    handle.remove()
    (gradient,) = torch.autograd.grad(answer.square().sum(), caught[0], allow_unused=True)
    return torch.zeros(1) if gradient is None else gradient.abs().amax(dim=(0, 2))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("share", [False, True])
def test_in_one_layer_text_reads_the_latent_and_the_prefix_reads_the_text(fusion: str, share: bool) -> None:
    net = denoiser(n_blocks=1, fusion=fusion, share_directions=share, latent_pred_from="prefix")
    assert (reach(net, "latent", "hidden") > 1e-7).all()
    assert (reach(net, "text", "latent") > 1e-7).all()


@pytest.mark.parametrize("half", ["att", "att_back"])
def test_each_direction_alone_has_the_latent_in_memory(half: str) -> None:
    net = denoiser(n_blocks=1, fusion="sum")
    other = {"att": "att_back", "att_back": "att"}[half]
    torch.nn.init.zeros_(getattr(net.backbone.blocks[0], other).output.weight)
    assert (reach(net, "latent", "hidden") > 1e-7).all()


def test_causal_text_reads_the_latent_and_nothing_to_its_right() -> None:
    net, pair = denoiser(causality="causal", latent_pred_from="text"), question()
    assert (reach(net, "latent", "hidden") > 1e-7).all()
    changed = pair.text.clone()
    changed[:, 6] = 5
    difference = (net(pair.at(text=changed)).hidden - net(pair).hidden).abs().amax(dim=(0, 2))
    assert difference[:6].max() < 1e-5 < 1e-3 < difference[6:].min()  # below 1e-5: chunks share a reference decay, so rounding differs


@pytest.mark.parametrize("causality", ["causal", "block_causal"])
def test_a_prefix_that_comes_first_is_refused_with_the_reason(causality: str) -> None:
    with pytest.raises(ValueError, match=f"causality={causality}.*never see it"):
        denoiser(causality=causality, latent_pred_from="prefix")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causality": "sideways"}, "bidirectional, causal"),
        ({"hidden_size": 33}, "multiple of head_size"),
        ({"block_context": "dusty"}, "noisy, clean"),
        ({"causality": "block_causal", "block_size": 0}, "block_size 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        denoiser(**options)
