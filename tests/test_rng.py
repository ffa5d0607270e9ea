"""Counter-based randomness: the published generator, uniform and normal draws, streams that know nothing of each other."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import WORD, splitmix64, star_discrepancy

from lgdlm.rng import Rng

GOLDEN = 0x9E3779B97F4A7C15
PURPOSES = ("text noise", "latent noise", "text reveal", "text remask", "latent step", "latent prior", "dropped latent") + (
    "condition dropout",
    "text time",
    "latent time",
)
GOLDEN_UNIFORM = [[0.8288929023375758, 0.13163138829241017], [0.5504438405394908, 0.29254529867917]]
GOLDEN_SHARED = 0.29486208617978493
GOLDEN_NORMAL = [0.2740432815486295, -0.3179079216293056, 2.3388260402374903]


def word(seed: int, step: int, row: int, purpose: str, i: int, fold: int | None = None) -> int:
    """Draw `i` of a row as 64 bits, in Python integers, from the equation on the module's first page."""
    key = splitmix64((seed * GOLDEN + 1) & WORD)
    key = splitmix64((key + step) & WORD)
    key = splitmix64((key + (row + 1) * GOLDEN) & WORD)
    if fold is not None:
        key = splitmix64((key + (fold + 1) * 0xD1B54A32D192ED03) & WORD)
    key = splitmix64((key + zlib.crc32(purpose.encode()) * 0xA0761D6478BD642F) & WORD)
    return splitmix64((key + (i + 1) * GOLDEN) & WORD)


