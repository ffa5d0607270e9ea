"""Every WKV kernel against the float64 recurrence, and the recurrence against dense matrices."""

from __future__ import annotations

import itertools
import sys
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lgdlm.models.wkv import CHOICES, KERNELS, LONGEST, chosen_kernel, wkv
from lgdlm.models.wkv.fla import by_triton, fla_present

TOLERANCE = 5e-6  # of the largest entry, float32 against float64
FAST = [name for name in KERNELS if name != "recurrence"]
NAMES = ("y", "final state", "r", "log_w", "k", "v", "a", "b", "initial state")
MOST = torch.exp(torch.tensor(-0.5, dtype=torch.float64))


def inputs(B: int, N: int, G: int, K: int, decay: str = "mixed", repeated: bool = False, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Float64 (r, log_w, k, v, a, b) as RWKV-7 makes them, and an initial state.

    `least`: every decay is 0.545, the fastest there is; `none`: hardly any decay. `repeated`: nearly one key throughout
    with a learning rate near 1, so that (I - A) is far from I and the powers of A explode.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shape = (B, N, G, K)
    kk = F.normalize(0.1 * normal(*shape) + 8 * normal(1, 1, G, K) if repeated else normal(*shape), dim=-1)
    rate = torch.full_like(kk, 0.98) if repeated else torch.sigmoid(normal(*shape))
    log_w = {
        "mixed": -MOST * torch.sigmoid(2 * normal(*shape) - 2),
        "least": -MOST * torch.ones(shape, dtype=torch.float64),
        "none": -1e-5 * torch.rand(shape, generator=g, dtype=torch.float64),
    }[decay]
    return [normal(*shape), log_w, 0.5 * normal(*shape), normal(*shape), -kk, kk * rate], 0.3 * normal(B, G, K, K)


def values_and_gradients(kernel: str, arguments: list[Tensor], state: Tensor | None, dtype: torch.dtype, **options: object) -> list[Tensor]:
    """y, the final state and the gradient of one random projection of both with respect to every input."""
    leaves = [x.to(dtype).requires_grad_() for x in (*arguments, *(() if state is None else (state,)))]
    y, S = KERNELS[kernel](*leaves[:6], None if state is None else leaves[6], **options)
    g = torch.Generator().manual_seed(1)
    score = sum((x * torch.randn(x.shape, generator=g, dtype=torch.float64).to(x)).sum() for x in (y, S))
    return [y.detach(), S.detach(), *torch.autograd.grad(score, leaves)]


def assert_close(answer: list[Tensor], reference: list[Tensor], tolerance: float) -> None:
    assert len(answer) == len(reference)
    least = 0.1 * max(float(y.abs().max()) for y in reference)  # one token and no state: no decay to learn, its gradient is rounding
    for name, x, y in zip(NAMES, answer, reference, strict=False):
        error = float((x.double() - y).abs().max() / y.abs().max().clamp(min=least))
        assert error <= tolerance, f"{name}: {error:.2e}"


def test_the_recurrence_is_a_product_of_dense_matrices() -> None:
    (r, log_w, k, v, a, b), S = inputs(1, 5, 1, 4)
    y, final = KERNELS["recurrence"](r, log_w, k, v, a, b, S)
    state = S[0, 0]
    for t in range(5):
        transition = torch.diag(log_w[0, t, 0].exp()) + torch.outer(a[0, t, 0], b[0, t, 0])
        state = state @ transition + torch.outer(v[0, t, 0], k[0, t, 0])
        torch.testing.assert_close(y[0, t, 0], state @ r[0, t, 0])
    torch.testing.assert_close(final[0, 0], state)


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("decay", "repeated"), itertools.product(["mixed", "least", "none"], [False, True]))
def test_float32_error_of_values_and_all_gradients(kernel: str, decay: str, repeated: bool, reverse: bool) -> None:
    arguments, state = inputs(2, 75, 1, 64, decay, repeated)  # 75 is no multiple of the chunk
    reference = values_and_gradients("recurrence", arguments, state, torch.float64, reverse=reverse)
    assert_close(values_and_gradients(kernel, arguments, state, torch.float32, reverse=reverse), reference, TOLERANCE)


