"""Both directions reach the fused states, in the way each fusion says."""

from __future__ import annotations

import pytest
import torch

from lgdlm.models.fusion import FUSIONS, ConcatFusion, GatedFusion

H = 6


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, H, generator=g).requires_grad_(), torch.randn(2, 5, H, generator=g).requires_grad_()


@pytest.mark.parametrize("name", FUSIONS)
def test_token_by_token_and_both_halves_count(name: str) -> None:
    ahead, back = halves()
    fuse = FUSIONS[name](H)
    fused = fuse(ahead, back)
    assert fused.shape == ahead.shape
    fused[:, 2].square().sum().backward()
    for half in (ahead, back):
        assert half.grad[:, 2].abs().min() > 0
        assert not half.grad[:, [0, 1, 3, 4]].any()
    assert all(p.grad is not None and p.grad.any() for p in fuse.parameters())


def test_sum_is_the_sum() -> None:
    ahead, back = halves()
    assert torch.equal(FUSIONS["sum"](H)(ahead, back), ahead + back)


def test_gated_lies_between_its_halves_and_can_choose_one() -> None:
    ahead, back = halves()
    fuse = GatedFusion(H)
    fused = fuse(ahead, back)
    low, high = torch.minimum(ahead, back), torch.maximum(ahead, back)
    assert ((low - 1e-6 <= fused) & (fused <= high + 1e-6)).all()
    torch.nn.init.constant_(fuse.gate.bias, 100.0)
    torch.testing.assert_close(fuse(ahead, back), ahead)
    torch.nn.init.constant_(fuse.gate.bias, -100.0)
    torch.testing.assert_close(fuse(ahead, back), back)


def test_concat_is_linear_in_the_pair() -> None:
    ahead, back = halves()
    fuse = ConcatFusion(H)
    weight = fuse.linear.weight
    torch.testing.assert_close(fuse(ahead, back), ahead @ weight[:, :H].T + back @ weight[:, H:].T)
