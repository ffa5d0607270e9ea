"""What a training step costs, side by side on the same WordNet definitions.

    vocabulary   RWKV's 65,536 ids with logits at every position   against   8,192 compact ids with logits at masked positions only
    denoiser     transformer, mmdit, rwkv7 at equal width and depth
    optimizer    adamw, muon

Ratios count; each row is the minimum over interleaved rounds, in milliseconds for 128 texts. `--quick` does one round.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded

from collections.abc import Callable

import numpy as np
import torch
from _rounds import fastest

from lgdlm.batch import Batch
from lgdlm.config import MODELS
from lgdlm.data.corpus import read_corpus
from lgdlm.data.loader import StepData
from lgdlm.data.tokenizer import Tokenizer, make_tokenizer
from lgdlm.hardware import compute_dtype
from lgdlm.models.build import build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.schedule import Constant
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.step import TrainStep

ROWS, GROUP, STEPS = 128, 32, 4
TEXTS = 4096


def steps_of(texts: list[str], tokenizer: Tokenizer) -> list[StepData]:
    """Steps of ROWS texts in groups of one length, as the loader makes them."""
    ids = sorted((row for row in tokenizer.encode_batch(texts) if 6 <= len(row) <= 32), key=len)
    groups = [ids[i : i + GROUP] for i in range(0, len(ids) - GROUP, GROUP)]
    groups = [group for group in groups if len(group[0]) == len(group[-1])]
    order = np.random.default_rng(0).permutation(len(groups))
    made = []
    for first in range(0, STEPS * ROWS // GROUP, ROWS // GROUP):
        batches = []
        for place, number in enumerate(order[first : first + ROWS // GROUP]):
            tokens = torch.tensor(groups[number])
            rows = torch.arange(place * GROUP, (place + 1) * GROUP)
            batches.append(Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.randn(GROUP, 1, 32), rows))
        made.append(StepData(batches, sum(b.tokens for b in batches), ROWS, (), 1))
    return made


def stepper(denoiser: str, vocab_size: int, data: list[StepData], everywhere: bool = False, optimizer: str = "adamw") -> Callable[[], None]:
    config = MODELS[denoiser](hidden_size=256, n_blocks=6, latent_dim=32, max_seq_len=32)
    model = build_model(config, vocab_size=vocab_size, eos_id=0, latent_mean=torch.zeros(32), latent_std=torch.ones(32))
    objective = DenoisingObjective(MODES["l2t"])
    if everywhere:
        answer_all(model)
    train_step = TrainStep(
        model, {"l2t": objective}, Constant("l2t"), Optimizers(model, name=optimizer), Ema(model, 0.999), Guard(0),
        seed=0, compute_dtype=compute_dtype("auto"),
    )  # fmt: skip

    def run() -> None:
        for number, step in enumerate(data, start=1):
            train_step(step, number, 1.0)

    return run


def answer_all(model: torch.nn.Module) -> None:
    """Make the vocabulary head compute every position's logits, then keep the asked ones: what a system without `logits_at` does."""
    head = model.denoiser.text_head
    plain = head.forward

    def forward(hidden: torch.Tensor, pair: NoisyPair) -> torch.Tensor:
        return plain(hidden, pair.at(logits_at=None))[pair.logits_at]

    head.forward = forward


def main() -> None:
    rounds = 1 if "--quick" in sys.argv else 5
    texts = [text.text for text, _ in zip(read_corpus("wordnet", kinds=["definition"]), range(TEXTS), strict=False)]
    world, compact = make_tokenizer("rwkv"), make_tokenizer("rwkv_compact", texts=texts, size=8192)
    full, small = steps_of(texts, world), steps_of(texts, compact)
    rows = {
        "transformer, 65,536 ids, every position": stepper("transformer", world.vocab_size, full, everywhere=True),
        "transformer, 65,536 ids, masked only": stepper("transformer", world.vocab_size, full),
        "transformer, 8,192 ids, masked only": stepper("transformer", compact.vocab_size, small),
        "mmdit, 8,192 ids, masked only": stepper("mmdit", compact.vocab_size, small),
        "rwkv7, 8,192 ids, masked only": stepper("rwkv7", compact.vocab_size, small),
        "transformer with muon": stepper("transformer", compact.vocab_size, small, optimizer="muon"),
    }
    best = {name: seconds / STEPS for name, seconds in fastest(rows, rounds).items()}
    base = best["transformer, 8,192 ids, masked only"]
    print(f"{'training step of 128 texts':42} {'ms':>8} {'ratio':>7} {'texts/s':>9}")
    for name, seconds in best.items():
        print(f"{name:42} {1000 * seconds:8.0f} {seconds / base:7.2f} {ROWS / seconds:9.0f}")
    print(f"compact vocabulary and masked-only logits: {best['transformer, 65,536 ids, every position'] / base:.1f}x faster (goal 2x)")


if __name__ == "__main__":
    main()