@pytest.mark.parametrize("kernel", FAST)
@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 3), N=st.integers(1, 40), G=st.integers(1, 2), K=st.sampled_from([1, 4, 7]), chunk=st.sampled_from([1, 3, 8, 32, 128]),
    with_state=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_equals_the_recurrence(
    kernel: str, B: int, N: int, G: int, K: int, chunk: int, with_state: bool, reverse: bool, seed: int
) -> None:
    arguments, state = inputs(B, N, G, K, seed=seed)
    start = state if with_state else None
    reference = values_and_gradients("recurrence", arguments, start, torch.float64, reverse=reverse)
    assert_close(values_and_gradients(kernel, arguments, start, torch.float64, chunk=chunk, reverse=reverse), reference, 1e-11)


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 3), N=st.sampled_from([1, 2, 15, 16, 17, 33, 48]), G=st.integers(1, 2),
    K=st.sampled_from([1, 7, 16, 24, 64, 65, 128, 130]), decay=st.sampled_from(["mixed", "least", "none"]),
    repeated=st.booleans(), with_state=st.booleans(), reverse=st.booleans(),
)  # fmt: skip
def test_native_in_float32_at_any_width(
    B: int, N: int, G: int, K: int, decay: str, repeated: bool, with_state: bool, reverse: bool
) -> None:
    arguments, state = inputs(B, N, G, K, decay, repeated)
    start = state if with_state else None
    reference = values_and_gradients("recurrence", arguments, start, torch.float64, reverse=reverse)
    assert_close(values_and_gradients("native", arguments, start, torch.float32, reverse=reverse), reference, TOLERANCE)