def rng(rows: int = 4, seed: int = 7, step: int = 3) -> Rng:
    return Rng(seed, step, torch.arange(rows))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_splitmix64_is_the_published_one():
    # the reference sequence of the generator seeded with 1234567
    assert [splitmix64((1234567 + (i + 1) * GOLDEN) & WORD) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(
    seed=st.integers(0, 2**63),
    step=st.integers(0, 2**40),
    row=st.integers(0, 2**40),
    purpose=st.text(max_size=20),
    fold=st.none() | st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_draws_follow_the_equation(seed, step, row, purpose, fold):
    source = Rng(seed, step, torch.tensor([row]))
    source = source if fold is None else source.fold(fold)
    expected = [((word(seed, step, row, purpose, i, fold) >> 12) + 0.5) * 2.0**-52 for i in range(3)]
    assert source.uniform(purpose, 3)[0].tolist() == expected


def test_golden_values():
    """These numbers are part of every checkpoint's meaning: if they change, old runs no longer resume bit for bit."""
    u = Rng(0, 0, torch.tensor([0, 1])).uniform("text noise", 2)
    assert u.tolist() == GOLDEN_UNIFORM
    assert float(Rng(0, 0, torch.tensor([0])).shared("text time")) == GOLDEN_SHARED
    normal = Rng(42, 1000, torch.tensor([5])).fold(3).normal("latent step", 3, dtype=torch.float64)
    assert normal[0].tolist() == pytest.approx(GOLDEN_NORMAL, abs=1e-14)  # cos and log may differ in the last bit between machines


def test_uniform_is_uniform():
    u = rng(2000).uniform("text noise", 100).flatten().numpy()
    n = len(u)
    assert star_discrepancy(u) < 2.0 / math.sqrt(n)  # Kolmogorov: exceeded with probability 2 exp(-8)
    for low_bits in (u * 2**20 % 1, u * 2**40 % 1):  # not only the leading digits
        assert star_discrepancy(low_bits) < 2.0 / math.sqrt(n)
    counts = np.bincount((u * 64).astype(int), minlength=64)
    chi2 = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)


def test_uniform_never_reaches_its_ends(monkeypatch):
    ends = torch.tensor([[0], [-1]])  # all bits 0, all bits 1
    monkeypatch.setattr(Rng, "_bits", lambda self, keys, purpose, count: ends)
    u = rng(2).uniform("text noise", 1)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert u.log().isfinite().all()
    assert (-u).log1p().isfinite().all()


def test_normal_moments_and_tails():
    x = rng(2000).normal("latent noise", 101, dtype=torch.float64).flatten()  # 101: an odd count cuts one of a pair
    n = len(x)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float(x.pow(power).mean()) == pytest.approx(moment, abs=5 * math.sqrt(spread / n)), power
    cdf = (0.5 * (1 + torch.erf(x / math.sqrt(2)))).numpy()
    assert star_discrepancy(cdf) < 2.0 / math.sqrt(n)
    assert 4.0 < float(x.abs().max()) < 6.5


def test_the_two_halves_of_box_muller_are_independent():
    x = rng(20000).normal("latent noise", 2, dtype=torch.float64)
    assert abs(correlation(x[:, 0], x[:, 1])) < 5 / math.sqrt(20000)
    assert abs(correlation(x[:, 0] ** 2, x[:, 1] ** 2)) < 5 / math.sqrt(20000)


def test_normal_is_handed_out_in_the_dtype_asked_for():
    exact = rng().normal("latent noise", 8, dtype=torch.float64)
    assert rng().normal("latent noise", 8).dtype == torch.float32
    assert torch.equal(rng().normal("latent noise", 8), exact.float())


@pytest.mark.parametrize("draw", ["uniform", "normal"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_shapes(draw, shape):
    assert getattr(rng(4), draw)("text noise", *shape).shape == (4, *shape)
    assert getattr(rng(0), draw)("text noise", *shape).shape == (0, *shape)


def test_purposes_rows_steps_seeds_and_folds_are_independent_streams():
    rows, width = 500, 80
    here = rng(rows)
    base = here.uniform("text noise", width)
    limit = 5 / math.sqrt(rows * width)
    others = {purpose: here.uniform(purpose, width) for purpose in PURPOSES if purpose != "text noise"}
    others |= {"next row": Rng(7, 3, torch.arange(1, rows + 1)).uniform("text noise", width)}
    others |= {"next step": rng(rows, step=4).uniform("text noise", width), "next seed": rng(rows, seed=8).uniform("text noise", width)}
    others |= {f"fold {c}": here.fold(c).uniform("text noise", width) for c in (0, 1, 2)}
    for name, draws in others.items():
        assert not torch.equal(draws, base), name
        assert abs(correlation(base, draws)) < limit, name
    assert abs(correlation(base[:, :-1], base[:, 1:])) < limit, "along a row"
    distinct = torch.stack([base, *others.values()])
    assert distinct.unique().numel() >= distinct.numel() - rows * width, "no stream is a copy of another but the rows moved by one"


def test_moving_a_step_or_a_row_is_not_moving_along_the_same_stream():
    """Keys that were added and not mixed would make row r at step s equal row r - 1 at step s + 1."""
    sources = [rng(8, step=step) for step in range(8)] + [rng(8).fold(counter) for counter in range(8)]
    draws = torch.stack([source.uniform("text noise", 8) for source in sources])
    assert draws.unique().numel() == draws.numel()


def test_purposes_in_use_have_different_keys():
    assert len({zlib.crc32(purpose.encode()) for purpose in PURPOSES}) == len(PURPOSES)


@given(rows=st.lists(st.integers(0, 1000), min_size=1, max_size=8), where=st.data())
@settings(max_examples=30, deadline=None)
def test_a_rows_draws_do_not_know_the_batch(rows, where):
    batch = Rng(1, 2, torch.tensor(rows))
    k = where.draw(st.integers(0, len(rows) - 1))
    alone = Rng(1, 2, torch.tensor([rows[k]]))
    chosen = batch.select(torch.tensor([k]))
    for draw in ("uniform", "normal"):
        expected = getattr(batch, draw)("latent noise", 5)[k]
        assert torch.equal(getattr(alone, draw)("latent noise", 5)[0], expected)
        assert torch.equal(getattr(chosen, draw)("latent noise", 5)[0], expected)
        assert torch.equal(getattr(alone.fold(9), draw)("latent noise", 5), getattr(chosen.fold(9), draw)("latent noise", 5))
    assert torch.equal(alone.stratified("text time"), batch.stratified("text time")[k : k + 1])


def test_select_takes_a_mask_too():
    keep = torch.tensor([True, False, True, False])
    chosen = rng(4).select(keep)
    assert chosen.rows.tolist() == [0, 2]
    assert torch.equal(chosen.uniform("text noise", 3), rng(4).uniform("text noise", 3)[keep])


def test_more_columns_begin_with_the_same_draws():
    """A longer padded row keeps the draws of its first tokens, so bucketing does not change the noise."""
    assert torch.equal(rng().uniform("text noise", 20)[:, :7], rng().uniform("text noise", 7))


def test_drawing_leaves_no_trace():
    source, state = rng(), torch.random.get_rng_state()
    first = source.uniform("text noise", 4)
    source.normal("latent noise", 4)
    source.fold(1).uniform("text noise", 4)
    assert torch.equal(source.uniform("text noise", 4), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_folds_do_not_commute_and_do_not_add():
    a = rng().fold(1).fold(2).uniform("text noise", 4)
    assert not torch.equal(a, rng().fold(2).fold(1).uniform("text noise", 4))
    assert not torch.equal(a, rng().fold(3).uniform("text noise", 4))


def test_shared_is_one_number_per_step_and_uniform_over_steps():
    assert float(rng(3).shared("text time")) == float(Rng(7, 3, torch.tensor([99])).shared("text time"))
    u = np.array([float(rng(1, step=step).shared("text time")) for step in range(2000)])
    assert star_discrepancy(u) < 2.0 / math.sqrt(len(u))
    folded = rng(1).fold(1).shared("text time")
    assert float(folded) != float(rng(1).shared("text time"))


def test_stratified_is_uniform_for_every_single_row():
    for row in (0, 1, 17):
        u = np.array([float(Rng(7, step, torch.tensor([row])).stratified("text time")[0]) for step in range(2000)])
        assert star_discrepancy(u) < 2.0 / math.sqrt(len(u)), row


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [8, 32, 64, 250, 512])
@pytest.mark.parametrize("first", [0, 1000, 10**9])
def test_stratified_covers_the_interval_with_any_run_of_rows(axis, size, first):
    u = Rng(7, 3, torch.arange(first, first + size)).stratified("text time", axis).numpy()
    assert u.min() > 0
    assert u.max() < 1
    assert star_discrepancy(u) < 6.0 / size  # independent draws: about 0.87 / sqrt(size), which is 12 / size at 200
    strata = np.bincount((u * (size // 4)).astype(int), minlength=size // 4)
    assert strata.min() >= 1, "every stratum of four expected points is visited"
    assert strata.max() <= 8


def test_stratified_stays_inside_the_open_interval(monkeypatch):
    for offset in (0.0, 2.0**-60, 1 - 2.0**-53):
        monkeypatch.setattr(Rng, "shared", lambda self, purpose, offset=offset: torch.tensor(offset, dtype=torch.float64))
        u = rng(1).stratified("text time")
        assert 0 < float(u) < 1


@pytest.mark.parametrize("size", [64, 256])
def test_two_axes_cover_the_square_and_one_axis_twice_does_not(size):
    source = rng(size)
    pair = np.stack([source.stratified("text time", 0), source.stratified("latent time", 1)], axis=1)
    independent = [star_discrepancy(np.random.default_rng(seed).random((size, 2))) for seed in range(20)]
    assert star_discrepancy(pair) < min(independent)
    assert star_discrepancy(pair) < 0.6 * np.mean(independent)
    same_axis = np.stack([source.stratified("text time", 0), source.stratified("latent time", 0)], axis=1)
    assert star_discrepancy(same_axis) > np.mean(independent)
