"""How clocks reach the layers: told apart, in float32, and unable to harm a new network."""

from __future__ import annotations

import math

import pytest
import torch

from lgdlm.models.conditioning import ClockEmbedding, Conditioning, Modulation

H = 16


def clock_embedding(seed: int = 0) -> ClockEmbedding:
    torch.manual_seed(seed)
    return ClockEmbedding(H)


def test_the_two_clocks_are_not_interchangeable():
    embed = clock_embedding()
    a, b = torch.tensor([0.2, 0.0]), torch.tensor([0.7, 1.0])
    assert embed(a, b).shape == (2, H)
    assert (embed(a, b) - embed(b, a)).abs().max() > 1e-3


def test_features_are_sines_and_cosines_from_one_to_a_thousand():
    embed = clock_embedding()
    seen = []
    embed.enter.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    embed(torch.tensor([0.3]), torch.tensor([0.9]))
    n = 32
    frequency = [1000.0 ** (k / (n - 1)) for k in range(n)]
    expected = [f(t * w) for t in (0.3, 0.9) for f in (math.sin, math.cos) for w in frequency]
    torch.testing.assert_close(seen[0][0], torch.tensor(expected), rtol=0, atol=2e-4)


@pytest.mark.parametrize("gap", [1e-3, 1e-2])
def test_near_times_are_told_apart_and_farther_ones_more(gap):
    embed = clock_embedding()
    t = torch.linspace(0, 1 - gap, 50)
    zero = torch.zeros(50)
    apart = (embed(t + gap, zero) - embed(t, zero)).detach().norm(dim=1)
    assert float(apart.min()) > 1e-3
    ends = embed(torch.tensor([0.0, 1.0]), torch.zeros(2)).detach()
    assert float((ends[0] - ends[1]).norm()) > 0.05


def test_a_network_in_half_precision_still_reads_float32_clocks():
    """Trap: half-precision times. Frequencies rounded with the weights would turn 1000 t by radians."""
    embed, half = clock_embedding(), clock_embedding().to(torch.bfloat16)
    t = torch.linspace(0, 1, 101)
    exact, rounded = embed(t, t.flip(0)).detach(), half(t, t.flip(0)).detach()
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.float() - exact).abs().max()) < 0.03 * float(exact.abs().max()) + 0.01


def test_a_clock_has_no_state_to_save():
    assert {name.split(".")[0] for name in clock_embedding().state_dict()} == {"enter", "leave"}


@pytest.mark.parametrize("kind", Conditioning.KINDS)
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_new_block_ignores_its_condition(kind, branches):
    block, cond = Conditioning(H, kind, branches), torch.randn(4, H)
    parts = block(cond)
    assert len(parts) == branches
    x, branch = torch.randn(4, 7, H), torch.randn(4, 7, H)
    for part in parts:
        assert part.shift.shape == (4, 1, H)
        torch.testing.assert_close(part.before(x), x)
        torch.testing.assert_close(part.after(x, branch), x if kind == "adaln_zero" else x + branch)


@pytest.mark.parametrize(("kind", "vectors"), [("adaln_zero", 3), ("film", 2), ("add", 1)])
def test_each_vector_does_what_its_name_says(kind, vectors):
    torch.manual_seed(1)
    block, cond = Conditioning(H, kind), torch.randn(3, H)
    torch.nn.init.normal_(block.linear.weight, std=0.3)
    torch.nn.init.normal_(block.linear.bias, std=0.3)
    assert block.linear.out_features == vectors * 2 * H, "adaln_zero: six vectors a block"
    flat = block.linear(torch.nn.functional.silu(cond)).view(3, 2, vectors, 1, H)
    x, branch = torch.randn(3, 5, H), torch.randn(3, 5, H)
    for k, part in enumerate(block(cond)):
        shift = flat[:, k, 0]
        scale = flat[:, k, 1] if vectors > 1 else torch.zeros_like(shift)
        gate = flat[:, k, 2] if vectors > 2 else torch.ones_like(shift)
        torch.testing.assert_close(part.before(x), x * (1 + scale) + shift)
        torch.testing.assert_close(part.after(x, branch), x + gate * branch)


def test_unknown_kind_is_refused_with_the_list():
    with pytest.raises(ValueError, match="adaln_zero, film, add"):
        Conditioning(H, "adaln")


@pytest.mark.parametrize("kind", Conditioning.KINDS)
def test_zero_gates_open_and_then_everything_learns(kind):
    """Trap: zero-initialised matrices in series never receive a gradient. Here the first step opens the gates, and the second
    reaches the branch, the condition and the clock."""
    torch.manual_seed(2)
    embed, block, layer = ClockEmbedding(H), Conditioning(H, kind, branches=1), torch.nn.Linear(H, H)
    modules = torch.nn.ModuleList([embed, block, layer])
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.1)
    x, wanted = torch.randn(6, 4, H), torch.randn(6, 4, H)
    t = torch.linspace(0, 1, 6)
    for step in range(2):
        optimizer.zero_grad()
        part = block(embed(t, 1 - t))[0]
        (part.after(x, layer(part.before(x))) - wanted).square().mean().backward()
        if step == 0:
            assert block.linear.weight.grad is not None
            assert block.linear.weight.grad.any(), "a zero gate still has a gradient"
        optimizer.step()
    for name, parameter in modules.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_modulation_works_under_autocast():
    x, shift = torch.randn(2, 3, H), torch.randn(2, 1, H)
    exact = Modulation(shift, shift, shift)
    half = Modulation(*[shift.bfloat16()] * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(half.before(x).float(), exact.before(x), rtol=0.05, atol=0.05)
        torch.testing.assert_close(half.after(x, x.bfloat16()).float(), exact.after(x, x), rtol=0.05, atol=0.05)
