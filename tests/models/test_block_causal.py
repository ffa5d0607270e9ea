"""The stack in blocks, by relations: block by block, in one pass, from given borders, and the causal pass inside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lgdlm.models.block_causal import BlockCausalRWKV, fold, two_stacks, unfold
from lgdlm.models.rwkv7 import RWKV7, LayerState, RWKVState

H = 16
SIZES = [1, 4, 32, 64, 128]
HALVES = {"own": {"fusion": "gated"}, "shared": {"fusion": "concat", "share": True}, "sum film": {"fusion": "sum", "conditioning": "film"}}


def randomised(net: RWKV7, seed: int = 0) -> RWKV7:
    """Float64, and nothing at zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.2)
    return net.double()


def stack(block_size: int, n_blocks: int = 2, **options: object) -> BlockCausalRWKV:
    net = BlockCausalRWKV(H, n_blocks, block_size=block_size, head_size=8, **{"zero_init": False, **options})
    randomised(net)
    return net


def tokens(B: int, N: int, seed: int = 0) -> Tensor:
    return torch.randn(B, N, H, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block_by_block(net: BlockCausalRWKV, x: Tensor, state: RWKVState | None, cond: Tensor | None) -> tuple[Tensor, list[RWKVState | None]]:
    """The definition: the plain two-way stack on each block from the state behind the one before, and the state before each block."""
    answers, states = [], []
    for block in x.split(net.block_size, dim=1):
        states.append(state)
        y, state = RWKV7.forward(net, block, state, cond=cond)
        answers.append(y)
    return torch.cat(answers, dim=1), [*states, state]


@torch.no_grad()
def start(net: BlockCausalRWKV, B: int, cond: Tensor | None = None) -> RWKVState:
    """A state from a text that came before."""
    state = net(tokens(B, net.block_size, seed=3), cond=cond)[1]
    assert state is not None
    return state


def at_once(
    net: BlockCausalRWKV, noised: Tensor, clean: Tensor, state: RWKVState, cond: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """All noised blocks of a text beside its clean ones."""
    n = net.in_front(clean.shape[1])
    borders = net.borders(clean[:, :n], state, cond=cond, mask=None if mask is None else mask[:, :n])[1]
    return net.from_borders(noised, borders, cond=cond, mask=mask)


def noised_one_by_one(net: BlockCausalRWKV, x: Tensor, states: list[RWKVState | None], cond: Tensor | None) -> Tensor:
    pairs = zip(x.split(net.block_size, dim=1), states, strict=False)
    return torch.cat([RWKV7.forward(net, block, state, cond=cond)[0] for block, state in pairs], dim=1)


def parts(state: RWKVState) -> list[Tensor]:
    return [part for layer in state.layers for part in (layer.wkv, layer.time_shift, layer.channel_shift)]


@pytest.fixture(params=HALVES)
def halves(request: pytest.FixtureRequest) -> dict[str, object]:
    return HALVES[request.param]


def condition(halves: dict[str, object]) -> Tensor | None:
    return tokens(2, 1, seed=9)[:, 0] if "conditioning" in halves else None


@pytest.mark.parametrize(("size", "length"), [(4, 13), (4, 12), (5, 3), (1, 6), (32, 70)])
def test_one_pass_is_block_by_block(halves: dict[str, object], size: int, length: int) -> None:
    net, x, cond = stack(size, **halves), tokens(2, length), condition(halves)
    for before in (None, start(net, 2, cond)):
        expected, states = block_by_block(net, x, before, cond)
        y, state = net(x, before, cond=cond)
        torch.testing.assert_close(y, expected)
        for one, other in zip(parts(state), parts(states[-1]), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("size", "count"), [(4, 3), (4, 1), (1, 6)])
def test_borders_are_the_states_of_the_definition(halves: dict[str, object], size: int, count: int) -> None:
    net, x, cond = stack(size, **halves), tokens(2, size * count), condition(halves)
    before = start(net, 2, cond)
    expected, states = block_by_block(net, x, before, cond)
    y, borders = net.borders(x, before, cond=cond)
    torch.testing.assert_close(y, expected)
    for i, part in enumerate(parts(borders)):
        torch.testing.assert_close(part.unflatten(0, (2, -1)), torch.stack([parts(state)[i] for state in states], dim=1))


def test_no_blocks_have_one_border() -> None:
    net = stack(4, fusion="sum")
    before = start(net, 2)
    y, borders = net.borders(tokens(2, 4)[:, :0], before)
    assert y.shape == (2, 0, H)
    assert borders is before
    assert [net.in_front(n) for n in (1, 4, 5, 8, 9)] == [0, 0, 4, 4, 8]


@pytest.mark.parametrize(("size", "length"), [(4, 13), (4, 8), (5, 3), (1, 6)])
def test_noised_blocks_at_once_are_blocks_one_by_one(halves: dict[str, object], size: int, length: int) -> None:
    """Values, and the gradients of both texts, of the condition and of every parameter."""
    net, cond = stack(size, **halves), condition(halves)
    before = start(net, 2, cond)
    clean, noised = tokens(2, length).requires_grad_(), tokens(2, length, seed=1).requires_grad_()
    weight = tokens(2, length, seed=2)
    inputs = [clean, noised, *net.parameters()]

    def gradients(y: Tensor) -> list[Tensor]:
        found = torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    together = at_once(net, noised, clean, before, cond)
    apart = noised_one_by_one(net, noised, block_by_block(net, clean, before, cond)[1], cond)
    torch.testing.assert_close(together, apart)
    for one, other in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("length", [1, 31, 130])
def test_without_the_half_from_the_right_it_is_the_causal_pass(size: int, length: int) -> None:
    """Switched off in two ways: weights of zero behind that half, and a stack that never had it."""
    net, x = stack(size, fusion="sum"), tokens(1, length)
    for block in net.blocks:
        torch.nn.init.zeros_(block.att_back.output.weight)
    causal, alone = (randomised(RWKV7(H, 2, head_size=8, zero_init=False)), stack(size, fusion=None))
    weights = {name: w for name, w in net.state_dict().items() if "att_back" not in name and "fuse" not in name}
    causal.load_state_dict(weights)
    alone.load_state_dict(weights)
    expected, state = causal(x)
    for one in (net, alone):
        y, found = one(x)
        torch.testing.assert_close(y, expected)
        for a, b in zip(parts(found), parts(state), strict=True):
            torch.testing.assert_close(a, b)
        before = start(one, 1)
        torch.testing.assert_close(at_once(one, x, x, before), causal(x, before)[0])


@pytest.mark.parametrize("ask", ["row", "noised", "clean"])
def test_what_reaches_a_block(ask: str) -> None:
    """A row: everything up to the block's end. Noised blocks: their own tokens, and the clean ones before their block."""
    size, length = 3, 11
    net, x, clean = stack(size, 1, fusion="gated"), tokens(1, length).requires_grad_(), tokens(1, length, seed=1).requires_grad_()
    y = net(x)[0] if ask == "row" else at_once(net, x, clean, start(net, 1))
    block = torch.arange(length) // size
    for i in range(length):
        leaf = clean if ask == "clean" else x
        (reach,) = torch.autograd.grad(y[0, i].square().sum(), leaf, retain_graph=True)
        reached = reach[0].abs().amax(dim=1) > 1e-9
        expected = {"row": block <= block[i], "noised": block == block[i], "clean": block < block[i]}[ask]
        assert torch.equal(reached, expected), f"token {i}"


@pytest.mark.parametrize("options", [{"fusion": "gated"}, {"fusion": "concat", "share": True}, {}], ids=["own", "shared", "causal"])
def test_padding_changes_nothing(options: dict[str, object]) -> None:
    net, clean, noised = stack(4, **options), tokens(4, 11), tokens(4, 11, seed=1)
    lengths = [11, 8, 5, 1]
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    row, state = net(noised, mask=mask)
    before = start(net, 1)
    each = RWKVState(tuple(LayerState(*(part.expand(4, *part.shape[1:]) for part in vars(layer).values())) for layer in before.layers))
    blocks = at_once(net, noised, clean, each, mask=mask)
    for i, n in enumerate(lengths):
        here = slice(i, i + 1)
        alone, own = net(noised[here, :n])
        torch.testing.assert_close(row[here, :n], alone)
        for one, other in zip(parts(state), parts(own), strict=True):
            torch.testing.assert_close(one[here], other)
        torch.testing.assert_close(blocks[here, :n], at_once(net, noised[here, :n], clean[here, :n], before))


def test_folding_and_back() -> None:
    for x in (torch.randn(2, 7, 3), torch.randn(2, 7, 3, 2), torch.ones(2, 7, dtype=torch.bool)):
        assert torch.equal(unfold(fold(x, 3), 2, 7), x)
        assert fold(x, 3).shape == (6, 3, *x.shape[2:])
        assert not fold(x, 3)[2, 1:].any()


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block_size 0"):
        stack(0)


def test_two_whole_networks_over_blocks_of_tokens() -> None:
    """The left one goes on from block to block; the right one starts anew in each, all of a size as one batch."""
    table, sizes = torch.randn(20, H, generator=torch.Generator().manual_seed(0), dtype=torch.float64), [4, 4, 4, 1]
    ahead, back = (randomised(RWKV7(H, 2, head_size=8, zero_init=False), seed) for seed in (0, 1))
    text = torch.randint(0, 20, (2, 13), generator=torch.Generator().manual_seed(2))
    calls: list[int] = []

    def backwards(y: Tensor, state: RWKVState | None) -> tuple[Tensor, RWKVState | None]:
        calls.append(len(y))
        return back(table[y], state)

    alone, state = two_stacks(text.split(4, dim=1), None, lambda y, s: ahead(table[y], s), None)
    expected, last = ahead(table[text])
    torch.testing.assert_close(alone, expected)
    for one, other in zip(parts(state), parts(last), strict=True):
        torch.testing.assert_close(one, other)
    both, _ = two_stacks(text.split(4, dim=1), None, lambda y, s: ahead(table[y], s), backwards)
    turned = [back(table[y.flip(1)])[0].flip(1) for y in text.split(sizes, dim=1)]
    torch.testing.assert_close(both, expected + torch.cat(turned, dim=1))
    assert sorted(calls) == [2, 6]
