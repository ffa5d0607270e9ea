"""RWKV-7 by relations: parity with the published implementation, states, padding, directions, initialisation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lgdlm.models.fusion import FUSIONS
from lgdlm.models.rwkv7 import RWKV7, RWKVState
from lgdlm.models.time_mix import TimeMix
from lgdlm.models.wkv import CHOICES

GOLDEN = Path(__file__).parents[1] / "golden" / "rwkv7_tiny.safetensors"
H = 16


def randomised(net: RWKV7, seed: int = 0) -> RWKV7:
    """Float64, and nothing at zero: a stack of identities would pass most of these tests."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.2)
    return net.double()


def stack(n_blocks: int = 2, **options: object) -> RWKV7:
    return randomised(RWKV7(H, n_blocks, head_size=8, **{"zero_init": False, **options}))


def tokens(B: int, N: int, seed: int = 0) -> Tensor:
    return torch.randn(B, N, H, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_state(left: RWKVState, right: RWKVState) -> None:
    for a, b in zip(left.layers, right.layers, strict=True):
        for x, y in ((a.wkv, b.wkv), (a.time_shift, b.time_shift), (a.channel_shift, b.channel_shift)):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("pieces", [[41], [1] * 41, [7, 34]])
def test_logits_and_states_of_the_published_implementation(pieces: list[int]) -> None:
    weights = load_file(GOLDEN)  # random weights in the published layout; answers of the `rwkv` package in float32
    w = {name: tensor.double() for name, tensor in weights.items()}
    net = RWKV7(128, 2, ffn_size=192, ranks={"w": 16, "a": 8, "v": 8, "g": 24}).double()
    net.load_state_dict({name: tensor for name, tensor in w.items() if name.startswith("blocks.")})
    hidden, state = [], None
    for piece in F.embedding(weights["golden.tokens"].long(), w["emb.weight"])[None].split(pieces, dim=1):
        x, state = net(piece, state)
        hidden.append(x)
    logits = F.layer_norm(torch.cat(hidden, dim=1), (128,), w["ln_out.weight"], w["ln_out.bias"]) @ w["head.weight"].T
    torch.testing.assert_close(logits[0], w["golden.logits"], atol=2e-5, rtol=0)
    for i, layer in enumerate(state.layers):
        for name, answer in (("wkv", layer.wkv), ("time_shift", layer.time_shift), ("channel_shift", layer.channel_shift)):
            torch.testing.assert_close(answer[0], w[f"golden.state.{i}.{name}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kernel", CHOICES)
@settings(max_examples=8, deadline=None)
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=4), conditioned=st.booleans())
def test_a_text_whole_in_pieces_and_token_by_token(kernel: str, pieces: list[int], conditioned: bool) -> None:
    net = stack(kernel=kernel, chunk=8, conditioning="adaln_zero" if conditioned else None)
    x, cond = tokens(2, sum(pieces)), tokens(2, 1, seed=5)[:, 0] if conditioned else None
    whole, final = net(x, cond=cond)
    for split in (pieces, [1] * sum(pieces)):
        parts, state = [], None
        for piece in x.split(split, dim=1):
            y, state = net(piece, state, cond=cond)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)
        assert_same_state(state, final)


@pytest.mark.parametrize("options", [{}, {"fusion": "gated"}, {"fusion": "concat", "share": True}], ids=["causal", "both", "shared"])
def test_padding_changes_nothing(options: dict[str, object]) -> None:
    net, x = stack(**options), tokens(3, 12)
    lengths = [12, 7, 1]
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    padded, state = net(x, mask=mask)
    assert torch.isfinite(padded).all()
    for i, n in enumerate(lengths):
        alone, own = net(x[i : i + 1, :n])
        torch.testing.assert_close(padded[i, :n], alone[0])
        for layer, expected in zip(state.layers, own.layers, strict=True):
            torch.testing.assert_close(layer.wkv[i], expected.wkv[0])
            torch.testing.assert_close(layer.time_shift[i], expected.time_shift[0])
            torch.testing.assert_close(layer.channel_shift[i], expected.channel_shift[0])


def test_a_piece_that_is_all_padding_keeps_the_state() -> None:
    net, x = stack(), tokens(2, 6)
    _, state = net(x)
    _, after = net(tokens(2, 4, seed=1), state, mask=torch.zeros(2, 4, dtype=torch.bool))
    assert_same_state(after, state)


