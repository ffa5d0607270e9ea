"""The compiled passes and the compiled time mix against the plain PyTorch forms that stand in for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lgdlm.models.rwkv7 import RWKV7
from lgdlm.models.time_mix import Signals, TimeMix
from lgdlm.models.wkv import passes
from lgdlm.models.wkv.mix import can_mix
from lgdlm.models.wkv.shared_library import library

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler")

EXACT = 1e-5  # of the largest entry, float32 against the plain form in float64
ROUNDED = 2e-2  # bfloat16: one unit of its last place is 2^-8
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(2, 70, 48), (1, 1, 16), (3, 130, 7), (1, 64, 100)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 31 * len(shape)))


def same(compiled: Callable[..., Any], plain: Callable[..., Any], tensors: list[Tensor], tolerance: float) -> None:
    """Values and all gradients of the compiled form, in the tensors' dtypes, against the plain one in float64."""
    results = []
    for function, leaves in ((compiled, [x.clone() for x in tensors]), (plain, [x.double() for x in tensors])):
        leaves = [x.requires_grad_() for x in leaves]
        answer = function(*leaves)
        answers = [x for x in (answer if isinstance(answer, tuple) else (answer,)) if x is not None]
        score = sum((x.double() * normal(*x.shape, seed=9).double()).sum() for x in answers)
        results.append([*answers, *torch.autograd.grad(score, leaves)])
    least = 1e-2 * max(float(y.detach().abs().max()) for y in results[1])  # a gradient of zero is compared with the others' size
    for i, (x, y) in enumerate(zip(*results, strict=True)):
        error = float((x.double() - y).detach().abs().max() / y.detach().abs().max().clamp(min=least))
        assert error <= tolerance, f"number {i}: {error:.1e}"
    for x, leaf in zip(results[0][-len(tensors) :], tensors, strict=True):
        assert x.dtype == leaf.dtype


def tolerance(dtype: torch.dtype) -> float:
    return EXACT if dtype == torch.float32 else ROUNDED


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("reverse", "span", "remembers"), [(False, None, False), (False, None, True), (True, None, False), (True, 5, False), (False, 64, False)]
)
def test_shift(dtype: torch.dtype, shape: tuple[int, int, int], reverse: bool, span: int | None, remembers: bool) -> None:
    B, N, H = shape
    tensors = [normal(B, N, H).to(dtype), *(normal(1, 1, H, seed=i) for i in range(3)), *([normal(B, H).to(dtype)] if remembers else [])]

    def run(compiled: bool) -> Callable[..., Any]:
        return lambda x, *rest: passes.shift(x, rest[:3], rest[3] if remembers else None, reverse, span, compiled=compiled)

    same(run(True), run(False), tensors, tolerance(dtype))


@pytest.mark.parametrize(("x_dtype", "dtype"), itertools.product(DTYPES, DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("each_row", "padded"), itertools.product([False, True], [False, True]))
def test_norm(x_dtype: torch.dtype, dtype: torch.dtype, shape: tuple[int, int, int], each_row: bool, padded: bool) -> None:
    B, N, H = shape
    rows = (B, 1, H) if each_row else (H,)
    real = (torch.arange(N) < torch.arange(N, N - B, -1)[:, None]) if padded else None
    tensors = [(3 + normal(B, N, H)).to(x_dtype), normal(*rows), normal(*rows, seed=1)]

    def compiled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return passes.norm(x, weight, bias, 1e-5, real, dtype)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return passes.norm(x, weight, bias, 1e-5, real, torch.float64, compiled=False)

    assert compiled(*tensors).dtype == dtype
    same(compiled, plain, tensors, max(tolerance(dtype), tolerance(x_dtype)))


@pytest.mark.parametrize(("x_dtype", "dtype"), itertools.product(DTYPES, DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [False, True])
def test_add(x_dtype: torch.dtype, dtype: torch.dtype, shape: tuple[int, int, int], gated: bool) -> None:
    B, N, H = shape
    tensors = [normal(B, N, H).to(x_dtype), normal(B, N, H, seed=1).to(dtype), *([normal(B, 1, H)] if gated else [])]
    assert passes.add(*tensors).dtype == x_dtype
    same(passes.add, lambda *t: passes.add(*t, compiled=False), tensors, max(tolerance(dtype), tolerance(x_dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 40000)])
def test_squared_relu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    same(passes.squared_relu, lambda x: passes.squared_relu(x, compiled=False), [normal(*shape).to(dtype)], tolerance(dtype))


def test_what_is_not_a_number_stays_so() -> None:
    for dtype in DTYPES:
        x = torch.tensor([[[1.0, float("nan"), -1.0, float("inf")]]], dtype=dtype)
        assert torch.equal(passes.squared_relu(x).isnan(), x.isnan())
        assert torch.equal(passes.add(x, torch.zeros_like(x)).isnan(), x.isnan())


def mix_inputs(
    B: int, N: int, G: int, K: int, layer: int, dtype: torch.dtype, padded: bool, with_state: bool
) -> tuple[TimeMix, Signals, Any]:
    H = G * K
    module = TimeMix(H, layer, 2, head_size=K, zero_init=False)
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.add_(0.3 * normal(*p.shape, seed=i))
    raw = [normal(B, N, H, seed=i).to(dtype) for i in range(8 if layer else 6)]
    real = (torch.arange(N) < torch.arange(N, N - B, -1).clamp(min=1)[:, None]) if padded else None
    return module, Signals(*raw, *([] if layer else [None, None]), real), 0.3 * normal(B, G, K, K) if with_state else None


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3), N=st.sampled_from([1, 2, 15, 16, 17, 40]), G=st.integers(1, 2), K=st.sampled_from([4, 8, 64]),
    layer=st.integers(0, 1), padded=st.booleans(), with_state=st.booleans(), reverse=st.booleans(),
)  # fmt: skip
def test_the_time_mix(
    dtype: torch.dtype, B: int, N: int, G: int, K: int, layer: int, padded: bool, with_state: bool, reverse: bool
) -> None:
    """Of all signals, the state and every parameter, against the plain form in float64."""
    module, s, S = mix_inputs(B, N, G, K, layer, dtype, padded, with_state)
    tensors = [x for x in (*s[:8], S) if x is not None]
    results = []
    for exact in (False, True):
        module = module.double() if exact else module.float()
        leaves = [(x.double() if exact else x.clone()).requires_grad_() for x in tensors]
        rest = iter(leaves)
        again = Signals(*(None if x is None else next(rest) for x in s[:8]), s.real)
        state = next(rest, None)
        out, after = module.recall(again, state, reverse, True, "recurrence" if exact else "native", 32)
        learned = [module.w0, module.a0, module.k_k, module.k_a, module.r_k, *module.ln_x.parameters(), *([module.v0] if layer else [])]
        score = (out.double() * normal(*out.shape, seed=3).double()).sum() + (after.double() * normal(*after.shape, seed=4).double()).sum()
        results.append([out, after, *torch.autograd.grad(score, [*leaves, *learned])])
    least = 1e-2 * max(float(y.detach().abs().max()) for y in results[1])
    for i, (x, y) in enumerate(zip(*results, strict=True)):
        error = float((x.double() - y).detach().abs().max() / y.detach().abs().max().clamp(min=least))
        assert error <= (2e-5 if dtype == torch.float32 else ROUNDED), f"number {i}: {error:.1e}"


