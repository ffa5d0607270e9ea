"""Drawing tokens, and asking for logits only where they are needed: time beside the usual ways, in one run.

    python benchmarks/sampling.py [--positions 512 --vocabulary 65536 --rounds 5 --threads 1]

Every way starts from the same logits. They are timed in turns and the minimum of all rounds counts, so that other load on the machine
disturbs all alike; read the ratios. The draws are checked too: each way's tokens against the exact cumulative distribution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from _rounds import fastest
from torch import Tensor

from lgdlm.config import TransformerModel
from lgdlm.models.build import build_model
from lgdlm.rng import Rng
from lgdlm.sampling import TokenDraw, sample_text_from_latent

Draw = Callable[[], Tensor]


def multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(dim=1), 1)[:, 0]


def gumbel_max(logits: Tensor) -> Tensor:
    """argmax of logits + Gumbel noise, in float64: float32 cannot hold the tail."""
    u = torch.rand(logits.shape, dtype=torch.float64)
    return (logits.double() - (-u.log()).log()).argmax(dim=1)


def sorted_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Top-p as commonly written: sort everything, mask the tail, softmax, multinomial."""
    ordered, ids = logits.sort(dim=1, descending=True)
    p = ordered.softmax(dim=1)
    ordered = ordered.masked_fill(p.cumsum(dim=1) - p > top_p, -torch.inf)
    return ids.gather(1, torch.multinomial(ordered.softmax(dim=1), 1))[:, 0]


def table(title: str, seconds: dict[str, float], reference: str) -> None:
    print(f"\n{title}\n{'':48}{'ms':>10}  faster than {reference}")
    for name, value in seconds.items():
        print(f"{name:48}{value * 1e3:10.1f}  {seconds[reference] / value:8.1f} x")


def exactness(logits: Tensor, u: Tensor, tokens: Tensor) -> float:
    """Share of positions whose token is the one that the float64 cumulative distribution gives for the same uniform."""
    mass = logits.double().softmax(dim=1).cumsum(dim=1)
    return float((torch.searchsorted(mass, u[:, None] * mass[:, -1:])[:, 0] == tokens).double().mean())


def draws(positions: int, vocabulary: int, rounds: int) -> float:
    """Prints the table of draws; returns how many times faster than `torch.multinomial` the plain draw is."""
    logits = 3 * torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(0))
    u = Rng(0, 0, torch.arange(positions)).uniform("benchmark")
    whole = {
        "torch.multinomial(softmax(logits))": lambda: multinomial(logits),
        "Gumbel-max, float64": lambda: gumbel_max(logits),
        "TokenDraw()": lambda: TokenDraw()(logits, u),
        "TokenDraw(temperature=0.7)": lambda: TokenDraw(0.7)(logits, u),
    }
    seconds = fastest(whole, rounds)
    table(f"{positions} draws from {vocabulary} tokens", seconds, "torch.multinomial(softmax(logits))")
    print(f"tokens equal to those of the float64 distribution: {exactness(logits, u, TokenDraw()(logits, u)):.2%}")
    parts = {
        "sort, mask, multinomial (top_p=0.9)": lambda: sorted_nucleus(logits, 0.9),
        "TokenDraw(top_p=0.9)": lambda: TokenDraw(top_p=0.9)(logits, u),
        "TokenDraw(top_k=50)": lambda: TokenDraw(top_k=50)(logits, u),
        "TokenDraw(top_k=50, top_p=0.9)": lambda: TokenDraw(top_k=50, top_p=0.9)(logits, u),
    }
    table("truncated", fastest(parts, max(1, rounds // 2)), "sort, mask, multinomial (top_p=0.9)")
    return seconds["torch.multinomial(softmax(logits))"] / seconds["TokenDraw()"]


def loops(vocabulary: int, rounds: int) -> None:
    """A whole latent-to-text sample: positions first, against logits at every mask of every step (what a callback asks for)."""
    shape = TransformerModel(hidden_size=128, n_blocks=2, n_heads=2, max_seq_len=64, latent_dim=32)
    model = build_model(shape, vocab_size=vocabulary, eos_id=0, latent_mean=torch.zeros(32), latent_std=torch.ones(32))
    latent = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))

    def sample(order: str, watched: bool) -> Tensor:
        return sample_text_from_latent(model, latent, 48, 32, order=order, callback=(lambda moment: None) if watched else None).tokens

    ways = {
        "every mask, every step": lambda: sample("ancestral", True),
        "order=confidence": lambda: sample("confidence", False),
        "order=ancestral (positions before logits)": lambda: sample("ancestral", False),
    }
    title = f"8 texts of 48 tokens from {vocabulary}, 32 steps, a small transformer"
    table(title, fastest(ways, max(1, rounds // 2)), "every mask, every step")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ratio = draws(options.positions, options.vocabulary, options.rounds)
    loops(options.vocabulary, options.rounds)
    print(f"\ndrawing a token: {ratio:.0f} times as fast as torch.multinomial")


if __name__ == "__main__":
    main()