@pytest.mark.parametrize("kernel", FAST)
def test_gradients_of_what_is_linear(kernel: str) -> None:
    """y and S are linear in r, in (v, S_0) and in (k, S_0): so <x, dx> summed over such a set is the part of the score it enters."""
    arguments, state = inputs(2, 50, 2, 64)
    leaves = [x.float().requires_grad_() for x in (*arguments, state)]
    y, S = KERNELS[kernel](*leaves)
    of_y, of_S = ((x * torch.randn(x.shape, generator=torch.Generator().manual_seed(i))).sum() for i, x in enumerate((y, S)))
    dr, _, dk, dv, _, _, dS = torch.autograd.grad(of_y + of_S, leaves)
    r, _, k, v, _, _, start = leaves
    scale = float((v * dv).detach().abs().sum())
    from_start = (start * dS).sum()
    for found, expected in (((r * dr).sum(), of_y), ((v * dv).sum() + from_start, of_y + of_S), ((k * dk).sum() + from_start, of_y + of_S)):
        assert float((found - expected).detach().abs()) <= 1e-6 * scale


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_of_the_answers_may_be_unused(kernel: str) -> None:
    arguments, state = inputs(1, 20, 1, 8)
    for part in (0, 1):
        leaves = [x.clone().float().requires_grad_() for x in (*arguments, state)]
        exact = [x.clone().requires_grad_() for x in (*arguments, state)]
        found = torch.autograd.grad(KERNELS[kernel](*leaves)[part].square().sum(), leaves, allow_unused=True)
        expected = torch.autograd.grad(KERNELS["recurrence"](*exact)[part].square().sum(), exact, allow_unused=True)
        for leaf, x, y in zip(leaves, found, expected, strict=True):
            nothing = torch.zeros_like(leaf)
            torch.testing.assert_close(nothing if x is None else x, nothing if y is None else y.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_strides_do_not_matter(kernel: str) -> None:
    arguments, state = inputs(2, 19, 2, 8)
    packed = torch.stack([x.transpose(1, 2).float() for x in arguments])
    loose = [x.transpose(1, 2) for x in packed]
    assert not loose[0].is_contiguous()
    start = state.float().mT.contiguous().mT
    for found, expected in zip(
        KERNELS[kernel](*loose, start), KERNELS[kernel](*(x.float() for x in arguments), state.float()), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_token_without_decay_and_writing_leaves_the_state(kernel: str, reverse: bool) -> None:
    """As padding is made: the state after 40 tokens, 9 of them empty, is that of the other 31; y at an empty token reads it."""
    arguments, state = inputs(2, 31, 1, 16)
    r, log_w, k, v, a, b = (torch.cat([x[:, :13], torch.zeros_like(x[:, :9]), x[:, 13:]], dim=1).float() for x in arguments)
    v[:, 13:22] = 1e3
    y, S = KERNELS[kernel](r, log_w, k, v, a, b, state.float(), reverse=reverse)
    without, S_without = KERNELS[kernel](*(x.float() for x in arguments), state.float(), reverse=reverse)
    torch.testing.assert_close(S, S_without, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([y[:, :13], y[:, 22:]], dim=1), without, atol=1e-5, rtol=1e-5)


def test_a_decay_of_any_strength_is_exact_in_the_native_kernel() -> None:
    """The chunked form is bound to what a chunk's decay can be; a recurrence is not."""
    arguments, state = inputs(1, 40, 1, 16)
    arguments[1] = arguments[1] * torch.tensor([1.0, 30.0, 300.0, 0.0]).repeat(10)[None, :, None, None]
    reference = values_and_gradients("recurrence", arguments, state, torch.float64)
    if chosen_kernel("native") == "native":
        assert_close(values_and_gradients("native", arguments, state, torch.float32), reference, TOLERANCE)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package `fla` with the call that we make of it, by the recurrence, and with its warnings; the test may add one."""
    said = [
        "ChunkDeltaRuleFunction does not support float32 on some platforms.",
        "Input tensor shape suggests potential format mismatch: 3",
    ]

    def chunk_rwkv7(
        *, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float, initial_state: Tensor, output_final_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert scale == 1.0
        assert all(x.is_contiguous() for x in (r, w, k, v, a, b, initial_state))
        for words in said:
            warnings.warn(words, RuntimeWarning, stacklevel=2)
        y, after = KERNELS["recurrence"](r, w, k, v, a, b, initial_state.mT, final_state=output_final_state)
        return y, None if after is None else after.mT

    module = types.ModuleType("fla.ops.rwkv7")
    module.chunk_rwkv7 = chunk_rwkv7  # type: ignore[attr-defined]
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.rwkv7", module)
    return said


@pytest.mark.parametrize("reverse", [False, True])
def test_the_call_of_fla_is_the_recurrence_and_quiet_about_what_is_meant(stand_in: list[str], reverse: bool) -> None:
    """Its layout of states, its direction, and its two warnings, which are errors here; any other warning is heard."""
    arguments, state = inputs(2, 5, 8, 4)
    y, after = by_triton(*arguments, state, reverse, True)
    expected, last = KERNELS["recurrence"](*arguments, state, reverse=reverse)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(after, last)
    assert by_triton(*arguments, state, reverse, False)[1] is None
    stand_in.append("another one")
    with pytest.warns(RuntimeWarning, match="another one"):
        by_triton(*arguments, state, reverse, True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_single_token_is_left_to_the_recurrence_by_what_works_in_chunks(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, run in dict(KERNELS).items():
        monkeypatch.setitem(KERNELS, name, lambda *given, _name=name, _run=run, **more: (called.append(_name), _run(*given, **more))[1])
    monkeypatch.setattr("lgdlm.models.wkv.PRESENT", {})
    for length in (1, 2):
        arguments, state = inputs(1, length, 2, 4)
        wkv(*arguments, state, kernel=kernel)
    assert called == ["recurrence" if kernel in ("chunked", "fla") else kernel, kernel]


@pytest.mark.skipif(not fla_present(), reason="no GPU with flash-linear-attention")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("decay", "repeated"), itertools.product(["mixed", "least", "none"], [False, True]))
def test_fla_on_a_gpu(decay: str, repeated: bool, reverse: bool) -> None:
    """Triton multiplies float32 in reduced precision: a thousandth of the largest entry."""
    arguments, state = inputs(2, 200, 2, 64, decay, repeated)
    reference = values_and_gradients("recurrence", arguments, state, torch.float64, reverse=reverse)
    on_gpu = [x.cuda() for x in arguments]
    answer = values_and_gradients("fla", on_gpu, state.cuda(), torch.float32, reverse=reverse)
    assert_close([x.cpu() for x in answer], reference, 1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_reverse_is_the_flipped_reading(kernel: str, reverse: bool) -> None:
    arguments, state = inputs(2, 21, 2, 8)
    y, S = KERNELS[kernel](*arguments, state, reverse=reverse)
    flipped, S_flipped = KERNELS[kernel](*(x.flip(1) for x in arguments), state, reverse=not reverse)
    torch.testing.assert_close(y, flipped.flip(1))
    torch.testing.assert_close(S, S_flipped)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_text_in_two_pieces_is_the_whole_text(kernel: str, reverse: bool) -> None:
    arguments, state = inputs(2, 50, 2, 8)
    whole, S = KERNELS[kernel](*arguments, state, chunk=8, reverse=reverse)
    pieces = [[x[:, :19] for x in arguments], [x[:, 19:] for x in arguments]]
    answers: dict[int, Tensor] = {}
    for i in (1, 0) if reverse else (0, 1):
        answers[i], state = KERNELS[kernel](*pieces[i], state, chunk=8, reverse=reverse)
    torch.testing.assert_close(torch.cat([answers[0], answers[1]], dim=1), whole)
    torch.testing.assert_close(state, S)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("N", [12, 40])
def test_without_the_final_state_the_answer_is_the_same(kernel: str, N: int) -> None:
    arguments, _ = inputs(2, N, 2, 8)
    y, S = KERNELS[kernel](*arguments)
    bare, none = KERNELS[kernel](*arguments, final_state=False)
    torch.testing.assert_close(bare, y)
    assert S is not None
    assert none is None


@pytest.mark.parametrize("kernel", CHOICES)
def test_autocast_and_half_precision_do_not_reach_the_sum(kernel: str) -> None:
    arguments, state = inputs(2, 40, 2, 16)
    half, start = [x.bfloat16() for x in arguments], state.float()
    expected, S = wkv(*(x.float() for x in half), start, kernel=kernel)
    with torch.autocast("cpu", torch.bfloat16):
        y, S_cast = wkv(*half, start, kernel=kernel)
    assert y.dtype == S_cast.dtype == torch.float32
    assert torch.equal(y, expected)
    assert torch.equal(S_cast, S)


@pytest.mark.parametrize("N", [1, 2, 33])
def test_auto_equals_its_choice(N: int) -> None:
    arguments, state = inputs(1, N, 1, 4)
    torch.testing.assert_close(wkv(*arguments, state), KERNELS["recurrence"](*arguments, state))


@pytest.mark.parametrize("chunk", [0, LONGEST + 1])
def test_a_chunk_out_of_range_is_refused(chunk: int) -> None:
    arguments, _ = inputs(1, 4, 1, 4)
    with pytest.raises(ValueError, match=f"chunk {chunk}"):
        KERNELS["chunked"](*arguments, chunk=chunk)


def test_the_longest_chunk_is_finite_at_the_fastest_decay() -> None:
    arguments, state = inputs(1, LONGEST, 1, 4, decay="least")
    for x in values_and_gradients("chunked", arguments, state, torch.float32, chunk=LONGEST):
        assert torch.isfinite(x).all()
