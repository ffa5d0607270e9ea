"""WKV-7 kernels against the plain recurrence: time, ratio, and error against float64.

    python benchmarks/wkv.py [--batch 8 --length 512 --width 512 --rounds 3]

Two plain references, gradients by autograd. The naive one is the recurrence as public test code has it (flash-linear-attention's
`dplr_recurrence`): the state copied twice a token, each answer written into its place in one tensor, whose gradient is copied N times.
The careful one does the same sums without those copies. Ratios and goals are against the naive one; the careful one has its row, so
both can be read. All are timed in turns and the minimum of all rounds counts, so that other load on the machine disturbs all
alike; the naive one and `rwkv7-hf` (where it is installed) take many seconds a round and get two of them, a warm-up not needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.models.wkv import KERNELS, chosen_kernel

HEAD = 64
NAIVE, CAREFUL, PEER = "naive recurrence", "careful recurrence", "rwkv7-hf"
SLOW = (NAIVE, PEER)
GOALS = {"chunked": "goal 15x", "native": "goal 80x"}
LEAST_LOG_DECAY = -0.6065306597
Operation = Callable[..., tuple[Tensor, Tensor | None]]


def naive_recurrence(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None, **_: object
) -> tuple[Tensor, Tensor]:
    """State copied and answers written into place, the state as [B, G, K, V]."""
    r, log_w, k, v, a, b = (x.transpose(1, 2) for x in (r, log_w, k, v, a, b))
    B, G, N, K = r.shape
    S = r.new_zeros(B, G, K, K) if state is None else state.mT
    y = torch.zeros_like(v)
    for t in range(N):
        written = k[:, :, t, :, None] * v[:, :, t, None, :]
        moved = (S.clone() * a[:, :, t, :, None].clone()).sum(dim=-2, keepdim=True) * b[:, :, t, :, None].clone()
        S = S.clone() * log_w[:, :, t].exp()[..., None] + written + moved
        y[:, :, t] = torch.einsum("bgk,bgkv->bgv", r[:, :, t], S)
    return y.transpose(1, 2), S.mT


def careful_recurrence(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None, **_: object
) -> tuple[Tensor, Tensor]:
    """Broadcast and sum per token, the state as [B, G, K, V]."""
    B, N, G, K = r.shape
    r, log_w, k, v, a, b = (x.transpose(1, 2) for x in (r, log_w, k, v, a, b))
    S = r.new_zeros(B, G, K, K) if state is None else state.mT
    rows = []
    for t in range(N):
        removed = (S * a[:, :, t, :, None]).sum(dim=-2)
        S = S * log_w[:, :, t, :, None].exp() + b[:, :, t, :, None] * removed[:, :, None] + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((S * r[:, :, t, :, None]).sum(dim=-2))
    return torch.stack(rows, dim=2).transpose(1, 2), S.mT


def rwkv7_hf() -> Operation | None:
    """The operator of the `rwkv7-hf` package behind our arguments, or None where it is not installed."""
    if find_spec("rwkv7_hf") is None:
        return None
    from rwkv7_hf.ops_rwkv7 import rwkv7_recurrent

    def operation(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        B, _N, G, K = r.shape
        y, S = rwkv7_recurrent(r, log_w.exp(), k, v, a, b, r.new_zeros(B, G, K, K))
        return y, S.mT

    return operation


def inputs(B: int, N: int, G: int, decay: str, repeated: bool, seed: int = 0) -> list[Tensor]:
    """Float64 arguments as RWKV-7 makes them; `repeated`: nearly one key throughout, rewritten at a rate near 1."""
    g = torch.Generator().manual_seed(seed)
    shape = (B, N, G, HEAD)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    kk = F.normalize(0.1 * normal(*shape) + 8 * normal(1, 1, G, HEAD) if repeated else normal(*shape), dim=-1)
    rate = torch.full_like(kk, 0.98) if repeated else torch.sigmoid(normal(*shape))
    log_w = {
        "mixed": LEAST_LOG_DECAY * torch.sigmoid(2 * normal(*shape) - 2),
        "0.545": LEAST_LOG_DECAY * torch.ones(shape, dtype=torch.float64),
        "near 1": -1e-5 * torch.rand(shape, generator=g, dtype=torch.float64),
    }[decay]
    return [normal(*shape), log_w, 0.5 * normal(*shape), normal(*shape), -kk, kk * rate]


def measure(operations: dict[str, Operation], B: int, N: int, G: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds (forward, forward and backward) per operation."""
    leaves = [x.float().requires_grad_() for x in inputs(B, N, G, "mixed", False)]
    weight = torch.randn(B, N, G, HEAD)

    def forward(operation: Operation) -> None:
        with torch.no_grad():
            operation(*leaves, final_state=False)

    def both(operation: Operation) -> None:
        torch.autograd.grad(operation(*leaves, final_state=False)[0], leaves, weight)

    best = {name: [float("inf"), float("inf")] for name in operations}
    for number in range(rounds):
        for name, operation in operations.items():
            if name in SLOW and number > 1:
                continue
            for i, run in enumerate((forward, both)):
                start = time.perf_counter()
                run(operation)
                best[name][i] = min(best[name][i], time.perf_counter() - start)
    return {name: (times[0], times[1]) for name, times in best.items()}


