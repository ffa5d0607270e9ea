"""What a forward pass costs, counted from the real one, and the formula that the count is checked against.

    counted   2 a multiply-add of every matrix product and attention (torch's counter)  +  9 K^2 a token and head of WKV
    formula   the same number from the configuration alone

Kernels do WKV in different ways, some out of the counter's sight, so what the counter sees of them is left out, and each call is
counted as the recurrence: S a, S diag(w), + (S a) b^T, + v k^T, S r take 2 + 1 + 2 + 2 + 2 operations an entry of S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lgdlm.config import Model, RWKV7Model
from lgdlm.models.denoiser import Denoiser, NoisyPair
from lgdlm.models.embedding import ROWS_TOGETHER
from lgdlm.models.time_mix import published_ranks
from lgdlm.models.wkv import KERNELS, PRESENT, Kernel

ATTENTION_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
WKV_OPERATIONS = 9  # a token and entry of the state
WAYS = ("row", "context", "memory", "remember")


@dataclass(frozen=True)
class Flops:
    """Floating point operations: `products` of matrices, attention included, and `wkv` as the recurrence."""

    products: int
    wkv: int

    @property
    def total(self) -> int:
        return self.products + self.wkv


def attention_flops(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    """Q K^T and the weights times V, 2 a multiply-add, from the shapes [B, G, N, head]; torch's counter knows only the kernels of CUDA."""
    (B, G, N, head), M = query, key[2]
    return 2 * B * G * N * M * (head + value[3])


def counted(run: Callable[[], object]) -> Flops:
    """What `run()` costs: it is run once, for instance `lambda: denoiser(pair)`, on any device."""
    with FlopCounterMode(display=False, custom_mapping={ATTENTION_ON_CPU: attention_flops}) as counter, _watched(counter) as seen:
        run()
    return Flops(counter.get_total_flops() - seen["hidden"], seen["wkv"])


def of_text(denoiser: Denoiser, model: Model, length: int) -> Flops:
    """Of one question about a text of `length` tokens, logits at each; where blocks are noised beside their clean context, of both."""
    text = torch.zeros(1, length, dtype=torch.long)
    latent, clock = torch.zeros(1, model.latent_len, model.latent_dim), torch.ones(1)
    context = text if denoiser.block_diffusion else None
    pair = NoisyPair(text, clock, latent, clock, torch.ones_like(text, dtype=torch.bool), context=context)
    with torch.no_grad():
        return counted(lambda: denoiser(pair))


@contextmanager
def _watched(counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Every kernel of the table adds its work by definition (`wkv`) and what the counter saw of it (`hidden`).

    Compiled kernels may do WKV together with what stands around it, past the table: meanwhile there are none.
    """
    seen, kernels, present = {"wkv": 0, "hidden": 0}, dict(KERNELS), dict(PRESENT)

    def watching(kernel: Kernel) -> Kernel:
        def call(r: Any, *rest: Any, **options: Any) -> Any:
            before = counter.get_total_flops()
            answer = kernel(r, *rest, **options)
            seen["hidden"] += counter.get_total_flops() - before
            seen["wkv"] += WKV_OPERATIONS * prod(r.shape) * r.shape[-1]
            return answer

        return call

    KERNELS.update({name: watching(kernel) for name, kernel in kernels.items()})
    PRESENT.update({name: lambda: False for name in present})
    try:
        yield seen
    finally:
        KERNELS.update(kernels)
        PRESENT.update(present)


def formula(model: RWKV7Model, vocab_size: int, rows: int, length: int, asked: int, way: str = "row") -> Flops:
    """Of one question of an `RWKVDenoiser`: `rows` texts of `length` real tokens, logits at `asked` chosen positions in all.

    A text has at least two tokens: the mean of one is no product.

    way   row       a text as it stands (every causality)      context    block diffusion, all blocks at once beside the clean text
          memory    block diffusion, one block in sampling     remember   the clean pass that takes a block into the memory
    """
    assert way in WAYS, f"one of {', '.join(WAYS)}"
    m, H, P = model, model.hidden_size, model.latent_prefix_len
    E, LD = m.embedding_dim or H, m.latent_len * m.latent_dim
    blocks, both = m.causality == "block_causal", m.causality == "bidirectional"
    assert blocks or way == "row", "only blocks have a context or a memory"
    size = min(m.block_size, length) if blocks else length
    filled = -(-length // size) * size  # whole blocks

    # passes through the stack: (rows, tokens of each, tokens that its right-to-left half reads)
    clean = filled - size if way == "context" else 0  # what stands before the last block
    passes = [(rows, length + (2 * P if both else 0 if blocks else P), filled + 2 * P if both else filled)]
    if way == "context":
        passes = [(rows * filled // size, size, size), *([(rows, clean, clean)] if clean else [])]
    if blocks and way in ("row", "context"):
        passes += [(rows, P, P)]
    stack = [_stack(m, *one) for one in passes]
    products, wkv = sum(s.products for s in stack), sum(s.wkv for s in stack)

    clocks = 2 if way == "context" else 1
    products += clocks * rows * (2 * 128 * H + 2 * H * H + 2 * LD * H)  # clocks and the latent's summary
    products += rows * (length + clean) * (2 * E * H if E != H else 0)  # a factorised embedding
    products += 2 * rows * LD * P * H if way in ("row", "context") else 0  # the latent's tokens
    if way == "remember":
        return Flops(products, wkv)
    source, L = m.latent_pred_from, m.latent_len
    products += -(-asked // ROWS_TOGETHER) * ROWS_TOGETHER * (2 * H * E + 2 * E * vocab_size)
    products += 2 * rows * (length + blocks) * H if source != "prefix" else 0  # the mean of the text; in blocks, with the one before
    products += 2 * rows * H * P * L if source != "text" and P != L else 0  # prefix states back to the latent's
    width, answers, out = {"text": (H, 1, LD), "prefix": (H, L, m.latent_dim), "both": (2 * H, L, m.latent_dim)}[source]
    return Flops(products + rows * answers * (2 * width * H + 2 * H * out), wkv)


def _stack(m: RWKV7Model, rows: int, tokens: int, tokens_back: int) -> Flops:
    """Of one pass through the blocks of `m`."""
    H, ranks = m.hidden_size, m.ranks or published_ranks(m.hidden_size)
    halves = 1 if m.causality == "causal" else 2
    fusion = 4 * H * H if halves == 2 and m.fusion != "sum" else 0
    conditioning = 2 * H * 2 * H * {"adaln_zero": 3, "film": 2, "add": 1}[m.time_conditioning]
    products = 0
    for layer in range(m.n_blocks):
        low_rank = sum(4 * H * rank for name, rank in ranks.items() if layer or name != "v")
        token = halves * (8 * H * H + low_rank) + fusion + 4 * H * round(m.ffn_ratio * H)
        products += rows * (tokens * token + conditioning)
    read = tokens + (tokens_back if halves == 2 else 0)
    return Flops(products, m.n_blocks * rows * read * WKV_OPERATIONS * H * m.head_size)