@pytest.mark.parametrize("fusion", [None, *FUSIONS])
def test_what_reaches_a_token_in_the_first_layer(fusion: str | None) -> None:
    net, x = stack(1, fusion=fusion), tokens(1, 9).requires_grad_()
    for i in (0, 4, 8):
        (reach,) = torch.autograd.grad(net(x, keep_state=False)[0][0, i].square().sum(), x)
        reached = reach[0].abs().amax(dim=1) > 1e-9
        expected = torch.arange(9) <= i if fusion is None else torch.ones(9, dtype=torch.bool)
        assert torch.equal(reached, expected), f"token {i}"


@pytest.mark.parametrize("chunk", [4, 32])
def test_two_directions_are_mirror_images(chunk: int) -> None:
    """With shared weights, a symmetric fusion and no shift in the channel mix, turning the text round turns the answer round."""
    net, x = stack(fusion="sum", share=True, chunk=chunk), tokens(2, 11)
    for block in net.blocks:
        torch.nn.init.zeros_(block.ffn.x_k)
    torch.testing.assert_close(net(x.flip(1))[0], net(x)[0].flip(1))


def test_shared_directions_equal_separate_ones_with_equal_weights() -> None:
    shared, separate = stack(fusion="gated", share=True), stack(fusion="gated")
    weights = shared.state_dict()
    separate.load_state_dict({name: weights[name.replace("att_back", "att")] for name in separate.state_dict()})
    x = tokens(2, 10)
    torch.testing.assert_close(shared(x)[0], separate(x)[0])


def test_only_the_reading_from_the_left_has_a_state() -> None:
    """In two directions the first layer's left half goes on where it was, so the last state is that of the whole text."""
    net, x = stack(1, fusion="gated"), tokens(2, 14)
    _, whole = net(x)
    _, state = net(x[:, :5])
    _, state = net(x[:, 5:], state)
    torch.testing.assert_close(state.layers[0].wkv, whole.layers[0].wkv)
    torch.testing.assert_close(state.layers[0].time_shift, whole.layers[0].time_shift)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_the_published_initialisation(layer: int) -> None:
    C, K, n_layers = 64, 16, 4
    mix = TimeMix(C, layer, n_layers, head_size=K)
    depth, remaining = layer / (n_layers - 1), 1 - layer / n_layers
    for n in range(C):  # channel by channel, as the training code writes it
        linear = n / (C - 1) - 0.5
        zigzag = ((n % K) - ((K - 1) / 2)) / ((K - 1) / 2)
        zigzag *= abs(zigzag)
        w0 = -6 + 6 * (n / (C - 1)) ** (1 + depth**0.3) + 0.5 + zigzag * 2.5
        assert mix.w0[0, 0, n].item() == pytest.approx(w0, abs=1e-5)
        assert mix.a0[0, 0, n].item() == pytest.approx(-0.19 + zigzag * 0.3 + linear * 0.4, abs=1e-5)
        assert mix.k_k[0, 0, n].item() == pytest.approx(0.71 - linear * 0.1, abs=1e-5)
        assert mix.x_w[0, 0, n].item() == pytest.approx(1 - (n / C) ** (0.9 * remaining), abs=1e-5)
        assert mix.x_k[0, 0, n].item() == pytest.approx(1 - (n / C) ** (0.7 * remaining), abs=1e-5)
        if layer:
            assert mix.v0[0, 0, n].item() == pytest.approx(0.73 - linear * 0.4, abs=1e-5)
    assert hasattr(mix, "v0") == (layer > 0)
    for zero in (mix.output.weight, mix.w1, mix.a1, mix.g1):
        assert not zero.any()
    assert mix.key.weight.abs().max() <= 0.05 / math.sqrt(C) < mix.receptance.weight.abs().max() <= 0.5 / math.sqrt(C)
    torch.testing.assert_close(mix.w2 @ mix.w2.T, 0.01 * torch.eye(len(mix.w2)), atol=1e-5, rtol=0)


def test_the_plain_stack_starts_as_the_first_norm() -> None:
    net, x = RWKV7(H, 3, head_size=8), tokens(2, 5).float()
    torch.testing.assert_close(net(x)[0], F.layer_norm(x, (H,)))


def test_bfloat16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    net, x = RWKV7(H, 2, head_size=8, zero_init=False, fusion="gated"), tokens(2, 20).float()
    expected = net(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = net(x)
    y.float().square().sum().backward()
    assert F.cosine_similarity(y.float().flatten(), expected.flatten(), dim=0) > 0.9995
    assert state.layers[0].wkv.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_size": 5}, "multiple of head_size"),
        ({"fusion": "mean"}, "concat, gated, sum"),
        ({"kernel": "cuda"}, "auto, recurrence, chunked"),
        ({"chunk": 0}, "chunk 0"),
        ({"conditioning": "film", "zero_init": True}, "in series"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RWKV7(H, 2, **{"head_size": 8, **options})
