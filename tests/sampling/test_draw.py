"""Draws follow the softmax, and exactly the part of it that was asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_sampling import chi_square_bound

from lgdlm.diffusion import categorical as room
from lgdlm.errors import InputError
from lgdlm.rng import Rng
from lgdlm.sampling import TokenDraw


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return Rng(seed, 0, torch.arange(count)).uniform("test")


def chi_square(tokens: torch.Tensor, p: torch.Tensor) -> float:
    expected = p.double() * len(tokens)
    assert expected[p > 0].min() > 5, "the test needs more draws"
    counts = torch.bincount(tokens, minlength=len(p))
    assert (counts[p == 0] == 0).all(), "a token without probability was drawn"
    return float(((counts - expected)[p > 0] ** 2 / expected[p > 0]).sum())


@pytest.mark.parametrize("size", [2, 5, 256, 257, 600])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(size, temperature):
    logits = 0.4 * torch.randn(size, generator=torch.Generator().manual_seed(size))
    tokens = TokenDraw(temperature)(
        logits.expand(400_000, -1)[: 200_000 if size > 256 else 50_000], uniforms(200_000 if size > 256 else 50_000)
    )
    assert chi_square(tokens, (logits.double() / temperature).softmax(0)) < chi_square_bound(size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 10**6), st.floats(0.05, 5))
def test_a_draw_inverts_the_cumulative_distribution(size, seed, temperature):
    make = torch.Generator().manual_seed(seed)
    logits, u = 4 * torch.randn(9, size, generator=make), uniforms(9, seed)
    mass = (logits.double() / temperature).softmax(1).cumsum(1)
    token = TokenDraw(temperature)(logits, u)[:, None]
    above = mass.gather(1, token)
    below = torch.where(token > 0, mass.gather(1, (token - 1).clamp_min(0)), 0.0)
    assert (below[:, 0] - 1e-6 <= u).all()
    assert (u <= above[:, 0] + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 700), st.integers(1, 800), st.floats(0, 1), st.integers(0, 10**6))
def test_truncated_draws_invert_the_restricted_distribution(size, top_k, top_p, seed):
    logits = 4 * torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
    p, ids = logits.double().softmax(1)[0].sort(descending=True)
    p = p[:top_k] / p[:top_k].sum()
    inside = max(1, int((p.cumsum(0) - p < top_p - 1e-6).sum()))
    allowed, surely = ids[: inside + 1].tolist(), ids[:inside].tolist()  # one more may fit when its edge is within rounding of top_p
    u = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    tokens = TokenDraw(1.0, top_k, top_p)(logits.expand(200, -1), u)
    assert set(tokens.tolist()) <= set(allowed)
    assert tokens[0] == surely[0]
    kept = p[:inside] / p[:inside].sum()
    expected = ids[torch.searchsorted(kept.cumsum(0), u).clamp_max(inside - 1)]
    assert (tokens == expected).double().mean() > 0.95  # a uniform beside an edge may fall either way


@pytest.mark.parametrize(("top_k", "top_p"), [(4, 1.0), (0, 0.7), (6, 0.8), (1, 1.0), (0, 0.0)])
def test_the_support_is_exact_and_its_shares_too(top_k, top_p):
    logits = torch.tensor([0.1, 2.0, -1.0, 1.0, 0.5, 1.5, -0.2, 0.0])
    p = logits.double().softmax(0)
    order = p.argsort(descending=True)
    kept = torch.zeros(8, dtype=torch.bool)
    kept[order[: top_k or 8]] = True
    q = p.masked_fill(~kept, 0) / p[kept].sum()
    before = q[order].cumsum(0) - q[order]
    kept[order[(before >= top_p) & (before > 0)]] = False
    q = q.masked_fill(~kept, 0) / q[kept].sum()
    tokens = TokenDraw(1.0, top_k, top_p)(logits.expand(20_000, -1), uniforms(20_000))
    assert set(tokens.tolist()) == set(kept.nonzero()[:, 0].tolist())
    assert chi_square(tokens, q) < chi_square_bound(max(2, int(kept.sum())))


def test_a_wide_nucleus_is_found_in_several_looks():
    logits = torch.zeros(3, 5000)
    tokens = TokenDraw(top_p=0.5)(logits.expand(3, -1), torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64))
    assert len(set(tokens.tolist())) == 3
    many = TokenDraw(top_p=0.5)(logits[:1].expand(4000, -1), uniforms(4000))
    assert len(set(many.tolist())) <= 2501


def test_temperature_zero_is_the_argmax_and_the_limit_of_small_temperatures():
    logits = torch.randn(50, 999, generator=torch.Generator().manual_seed(3))
    greedy = TokenDraw(0.0)(logits, uniforms(50))
    assert (greedy == logits.argmax(1)).all()
    assert (TokenDraw(1e-30)(logits, uniforms(50)) == greedy).all()
    assert (TokenDraw(1e-30, top_k=7, top_p=0.5)(logits, uniforms(50)) == greedy).all()


def test_extreme_uniforms_draw_tokens_with_probability():
    logits = torch.full((2, 520), -torch.inf)
    logits[:, [3, 300, 511]] = torch.tensor([0.0, -20.0, 1.0])
    ends = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    assert TokenDraw()(logits, ends).tolist() == [3, 511]
    assert TokenDraw(top_k=3)(logits, ends).tolist() == [511, 300]  # likeliest first


def test_a_position_does_not_depend_on_the_others():
    logits, u = torch.randn(40, 5000), uniforms(40)
    for take in (TokenDraw(), TokenDraw(0.7, top_k=9), TokenDraw(top_p=0.4)):
        whole = take(logits, u)
        assert (torch.cat([take(logits[i : i + 1], u[i : i + 1]) for i in range(40)]) == whole).all()
        back = torch.arange(39, -1, -1)
        assert (take(logits[back], u[back])[back] == whole).all()


def test_chunks_change_nothing(monkeypatch):
    logits, u = torch.randn(33, 700), uniforms(33)
    for take in (TokenDraw(), TokenDraw(top_p=0.8)):
        whole = take(logits, u)
        monkeypatch.setattr(room, "CHUNK", 1500)
        assert (take(logits, u) == whole).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("take", [TokenDraw(), TokenDraw(0.0), TokenDraw(top_k=2), TokenDraw(0.5, top_p=0.5)], ids=str)
def test_logits_that_are_not_finite_are_refused(take, bad):
    logits = torch.zeros(4, 10)
    logits[2, 5] = bad
    with pytest.raises(InputError, match="NAN_LOGITS"):
        take(logits, uniforms(4))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.5}, {"top_p": float("nan")}]
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TokenDraw(**wrong)


def test_no_positions_no_tokens():
    for take in (TokenDraw(), TokenDraw(0.0), TokenDraw(top_k=2, top_p=0.5)):
        assert take(torch.zeros(0, 7), uniforms(0)).shape == (0,)