def test_the_time_mix_takes_what_it_can_and_leaves_the_rest() -> None:
    module, s, S = mix_inputs(1, 4, 1, 8, 1, torch.float32, False, True)
    parameters = torch.zeros(8, 1, 8)
    assert can_mix(s[:8], parameters, S)
    assert not can_mix(s.each(Tensor.double)[:8], parameters, S)
    assert not can_mix((s.r.bfloat16(), *s[1:8]), parameters, S)
    assert not can_mix(s[:8], parameters, S.double())
    assert not can_mix(s[:8], torch.zeros(8, 1, 129), S)


@pytest.mark.parametrize(
    "options", [{}, {"fusion": "gated"}, {"fusion": "sum", "share": True, "conditioning": "film"}, {"conditioning": "adaln_zero"}]
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_stack_compiled_is_the_plain_stack(options: dict[str, Any], padded: bool) -> None:
    """Outputs, states and the gradients of all parameters, float32 against float32."""
    torch.manual_seed(0)
    plain = RWKV7(32, 2, head_size=8, zero_init=False, kernel="recurrence", **options)
    compiled = RWKV7(32, 2, head_size=8, zero_init=False, kernel="native", **options)
    with torch.no_grad():
        for i, p in enumerate(plain.parameters()):
            p.add_(0.1 * normal(*p.shape, seed=i))
    compiled.load_state_dict(plain.state_dict())
    mask = torch.arange(21) < torch.tensor([21, 9])[:, None] if padded else None
    cond = normal(2, 32) if "conditioning" in options else None
    results = []
    for net in (plain, compiled):
        x = normal(2, 21, 32).requires_grad_()
        y, state = net(x, cond=cond, mask=mask)
        real = y if mask is None else y * mask[..., None]
        score = (real * normal(2, 21, 32, seed=2)).sum() + sum(layer.wkv.sum() for layer in state.layers)
        gradients = torch.autograd.grad(score, [x, *net.parameters()])
        results.append({"y": real, "dx": gradients[0], **dict(zip((n for n, _ in net.named_parameters()), gradients[1:], strict=True))})
        results[-1].update({f"state {i}": layer.wkv for i, layer in enumerate(state.layers)})
    for name, y in results[0].items():
        error = float((results[1][name] - y).detach().abs().max() / y.detach().abs().max().clamp(min=1e-2))
        assert error <= EXACT, f"{name}: {error:.1e}"


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    net, x = RWKV7(32, 2, head_size=8, zero_init=False, fusion="gated", kernel="native"), normal(3, 150, 32)
    answers = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            net.zero_grad()
            y, _ = net(x)
            y.square().sum().backward()
            own = [p.grad for n, p in net.named_parameters() if n.rsplit(".", 1)[-1] in ("x_r", "w0", "k_k", "r_k")]
            answers.append([y.detach(), *own])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*answers, strict=True):
        torch.testing.assert_close(one, two)
