"""RWKV-7's training step against a Transformer's of as many parameters, and against two public packages.

    python benchmarks/rwkv_step.py [--rounds 3 --only step share mfu exponent packages]

    step      bf16 training step of 8192 tokens, both ways, at 512, 2048 and 8192 tokens a text, and where the lines cross
    share     WKV-7 forward and backward over the matrix products of the block that it is part of
    mfu       float32 step at 512 tokens: floating point operations of its matrix products and recurrence over the measured peak
    exponent  of the cost of one text, forward and backward, from 512 to 16,384 tokens
    packages  causal step against `rwkv7-hf` (N = 128), forward against `rwkv` (N = 512), where they are installed; both sides in
              float32, then both in bf16 (`rwkv7-hf` under autocast as we are, `rwkv` by its own strategy)

A step is forward, mean squared error, backward and fused AdamW. Everything that is compared is timed in turns and the minimum of
all rounds counts, so that other load on the machine disturbs all alike; read the ratios.
"""

from __future__ import annotations

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded

import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _rounds import fastest
from torch import Tensor, nn

from lgdlm.hardware import bf16_pays
from lgdlm.models.attention import FeedForward, Projections, attend
from lgdlm.models.flops import WKV_OPERATIONS
from lgdlm.models.language_model import LanguageModel
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.models.rwkv7 import RWKV7
from lgdlm.models.wkv import chosen_kernel, wkv

WIDTH, HEAD = 384, 64
RWKV_BLOCKS, TRANSFORMER_BLOCKS = 4, 7  # a block with two readings of a text holds 1.7 times the parameters of one with attention
TOKENS = 8192
LENGTHS = (512, 2048, 8192)
RECURRENCE_FLOPS = 3 * WKV_OPERATIONS * HEAD  # a token and channel: the backward pass counted as two forward ones, no recomputation


