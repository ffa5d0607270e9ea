"""A denoiser that starts from published weights: what it takes, what it answers at the start, what may train, what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretrained_world import RANKS, SIZES, pth, random_weights, tokens
from torch import Tensor, nn

from lgdlm.models import adoption
from lgdlm.models.adoption import adopt, backbone_of, freeze, parity_error, published
from lgdlm.models.conditioning import Conditioning
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.fusion import FUSIONS
from lgdlm.models.language_model import language_model
from lgdlm.models.pretrained import Pretrained, read_pretrained
from lgdlm.models.rwkv_denoiser import RWKVDenoiser

V, D, N, P = SIZES.vocab_size, 4, 13, 2
HALVES = ("att_back", "fuse")


def weights(tied: bool = False) -> Pretrained:
    tensors = random_weights(unused=False)
    if tied:
        del tensors["head.weight"]
    sizes = SIZES if not tied else type(SIZES)(**{**vars(SIZES), "tied": True})
    return Pretrained(Path("weights"), tensors, sizes, "published", {}, {})


def denoiser(**options: object) -> RWKVDenoiser:
    """In the sizes of the weights, not yet adopted."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "latent_dim": D, "hidden_size": 128, "n_blocks": 3, "ffn_ratio": 1.5, "ranks": RANKS, "latent_prefix_len": P}
    return RWKVDenoiser(**{**sizes, "published_ends": True, "use_rwkv_lm_head": True, "tie_embeddings": False, **options})


def question(lengths: tuple[int, ...] = (N, N), text: Tensor | None = None) -> NoisyPair:
    B = len(lengths)
    mask = torch.arange(N) < torch.tensor(lengths)[:, None]
    latent = torch.randn(B, 1, D, generator=torch.Generator().manual_seed(3))
    return NoisyPair(tokens(N, B) if text is None else text, torch.full((B,), 0.4), latent, torch.full((B,), 0.7), mask)


