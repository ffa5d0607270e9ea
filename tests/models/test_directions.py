"""Who reads whom: for each causality and fusion the derivative of the state at one place by the token rows of all places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.fusion import FUSIONS
from lgdlm.models.rwkv7 import RWKV7
from lgdlm.models.rwkv_denoiser import RWKVDenoiser

V, N, BLOCK = 30, 11, 4


def denoiser(**options: object) -> RWKVDenoiser:
    """As it is built: FiLM leaves branches open from the start, so nothing has to be trained first."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "latent_dim": 3, "hidden_size": 32, "n_blocks": 2, "head_size": 16, "block_size": BLOCK}
    return RWKVDenoiser(**{**sizes, "time_conditioning": "film", **options}).double()


def reach(net: RWKVDenoiser, place: int, lengths: tuple[int, ...] = (N,)) -> Tensor:
    """bool [B, N]: whose token row moves the state at `place` of the same text; rows of other texts must not."""
    rows: list[Tensor] = []

    def catch(_module: object, _inputs: object, out: Tensor) -> Tensor:
        rows.append(out.detach().requires_grad_())
        return rows[0]

    handle = net.embedding.register_forward_hook(catch)
    g, B = torch.Generator().manual_seed(1), len(lengths)
    mask = torch.arange(N) < torch.tensor(lengths)[:, None]
    clock = torch.full((B,), 0.5)
    pair = NoisyPair(torch.randint(0, V + 1, (B, N), generator=g), clock, torch.randn(B, 1, 3, generator=g).double(), clock, mask)
    hidden = net(pair).hidden
    handle.remove()
    found = []
    for b in range(B):
        (gradient,) = torch.autograd.grad(hidden[b, place].square().sum(), rows[0], retain_graph=True)
        assert not gradient[torch.arange(B) != b].any(), "texts of a batch do not meet"
        found.append(gradient[b].abs().amax(dim=1) > 1e-12)
    return torch.stack(found)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_bidirectional_reads_both_sides_of_every_place(fusion: str, share: bool, n_blocks: int) -> None:
    net = denoiser(fusion=fusion, share_directions=share, n_blocks=n_blocks)
    for place in (0, 5, N - 1):
        assert reach(net, place).all()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("share", [False, True])
def test_padding_is_read_from_neither_side(fusion: str, share: bool) -> None:
    lengths = (N, 6, 3)
    expected = torch.arange(N) < torch.tensor(lengths)[:, None]
    assert torch.equal(reach(denoiser(fusion=fusion, share_directions=share), 1, lengths), expected)


def test_causal_reads_the_left_only() -> None:
    net = denoiser(causality="causal", latent_pred_from="text")
    for place in (0, 5, N - 1):
        assert torch.equal(reach(net, place)[0], torch.arange(N) <= place)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_block_causal_reads_the_left_and_the_rest_of_its_block(fusion: str) -> None:
    net = denoiser(causality="block_causal", fusion=fusion, latent_pred_from="text")
    for place in (0, 2, 5, N - 1):
        end = (place // BLOCK + 1) * BLOCK
        assert torch.equal(reach(net, place)[0], torch.arange(N) < end)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("causality", ["bidirectional", "block_causal", "causal"])
@pytest.mark.parametrize("conditioning", ["film", "add", "adaln_zero"])
def test_zeros_at_the_start_are_never_in_series(fusion: str, causality: str, conditioning: str) -> None:
    """Of two zero factors neither would ever learn: no path through a block holds more than one, so one step opens all of them."""
    net = denoiser(fusion=fusion, causality=causality, time_conditioning=conditioning, latent_pred_from="text").float()
    zero = {name for name, p in net.named_parameters() if not p.any()}
    within = {name for name in zero if ".blocks." in name}
    assert within == {name for name in within if ".conditioning." in name or name.endswith((".bias", "fuse.gate.bias"))}
    g = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        clock, mask = torch.full((2,), 0.5), torch.ones(2, N, dtype=torch.bool)
        answer = net(NoisyPair(torch.randint(0, V + 1, (2, N), generator=g), clock, torch.randn(2, 1, 3, generator=g), clock, mask))
        optimizer.zero_grad()
        (answer.text_logits.square().mean() + (answer.latent - 1).square().mean()).backward()
        optimizer.step()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_turning_the_real_tokens_round_turns_the_answer_round_whatever_the_padding() -> None:
    """With shared weights, a symmetric fusion and no shift in the channel mix; padding stays where it is."""
    torch.manual_seed(0)
    net = RWKV7(16, 2, head_size=8, fusion="sum", share=True, zero_init=False).double()
    for block in net.blocks:
        torch.nn.init.zeros_(block.ffn.x_k)
    lengths = torch.tensor([9, 4, 1])
    mask = torch.arange(9) < lengths[:, None]
    turned = torch.where(mask, lengths[:, None] - 1 - torch.arange(9), torch.arange(9))
    x = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0)).double()
    ahead, _ = net(x, mask=mask)
    back, _ = net(torch.take_along_dim(x, turned[..., None], dim=1), mask=mask)
    torch.testing.assert_close(torch.take_along_dim(back, turned[..., None], dim=1)[mask], ahead[mask])