class TransformerStack(nn.Module):
    """Plain blocks of the product's own attention (SDPA) and feed-forward."""

    def __init__(self, width: int, n_blocks: int):
        super().__init__()
        self.attention = nn.ModuleList(Projections(width, width // HEAD, False) for _ in range(n_blocks))
        self.feed = nn.ModuleList(FeedForward(width) for _ in range(n_blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * n_blocks))

    def forward(self, x: Tensor) -> Tensor:
        for i, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            x = x + attention.merge(attend(*attention.heads(self.norms[2 * i](x)), None))
            x = x + feed(self.norms[2 * i + 1](x))
        return x


class RWKVStack(nn.Module):
    """Blocks that read both ways, or the causal stack as published."""

    def __init__(self, width: int, n_blocks: int, fusion: str | None = "gated"):
        super().__init__()
        self.stack = RWKV7(width, n_blocks, fusion=fusion, zero_init=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x, keep_state=False)[0]


def stepper(net: nn.Module, B: int, N: int, half: bool, update: bool = True) -> Callable[[], None]:
    """One training step on random vectors; without `update` only forward and backward."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    x, target = torch.randn(B, N, WIDTH), torch.randn(B, N, WIDTH)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = net(x)
        F.mse_loss(y.float(), target).backward()
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def matrix_parameters(net: nn.Module) -> int:
    """Those that take part in a matrix product with every token: two floating point operations each, six with the gradients."""
    return sum(p.numel() for p in net.parameters() if p.dim() == 2 and min(p.shape) > 16)


def compare_steps(rounds: int) -> None:
    rwkv, transformer = RWKVStack(WIDTH, RWKV_BLOCKS), TransformerStack(WIDTH, TRANSFORMER_BLOCKS)
    sizes = f"{parameters(rwkv) / 1e6:.1f}M and {parameters(transformer) / 1e6:.1f}M parameters"
    print(f"\ntraining step, bf16 autocast, {TOKENS} tokens, width {WIDTH}: RWKV-7 both ways and Transformer with SDPA, {sizes}")
    print(f"{'tokens a text':>16}{'RWKV-7':>12}{'Transformer':>14}{'ratio':>9}   goal")
    ratios = []
    for N, goal in zip(LENGTHS, (1.25, 0.9, 0.3), strict=True):
        runs = {"rwkv": stepper(rwkv, TOKENS // N, N, True), "transformer": stepper(transformer, TOKENS // N, N, True)}
        best = fastest(runs, max(1, rounds - (LENGTHS[-1] == N)))
        ratios.append(best["rwkv"] / best["transformer"])
        print(f"{N:>16}{1e3 * best['rwkv']:>9.0f} ms{1e3 * best['transformer']:>11.0f} ms{ratios[-1]:>8.2f}x   {goal}x")
    print(f"lines cross at about {crossing(ratios)} tokens")


def crossing(ratios: list[float]) -> str:
    """Where the ratio is 1, log-linear between the two lengths around it."""
    if ratios[0] <= 1:
        return f"fewer than {LENGTHS[0]}"
    for i in range(1, len(LENGTHS)):
        if ratios[i] <= 1:
            share = math.log(ratios[i - 1]) / (math.log(ratios[i - 1]) - math.log(ratios[i]))
            return f"{LENGTHS[i - 1] * (LENGTHS[i] / LENGTHS[i - 1]) ** share:.0f}"
    return f"more than {LENGTHS[-1]}"


def share_of_products(rounds: int, B: int = 8, N: int = 512, H: int = 512) -> None:
    """WKV-7 of one direction against the matrix products of the causal block it belongs to."""
    block = RWKV7(H, 2, zero_init=False).blocks[1]
    shapes = [tuple(p.shape) for p in block.parameters() if p.dim() == 2 and min(p.shape) > 16]
    signals = [torch.randn(B, N, H // HEAD, HEAD).requires_grad_() for _ in range(6)]
    with torch.no_grad():
        signals[1].abs_().mul_(-0.2)
        signals[4].copy_(F.normalize(signals[4], dim=-1))
        signals[5].copy_(-0.5 * signals[4])
    weight = torch.randn(B, N, H // HEAD, HEAD)

    def products(dtype: torch.dtype) -> Callable[[], None]:
        """Each matrix with its three products: forward, gradient of the input, gradient of the matrix."""
        there = {n for shape in shapes for n in shape}
        tokens = {n: torch.randn(B * N, n).to(dtype) for n in there}
        matrices = [torch.randn(shape).to(dtype) for shape in shapes]

        def run() -> None:
            for m in matrices:
                out, into = m.shape
                tokens[into] @ m.T
                tokens[out] @ m
                tokens[out].T @ tokens[into]

        return run

    def recurrence() -> None:
        torch.autograd.grad(wkv(*signals, final_state=False)[0], signals, weight)

    runs = {"wkv": recurrence, "float32": products(torch.float32), "bf16": products(torch.bfloat16)}
    best = fastest(runs, rounds + 2)
    print(f"\nWKV-7 forward and backward ({chosen_kernel()}), B={B} N={N} width {H}: {1e3 * best['wkv']:.0f} ms")
    for dtype in ("float32", "bf16"):
        share, goal = best["wkv"] / best[dtype], "   goal 0.15" if dtype == "float32" else ""
        print(f"  over the block's matrix products in {dtype:8} {1e3 * best[dtype]:>6.0f} ms: {share:.3f}{goal}")


def product_peak(rounds: int) -> float:
    """Floating point operations a second of the faster of two large float32 matrix products."""
    square = [torch.randn(2048, 2048) for _ in range(2)]
    tall = [torch.randn(TOKENS, WIDTH), torch.randn(WIDTH, 4 * WIDTH)]
    best = fastest({"square": lambda: square[0] @ square[1], "tall": lambda: tall[0] @ tall[1]}, rounds)
    return max(2 * 2048**3 / best["square"], 2 * TOKENS * 4 * WIDTH**2 / best["tall"])


def least(net: nn.Module, tokens: int, passes: int) -> str:
    """What the float32 matrix products of `passes` passes take at the measured peak."""
    return (
        f"its matrix products alone take {1e3 * 2 * passes * tokens * matrix_parameters(net) / product_peak(3):.0f} ms at the measured peak"
    )


def utilisation(rounds: int, N: int = 512) -> None:
    net = RWKVStack(WIDTH, RWKV_BLOCKS)
    best = fastest({"step": stepper(net, TOKENS // N, N, False)}, rounds + 1)
    peak = product_peak(rounds + 1)
    products = 6 * TOKENS * matrix_parameters(net)
    recurrence = RECURRENCE_FLOPS * TOKENS * WIDTH * 2 * RWKV_BLOCKS
    reached = [flops / best["step"] / peak for flops in (products, products + recurrence)]
    print(f"\nfloat32 step at N={N}: {1e3 * best['step']:.0f} ms; peak of a matrix product {peak / 1e9:.0f} Gflop/s")
    print(f"  model flops utilisation: {100 * reached[1]:.0f} % (goal 55 %), of the matrix products alone {100 * reached[0]:.0f} %")


def exponent(rounds: int) -> None:
    net = RWKVStack(WIDTH, 2)
    lengths = [512 * 2**i for i in range(6)]
    runs = {str(N): stepper(net, 1, N, True, update=False) for N in lengths}
    best = fastest(runs, rounds)
    x = torch.tensor([math.log(N) for N in lengths])
    y = torch.tensor([math.log(best[str(N)]) for N in lengths])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    print(f"\ncost of one text, forward and backward, bf16: exponent {slope:.3f} from {lengths[0]} to {lengths[-1]} tokens (goal 1.03)")
    print("  microseconds a token: " + "  ".join(f"{N}: {1e6 * best[str(N)] / N:.0f}" for N in lengths))


def language_model(n_blocks: int, width: int, vocab_size: int) -> LanguageModel:
    ranks = {"w": 64, "a": 64, "v": 32, "g": 128}
    torch.manual_seed(0)
    model = LanguageModel(Sizes(vocab_size, width, n_blocks, HEAD, 4 * width, ranks))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


def against_rwkv7_hf(width: int = 256, n_blocks: int = 4, B: int = 4, N: int = 128, vocab_size: int = 512) -> None:
    """Causal language model training step, float32, of equal sizes."""
    if find_spec("rwkv7_hf") is None:
        print("\nrwkv7-hf is not installed")
        return
    from rwkv7_hf.configuration_rwkv7 import RWKV7Config
    from rwkv7_hf.modeling_rwkv7 import RWKV7ForCausalLM

    theirs = RWKV7ForCausalLM(RWKV7Config(vocab_size=vocab_size, hidden_size=width, num_hidden_layers=n_blocks, use_cache=False))
    ours = language_model(n_blocks, width, vocab_size)
    tokens = torch.randint(1, vocab_size, (B, N))

    def step(net: nn.Module, logits: Callable[[], Tensor], half: bool) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = logits()
            F.cross_entropy(found.float().transpose(1, 2)[..., :-1], tokens[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    sizes = f"{parameters(ours) / 1e6:.1f}M and {parameters(theirs) / 1e6:.1f}M parameters"
    print(f"\ncausal training step, B={B} N={N}, {sizes}, against rwkv7-hf (goal 20x); {least(ours, B * N, 3)}")
    for half in (False, True):
        best = fastest({"ours": step(ours, lambda: ours(tokens)[0], half), "theirs": step(theirs, lambda: theirs(tokens).logits, half)}, 2)
        ratio = best["theirs"] / best["ours"]
        print(f"  {'bf16' if half else 'float32':8} {1e3 * best['ours']:.0f} ms against {1e3 * best['theirs']:.0f} ms: {ratio:.1f}x faster")


def against_rwkv(width: int = 512, n_blocks: int = 6, N: int = 512, vocab_size: int = 512) -> None:
    """Forward of one text on the same weights."""
    if find_spec("rwkv") is None:
        print("\nrwkv is not installed")
        return
    os.environ.update(RWKV_V7_ON="1", RWKV_CUDA_ON="0", RWKV_JIT_ON="1")
    ours = language_model(n_blocks, width, vocab_size).eval()
    tokens = torch.randint(1, vocab_size, (1, N))
    out = sys.stdout
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        weights = {name: tensor.clone() for name, tensor in ours.published().items()}
        for name, like in (("v0", "a0"), ("v1", "a1"), ("v2", "a2")):  # the package wants them in layer 0, where they mean nothing
            weights.setdefault(f"blocks.0.att.{name}", weights[f"blocks.0.att.{like}"].clone())
        torch.save(weights, Path(folder) / "weights.pth")
        from rwkv.model import RWKV

        row = tokens[0].tolist()
        print(
            f"\nforward of one text, N={N}, {parameters(ours) / 1e6:.1f}M parameters, against rwkv (goal 4x); {least(ours, N, 1)}", file=out
        )
        for name, half in (("float32", False), ("bf16", True)):
            theirs = RWKV(model=str(Path(folder) / "weights"), strategy=f"cpu {'bf16' if half else 'fp32'}")

            def own(half: bool = half) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    return ours(tokens)[0]

            def other(theirs: Any = theirs) -> Tensor:
                return theirs.forward(row, None, full_output=True)[0]

            best = fastest({"ours": own, "theirs": other}, 3)
            difference = float((own().float() - other().float()).abs().max())
            times = f"{1e3 * best['ours']:.0f} ms against {1e3 * best['theirs']:.0f} ms: {best['theirs'] / best['ours']:.1f}x faster"
            print(f"  {name:8} {times}; logits differ by {difference:.0e}", file=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["step", "share", "mfu", "exponent", "packages"])
    arguments = parser.parse_args()
    began = time.perf_counter()
    print(
        f"{torch.get_num_threads()} thread(s), kernel {chosen_kernel()}, bf16 {'pays' if bf16_pays() else 'does not pay'} on this processor"
    )
    parts: dict[str, Callable[[], None]] = {
        "step": lambda: compare_steps(arguments.rounds),
        "share": lambda: share_of_products(arguments.rounds),
        "mfu": lambda: utilisation(arguments.rounds),
        "exponent": lambda: exponent(arguments.rounds),
        "packages": lambda: (against_rwkv7_hf(), against_rwkv())[0],
    }
    for name in arguments.only:
        parts[name]()
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
