"""Where a training step of RWKV-7 spends its time, and three ways to do what surrounds its matrix products.

    python benchmarks/rwkv_profile.py [--rounds 5 --only step passes]

    step     shares of one training step, both ways, 16 texts of 512 tokens, width 384, 4 blocks, in float32 and in bf16: self time
             by kind of operation as torch's profiler counts it
    passes   forward and backward of each elementwise pass of a block: plain PyTorch, the same under torch.compile, and the C++
             file; one line each, in turns, the minimum of all rounds

`mix` is all of the time mix behind its products: signals, recurrence, group norm, bonus, gate. Its plain form calls the C++ recurrence
and does the rest in PyTorch, so the row shows what the fusing alone gives. torch.compile cannot look into that recurrence and compiles
what is before and behind it.
"""

from __future__ import annotations

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded

import argparse
import functools
from collections import Counter
from collections.abc import Callable

import torch
from _rounds import fastest
from rwkv_step import RWKV_BLOCKS, WIDTH, RWKVStack, stepper
from torch import Tensor

from lgdlm.models import time_mix
from lgdlm.models.time_mix import Signals, TimeMix
from lgdlm.models.wkv import chosen_kernel, wkv
from lgdlm.models.wkv.passes import add, norm, shift, squared_relu

B, N = 16, 512
KINDS = {  # the first kind one of whose words is in an operation's name
    "recurrence, signals, group norm, gate (one C++ pass)": ("_Mix",),
    "token shifts (C++)": ("_Shift",),
    "norms and modulation (C++)": ("_Norm",),
    "residual sums (C++)": ("_Add",),
    "squared ReLU (C++)": ("_SquaredReLU",),
    "matrix products": ("::mm", "addmm", "bmm", "linear", "mkldnn", "matmul", "::t"),
    "optimizer": ("_fused_adamw", "Optimizer"),
    "type conversions and copies": ("copy_", "_to_copy", "::to", "contiguous", "clone"),
}
REST = "the rest"


def kind_of(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), REST)


def shares(half: bool) -> Counter[str]:
    """Microseconds of each kind in one step, after two to warm up."""
    step = stepper(RWKVStack(WIDTH, RWKV_BLOCKS), B, N, half)
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    spent: Counter[str] = Counter()
    for event in profile.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    return spent


def print_shares() -> None:
    found = {"float32": shares(half=False), "bf16": shares(half=True)}
    print(f"one training step, {B} texts of {N} tokens, width {WIDTH}, {RWKV_BLOCKS} blocks, kernel {chosen_kernel()}\n")
    print(f"{'':56}" + "".join(f"{name:>10}" for name in found))
    for kind in [*KINDS, REST]:
        print(f"{kind:56}" + "".join(f"{spent[kind] / spent.total():10.1%}" for spent in found.values()))
    print(f"{'milliseconds':56}" + "".join(f"{spent.total() / 1e3:10.0f}" for spent in found.values()))


def leaves(count: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for _ in range(count)]


def both(way: Callable[..., Tensor | tuple[Tensor, ...]], arguments: list[Tensor]) -> Callable[[], None]:
    """Forward and backward of `way`, with ones for the gradient."""

    def run() -> None:
        out = way(*arguments)
        out = out if isinstance(out, tuple) else (out,)
        torch.autograd.grad(out, arguments, [torch.ones_like(y) for y in out], allow_unused=True)

    return run


def recalled(mix: TimeMix, fused: bool) -> Callable[..., Tensor]:
    def way(*s: Tensor) -> Tensor:
        signals = Signals(*s)
        if fused:
            return mix.recall(signals, None, False, False, "native", 32)[0]
        rows = [mix.w0, mix.a0, mix.v0, mix.k_k, mix.k_a]
        parameters = torch.stack([p.reshape(mix.r_k.shape) for p in (*rows, mix.r_k, mix.ln_x.weight, mix.ln_x.bias)])
        return mix._recall(signals, parameters, None, False, False, "native", 32)[0]

    return way


def passes() -> dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], Callable[..., Tensor | tuple[Tensor, ...]], list[Tensor]]]:
    """Name to the plain way, the C++ way, and what both are called with."""
    x = leaves(1, B, N, WIDTH)
    mu = leaves(6, 1, 1, WIDTH, dtype=torch.float32)
    rows = leaves(2, B, 1, WIDTH, dtype=torch.float32)
    wide = leaves(1, B, N, WIDTH, dtype=torch.float32)
    mixing = TimeMix(WIDTH, 1, RWKV_BLOCKS, zero_init=False)

    def shifted(x: Tensor, *mu: Tensor, compiled: bool) -> tuple[Tensor, ...]:
        return shift(x, mu, compiled=compiled)

    def normalised(x: Tensor, weight: Tensor, bias: Tensor, compiled: bool) -> Tensor:
        return norm(x, weight, bias, 1e-5, None, torch.bfloat16, compiled=compiled)

    def ways(way: Callable[..., Tensor | tuple[Tensor, ...]]) -> tuple[Callable[..., Tensor | tuple[Tensor, ...]], ...]:
        return functools.partial(way, compiled=False), functools.partial(way, compiled=True)

    return {
        "shift, six mixtures": (*ways(shifted), [*x, *mu]),
        "norm, modulated": (*ways(normalised), [*wide, *rows]),
        "gated sum": (*ways(add), [*wide, *leaves(1, B, N, WIDTH), *leaves(1, B, 1, WIDTH, dtype=torch.float32)]),
        "squared ReLU, 4 x width": (*ways(squared_relu), leaves(1, B, N, 4 * WIDTH)),
        "mix": (recalled(mixing, False), recalled(mixing, True), leaves(8, B, N, WIDTH)),
    }


def print_passes(rounds: int) -> None:
    time_mix.wkv = torch.compiler.disable(wkv)  # a C function behind ctypes: torch.compile has no eyes for it
    print(f"\nforward and backward, {B} texts of {N} tokens, width {WIDTH}, bf16; milliseconds\n")
    print(f"{'':28}{'plain':>9}{'torch.compile':>16}{'C++':>9}{'over plain':>13}{'over compile':>14}")
    for name, (plain, native, arguments) in passes().items():
        runs = {
            "plain": both(plain, arguments),
            "compile": both(torch.compile(plain), arguments),
            "native": both(native, arguments),
        }
        best = fastest(runs, rounds)
        times = f"{1e3 * best['plain']:9.1f}{1e3 * best['compile']:16.1f}{1e3 * best['native']:9.1f}"
        print(f"{name:28}{times}{best['plain'] / best['native']:12.1f}x{best['compile'] / best['native']:13.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["step", "passes"])
    arguments = parser.parse_args()
    if "step" in arguments.only:
        print_shares()
    if "passes" in arguments.only:
        print_passes(arguments.rounds)


if __name__ == "__main__":
    main()
