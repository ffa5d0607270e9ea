"""Block diffusion at increasing lengths: memory and time a token, with and without the cache, and what block sizes cost.

    python benchmarks/block_sampling.py [--tokens 65536 --block 64 --steps 4 --width 128 --layers 2 --threads 1]

One text is drawn to its full length with the cache; the time of its last blocks and the memory that the process holds are read where
it passes 1/64, 1/16, 1/4 and the whole of its length. Without the cache one block is drawn at the same places (all of them
would take a time that grows with the square). Both ways draw a shorter text with the same seed, and its tokens are compared.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lgdlm.config import RWKV7Model
from lgdlm.models.block_causal import BlockMemory
from lgdlm.models.build import build_denoiser, build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.flops import counted, formula
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling import Steering
from lgdlm.sampling.block import reverse_text
from lgdlm.sampling.clock import descend, hold

VOCABULARY, WIDTH, SHARED = 512, 8, 1024  # ids, the latent's width, tokens of the text that both ways draw
WINDOW = 16  # blocks whose time is averaged


def model_of(block: int, width: int, layers: int) -> TextLatentDiffusion:
    """Untrained, every parameter off its initial value, so that what stands before a block matters."""
    sizes = {"hidden_size": width, "n_blocks": layers, "latent_dim": WIDTH, "length": "eos"}
    config = RWKV7Model(**{**sizes, "causality": "block_causal", "block_size": block, "block_context": "clean"})
    model = build_model(config, vocab_size=VOCABULARY, eos_id=0, latent_mean=torch.zeros(WIDTH), latent_std=torch.ones(WIDTH))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
        model.denoiser.text_head.decode.bias[0] = -60.0  # a text that never ends by itself
    return model.eval()


def draw(model: TextLatentDiffusion, text: Tensor, steps: int, cached: bool) -> Tensor:
    """The masks of `text` int64 [1, N] drawn, given one latent."""
    latent = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(text, dtype=torch.bool)
    paths = descend(steps, 1), hold(steps, 1)
    return reverse_text(model, text, latent, seen, *paths, Rng(0, 0, torch.arange(1)), Steering(cached=cached))[0]


def masks(model: TextLatentDiffusion, tokens: int) -> Tensor:
    return torch.full((1, tokens), model.mask_id)


def held_mib() -> float:
    """Memory of the process that is in use now: growth shows, whatever was used before."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def size_of(memory: BlockMemory) -> int:
    parts = [x for layer in memory.state.layers for x in (layer.wkv, layer.time_shift, layer.channel_shift)]
    return sum(x.numel() * x.element_size() for x in (*parts, memory.prefix, memory.mean, memory.count))


@dataclass
class Passed:
    """When a text passed the border of each of its blocks, and what was kept of it there."""

    seconds: list[float]
    held: list[float]
    kept: list[int]

    @staticmethod
    def along(model: TextLatentDiffusion, tokens: int, steps: int) -> tuple[Passed, Tensor]:
        """Draw a text of so many tokens with the cache; `remember` is called once a block."""
        passed, remember = Passed([], [], []), model.denoiser.remember

        def watched(pair: NoisyPair) -> BlockMemory:
            memory = remember(pair)
            passed.seconds.append(time.perf_counter())
            passed.held.append(held_mib())
            passed.kept.append(size_of(memory))
            return memory

        model.denoiser.remember = watched  # type: ignore[method-assign]
        text = draw(model, masks(model, tokens), steps, cached=True)
        model.denoiser.remember = remember  # type: ignore[method-assign]
        return passed, text


def lengths(model: TextLatentDiffusion, tokens: int, block: int, steps: int) -> None:
    """The table of lengths."""
    passed, text = Passed.along(model, tokens, steps)
    shared = min(SHARED, tokens)
    same = torch.equal(*(draw(model, masks(model, shared), steps, cached) for cached in (True, False)))
    print(f"the same {shared} tokens with and without the cache: {'yes' if same else 'NO'}")
    print(f"\n{'tokens':>8}{'kept memory':>14}{'process':>14}{'cached':>16}{'uncached':>16}{'ratio':>9}")
    for part in (64, 16, 4, 1):
        place = max(WINDOW + 1, tokens // part // block) - 1
        cached = (passed.seconds[place] - passed.seconds[place - WINDOW]) / WINDOW / block
        before = text[:, : place * block]
        start = time.perf_counter()
        draw(model, torch.cat([before, masks(model, block)], dim=1), steps, cached=False)
        uncached = (time.perf_counter() - start) / block
        room = f"{passed.kept[place] / 1024:10.0f} KiB{passed.held[place]:10.0f} MiB"
        print(f"{place * block:8}{room}{cached * 1e3:10.3f} ms/tok{uncached * 1e3:10.3f} ms/tok{uncached / cached:8.1f}x")


def costs(width: int, layers: int, N: int = 512, tokens_a_step: int = 8) -> None:
    """GFLOP a token: one pass over N tokens, block diffusion's training pass, and a text drawn at equal tokens a step."""
    print(f"\nGFLOP a token, N = {N}, {tokens_a_step} tokens a step, counted from the real forward and equal to the formula")
    print(f"{'':>18}{'a pass':>10}{'clean context':>15}{'drawing':>10}")
    text = torch.randint(0, VOCABULARY, (1, N), generator=torch.Generator().manual_seed(0))
    seen, t = torch.ones_like(text, dtype=torch.bool), torch.full((1,), 0.5)
    pair = NoisyPair(text, t, torch.zeros(1, 1, WIDTH), t, seen, seen)
    whole = RWKV7Model(hidden_size=width, n_blocks=layers, latent_dim=WIDTH)

    def checked(config: RWKV7Model, question: NoisyPair, way: str) -> float:
        found = counted(lambda: build_denoiser(config, VOCABULARY)(question))
        assert found == formula(config, VOCABULARY, 1, N, N, way), "the count and the formula disagree"
        return found.total / N / 1e9

    drawing = formula(whole, VOCABULARY, 1, N, tokens_a_step).total / tokens_a_step / 1e9
    print(f"{'bidirectional':>18}{checked(whole, pair, 'row'):10.4f}{'':>15}{drawing:10.4f}")
    for K in (32, 64, 128):
        sizes = {"hidden_size": width, "n_blocks": layers, "latent_dim": WIDTH, "causality": "block_causal", "block_size": K}
        noisy, clean = RWKV7Model(**sizes), RWKV7Model(**sizes, block_context="clean")
        asked = formula(clean, VOCABULARY, 1, K, tokens_a_step, "memory").total / tokens_a_step
        drawing = (asked + formula(clean, VOCABULARY, 1, K, 0, "remember").total / K) / 1e9
        passes = checked(noisy, pair, "row"), checked(clean, pair.at(context=text), "context")
        print(f"{f'blocks of {K}':>18}{passes[0]:10.4f}{passes[1]:15.4f}{drawing:10.4f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in {"tokens": 65536, "block": 64, "steps": 4, "width": 128, "layers": 2, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = model_of(options.block, options.width, options.layers)
    print(f"blocks of {options.block}, {options.steps} steps each, width {options.width}, {options.layers} layers, float32")
    lengths(model, options.tokens, options.block, options.steps)
    costs(options.width, options.layers)


if __name__ == "__main__":
    main()