@pytest.mark.parametrize("conditioning", Conditioning.KINDS)
def test_a_causal_denoiser_starts_as_the_language_model_behind_its_prefix(conditioning: str) -> None:
    """Conditions are silent and gates open: its logits are those of the published model over [latent, token rows]."""
    net = denoiser(causality="causal", time_conditioning=conditioning, latent_pred_from="text")
    adopt(net, weights())
    model, pair = weights().model(), question(lengths=(N, 6))
    with torch.no_grad():
        x, _ = model.stack(torch.cat([net.prefix(pair.latent), model.emb(pair.text)], dim=1))
        expected = model.head(model.ln_out(x))[:, P:]
        found = net(pair).text_logits
    torch.testing.assert_close(found[pair.attention_mask], expected[pair.attention_mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("causality", ["bidirectional", "block_causal"])
@pytest.mark.parametrize("backward", ["forward", "fresh"])
def test_the_language_model_inside_an_adapted_denoiser_is_the_published_one(
    fusion: str, share: bool, causality: str, backward: str
) -> None:
    net = denoiser(fusion=fusion, share_directions=share, causality=causality)
    report = adopt(net, weights(), backward=backward)
    assert report.parity_error < 1e-4
    ids = tokens(20, B=2)
    torch.testing.assert_close(backbone_of(net, weights())(ids)[0], weights().model()(ids)[0], atol=1e-5, rtol=0)


def test_the_parity_error_sees_a_tensor_that_differs() -> None:
    for name in ("blocks.1.att.a2", "blocks.2.ffn.x_k", "emb.weight", "head.weight", "ln_out.bias", "blocks.0.att.r_k"):
        net = denoiser()
        adopt(net, weights())
        changed = dict(weights().tensors)
        changed[name] = changed[name] + 0.1 * torch.randn(changed[name].shape, generator=torch.Generator().manual_seed(5))
        assert parity_error(net, Pretrained(Path("weights"), changed, SIZES, "published", {}, {})) > 1e-3, name


@pytest.mark.parametrize("end", ["text_head.decode.bias", "text_kind"])
def test_the_parity_error_goes_through_the_denoisers_own_ends(end: str) -> None:
    """Through what published weights have no name for. (The scale of rows is not seen: a norm comes first.)"""
    net = denoiser()
    adopt(net, weights())
    with torch.no_grad():
        net.get_parameter(end)[3] = 0.5
    assert parity_error(net, weights()) > 1e-3


@pytest.mark.parametrize("plain", [True, False])
def test_a_published_head_has_no_bias_whatever_it_was_told_before(plain: bool) -> None:
    net = denoiser(use_rwkv_lm_head=plain)
    with torch.no_grad():
        net.text_head.decode.bias.copy_(torch.linspace(-3, 0, V))
    report = adopt(net, weights())
    assert bool(net.text_head.decode.bias.any()) is not plain
    assert report.parity_error < 1e-4


@pytest.mark.parametrize(("most", "dtype"), [(10**9, torch.float64), (1000, torch.float32)])
def test_large_weights_are_not_copied_in_float64(most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    model = Pretrained.model
    monkeypatch.setattr(Pretrained, "model", lambda self, **options: (asked.append(options["dtype"]), model(self, **options))[1])
    monkeypatch.setattr(adoption, "EXACT_PARAMETERS", most)
    report = adopt(denoiser(), weights())
    assert asked == [dtype]
    assert report.parity_in == str(dtype).removeprefix("torch.")
    assert f"against the {report.parity_in} recurrence" in report.line()
    assert report.parity_error < 1e-4


@pytest.mark.parametrize("backward", ["forward", "fresh"])
def test_right_to_left_halves_start_as_asked(backward: str) -> None:
    net = denoiser()
    built = [{name: t.clone() for name, t in block.att_back.state_dict().items()} for block in net.backbone.blocks]
    adopt(net, weights(), backward=backward)
    for block, before in zip(net.backbone.blocks, built, strict=True):
        for name, tensor in block.att_back.state_dict().items():
            assert torch.equal(tensor, block.att.state_dict()[name] if backward == "forward" else before[name])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_start_at_the_mean_of_both_readings(fusion: str) -> None:
    """So a text that reads the same both ways is read at the scale the next layers know."""
    fuse = FUSIONS[fusion](64)
    fuse.start_at_mean()
    g = torch.Generator().manual_seed(0)
    ahead, back = torch.randn(2, 400, 64, generator=g).unbind()
    mean = (ahead + back) / 2
    assert (fuse(ahead, back) - mean).std() <= {"concat": 0.2, "gated": 0.5, "sum": 0.0}[fusion] * mean.std()
    ratio = (fuse(ahead, back) * mean).sum() / mean.square().sum()
    assert 0.9 < ratio < 1.1
    restored = FUSIONS[fusion](64)
    restored.load_state_dict(fuse.state_dict())
    assert torch.equal(restored(ahead, back), fuse(ahead, back)), "a checkpoint brings it back"


def test_the_output_depends_on_both_sides_and_the_mask_row_learns() -> None:
    net = denoiser()
    adopt(net, weights())
    freeze(net, backbone=True, head=True)
    text = tokens(N, 2)
    text[:, 3] = V
    x = {}
    net.embedding.register_forward_hook(lambda module, given, out: x.setdefault("rows", out.requires_grad_() if out.is_leaf else out))
    answer = net(question(text=text)).text_logits
    (reach,) = torch.autograd.grad(answer[0, 6].square().sum(), x["rows"], retain_graph=True)
    assert (reach[0].abs().amax(dim=1) > 1e-9).all()
    answer.square().mean().backward()
    assert net.embedding.mask.grad.abs().min() > 0


def trained_names(net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


def of_stack(names: set[str]) -> set[str]:
    return {n for n in names if n.startswith("backbone.") and n.split(".")[3] not in (*HALVES, "conditioning")}


@pytest.mark.parametrize("backbone", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("own_head", [True, False])
def test_what_came_from_the_weights_is_frozen_and_nothing_else(backbone: bool, head: bool, own_head: bool) -> None:
    net = denoiser(use_rwkv_lm_head=not own_head)
    adopt(net, weights())
    everything = trained_names(net)
    freeze(net, backbone=backbone, head=head)
    frozen = everything - trained_names(net)
    expected = (of_stack(everything) | {"embedding.table.weight"}) if backbone else set()
    if head and not own_head:
        expected |= {"text_head.norm.weight", "text_head.norm.bias", "text_head.decode.weight", "text_head.decode.bias"}
    assert frozen == expected


def test_a_tied_head_trains_with_the_rows() -> None:
    net = denoiser(tie_embeddings=True)
    adopt(net, weights(tied=True))
    assert net.text_head.decode.weight is net.embedding.table.weight
    freeze(net, backbone=False, head=True)
    assert net.embedding.table.weight.requires_grad
    freeze(net, backbone=True, head=True)
    assert not net.text_head.decode.weight.requires_grad


def test_every_trainable_parameter_of_an_adopted_denoiser_gets_a_gradient() -> None:
    """At the second step: conditions start at zero, and what feeds them hears of it one step later."""
    for options in ({}, {"time_conditioning": "film", "fusion": "gated"}, {"fusion": "sum", "share_directions": True}):
        net = denoiser(**options)
        adopt(net, weights())
        freeze(net, backbone=True, head=True)
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-2)
        text = tokens(N, 2)
        text[:, ::3] = V
        for _ in range(2):
            optimizer.zero_grad()
            answer = net(question(text=text))
            (answer.text_logits.square().mean() + (answer.latent - 1).square().mean()).backward()
            optimizer.step()
        starved = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not starved, options


@pytest.mark.parametrize("tied", [False, True])
def test_published_tensors_come_back_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    given = weights(tied)
    net = denoiser(tie_embeddings=tied)
    adopt(net, given)
    tensors, sizes, left = published(net)
    assert sizes == given.sizes
    assert tensors.keys() == given.tensors.keys()
    assert all(torch.equal(tensors[name], t) for name, t in given.tensors.items())
    assert {"embedding.mask", "text_kind", "clock.enter.weight", "text_head.decode.bias"} <= set(left)
    assert not any(name.endswith("att.w1") for name in left)


def test_what_a_denoiser_of_our_own_ends_publishes_computes_the_same() -> None:
    """A scaled, factorised table and a projected head are folded into the published ones."""
    torch.manual_seed(0)
    net = RWKVDenoiser(
        vocab_size=V, latent_dim=D, hidden_size=128, n_blocks=2, embedding_dim=32, causality="causal", latent_pred_from="text",
        time_conditioning="film",
    )  # fmt: skip
    tensors, sizes, _ = published(net)
    model, ids = language_model(tensors, sizes), tokens(9)
    with torch.no_grad():
        x, _ = net.backbone(net.embedding(ids), cond=torch.zeros(1, 128))
        expected = net.text_head(x, question()) - net.text_head.decode.bias
    torch.testing.assert_close(model(ids)[0], expected, atol=1e-4, rtol=0)


def test_the_report_names_every_tensor_once(tmp_path: Path) -> None:
    found = read_pretrained(pth(tmp_path))
    report = adopt(denoiser(use_rwkv_lm_head=False), found)
    assert set(report.used) | set(report.ignored) == set(random_weights())
    assert not set(report.used) & set(report.ignored)
    assert {"ln_out.weight", "ln_out.bias", "head.weight", "blocks.0.att.v0"} <= set(report.ignored)
    assert "parity error" in report.line()