def errors(operation: Operation, decay: str, repeated: bool, N: int) -> tuple[float, float]:
    """Largest float32 error over the largest entry: of values, and of the gradients of all inputs and the state."""

    def run(operation: Operation, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (*inputs(1, N, 2, decay, repeated), state)]
        y, S = operation(*leaves)
        assert S is not None
        score = (y * weights[0].to(dtype)).sum() + (S * weights[1].to(dtype)).sum()
        return [y.detach(), S.detach(), *torch.autograd.grad(score, leaves)]

    g = torch.Generator().manual_seed(1)
    state = 0.3 * torch.randn(1, 2, HEAD, HEAD, generator=g, dtype=torch.float64)
    weights = [torch.randn(1, N, 2, HEAD, generator=g, dtype=torch.float64), torch.randn(state.shape, generator=g, dtype=torch.float64)]
    reference = run(KERNELS["recurrence"], torch.float64)
    off = [float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(run(operation, torch.float32), reference, strict=True)]
    return max(off[:2]), max(off[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in {"batch": 8, "length": 512, "width": 512, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    arguments = parser.parse_args()
    B, N, G = arguments.batch, arguments.length, arguments.width // HEAD

    ours = {name: kernel for name, kernel in KERNELS.items() if name != "recurrence" and chosen_kernel(name) == name}
    operations: dict[str, Operation] = {NAIVE: naive_recurrence, CAREFUL: careful_recurrence, **ours}
    hf = rwkv7_hf()
    if hf is not None:
        operations[PEER] = hf
    times = measure(operations, B, N, G, arguments.rounds)
    base = times[NAIVE]
    print(f"B={B} N={N} width={G * HEAD} head={HEAD} float32, {torch.get_num_threads()} thread(s), minimum of {arguments.rounds} rounds\n")
    print(f"{'':18}{'forward':>12}{'ratio':>8}{'fwd+bwd':>12}{'ratio':>8}")
    for name, (one, both) in times.items():
        print(f"{name:18}{1e3 * one:>9.0f} ms{base[0] / one:>7.1f}x{1e3 * both:>9.0f} ms{base[1] / both:>7.1f}x   {GOALS.get(name, '')}")

    print(f"\n{'float32 error against the float64 recurrence':58}{'values':>10}{'gradients':>12}")
    for name, operation in ours.items():
        for decay in ("mixed", "0.545", "near 1"):
            for repeated in (False, True):
                value, gradient = errors(operation, decay, repeated, min(N, 200))
                case = f"{name}, decay {decay}, {'repeated' if repeated else 'random'} keys"
                print(f"{case:58}{value:>10.1e}{gradient:>12.1e}")


if __name__ == "__main__":
    main()
