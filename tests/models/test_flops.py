"""The count of a real forward pass is the formula's number, to the last operation."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lgdlm.config import MODELS, RWKV7Model
from lgdlm.models.build import build_denoiser
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.flops import WKV_OPERATIONS, counted, formula, of_text
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.models.wkv import KERNELS, PRESENT

V, B = 40, 3
OPTIONS = {
    "plain": {},
    "shared gated film": {"share_directions": True, "fusion": "gated", "time_conditioning": "film", "latent_pred_from": "text"},
    "factorised sum add": {
        "fusion": "sum",
        "time_conditioning": "add",
        "embedding_dim": 8,
        "tie_embeddings": False,
        "latent_prefix_len": 3,
    },
}


def config(**options: object) -> RWKV7Model:
    sizes = {"hidden_size": 32, "n_blocks": 2, "head_size": 16, "latent_dim": 5, "latent_len": 2, "latent_prefix_len": 2, "ffn_ratio": 3.5}
    return RWKV7Model(**{**sizes, **options})


def question(N: int) -> NoisyPair:
    g = torch.Generator().manual_seed(0)
    text = torch.randint(0, V + 1, (B, N), generator=g)
    seen = torch.ones_like(text, dtype=torch.bool)
    t = torch.full((B,), 0.5)
    return NoisyPair(text, t, torch.randn(B, 2, 5, generator=g), t, seen, text == V)


def built(model: RWKV7Model) -> RWKVDenoiser:
    net = build_denoiser(model, V)
    assert isinstance(net, RWKVDenoiser)
    return net


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("causality", ["bidirectional", "causal", "block_causal"])
@pytest.mark.parametrize("length", [2, 7, 12])
def test_a_row(options: str, causality: str, length: int) -> None:
    model, pair = config(causality=causality, block_size=4, **OPTIONS[options]), question(length)
    net = built(model)
    assert counted(lambda: net(pair)) == formula(model, V, B, length, int(pair.logits_at.sum()))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("size", "length"), [(4, 12), (4, 7), (16, 7)])
def test_block_diffusion_in_training_and_sampling(options: str, size: int, length: int) -> None:
    model = config(causality="block_causal", block_context="clean", block_size=size, **OPTIONS[options])
    net, pair = built(model), question(length)
    asked = int(pair.logits_at.sum())
    assert counted(lambda: net(pair.at(context=pair.text % V))) == formula(model, V, B, length, asked, "context")
    memory = net.remember(pair.at(text=pair.text[:, :0], attention_mask=pair.attention_mask[:, :0]))
    block = question(min(size, length)).at(memory=memory)
    asked = int(block.logits_at.sum())
    assert counted(lambda: net(block)) == formula(model, V, B, block.text.shape[1], asked, "memory")
    assert counted(lambda: net.remember(block)) == formula(model, V, B, block.text.shape[1], asked, "remember")


def test_the_count_does_not_depend_on_the_kernel() -> None:
    pair, before = question(12), (dict(KERNELS), dict(PRESENT))
    found = {counted(partial(built(config(kernel=kernel)), pair)) for kernel in KERNELS}
    assert len(found) == 1
    assert before == (KERNELS, PRESENT), "the tables are as they were"


def test_what_attention_costs_is_seen() -> None:
    """Of other denoisers the counter sees everything: doubling the text more than doubles what attention multiplies."""
    for name in ("transformer", "mmdit"):
        net = build_denoiser(MODELS[name](hidden_size=32, n_blocks=1, n_heads=2, latent_dim=5, latent_len=2, max_seq_len=64), V)
        costs = [counted(partial(net, question(length).at(logits_at=None))).total for length in (16, 32, 64)]
        assert costs[2] - costs[1] > 2 * (costs[1] - costs[0]) * 1.05


def test_block_size_changes_the_cost_of_sampling_and_not_of_a_pass() -> None:
    """Equal tokens a step: whole rows are read N / 8 times, blocks K / 8 times."""
    sizes, N = (8, 16, 32), 64
    costs = {K: config(causality="block_causal", block_context="clean", block_size=K) for K in sizes}
    assert len({formula(m, V, 1, N, N) for m in costs.values()}) == 1
    whole = N // 8 * formula(config(), V, 1, N, 8).total
    text = {
        K: N // K * (K // 8 * formula(m, V, 1, K, 8, "memory").total + formula(m, V, 1, K, 0, "remember").total) for K, m in costs.items()
    }
    assert whole > text[32]
    assert all(text[one] < text[other] for one, other in itertools.pairwise(sizes))


def test_a_token_of_wkv_costs_nine_operations_an_entry_of_its_state() -> None:
    """Counted from the recurrence written out, products and sums one by one."""
    K, counts = 8, {"mul": 0, "add": 0, "sum": 0}

    class Tally(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            if name in counts:
                counts[name] += (args[0] if name == "sum" else answer).numel()
            return answer

    S, w, (r, k, v, a, b) = torch.randn(K, K), torch.rand(K), torch.randn(5, K)
    with Tally():
        removed = (S * a).sum(dim=1)
        S = S * w + removed[:, None] * b + v[:, None] * k
        (S * r).sum(dim=1)
    assert sum(counts.values()) == WKV_OPERATIONS * K * K


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("N", [8, 64])
def test_attention_is_counted_whichever_way_it_is_computed(N: int, masked: bool) -> None:
    """4 B N^2 H: the fused kernel of a processor is out of sight of torch's counter."""
    q = torch.randn(2, 4, N, 16)
    bias = torch.zeros(2, 1, 1, N) if masked else None
    assert counted(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=bias)).products == 4 * 2 * N * N * 64


@pytest.mark.parametrize("name", ["transformer", "mmdit"])
def test_what_grows_with_the_square_of_a_text_is_its_attention(name: str) -> None:
    model = MODELS[name](hidden_size=64, n_blocks=2, n_heads=4, latent_dim=5, max_seq_len=256)
    denoiser = build_denoiser(model, V).eval()
    one, two, three = (of_text(denoiser, model, N).total for N in (64, 128, 192))
    assert three - 2 * two + one == 4 * 64 * 2 * (2 * 64**2), "the second difference: 4 H a token, key and block, and nothing else"
