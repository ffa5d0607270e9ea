"""What the cycles cost: a training step of cycle_vae against l2t + t2l alone, on WordNet definitions.

    base 2 passes,  + cycle_text 1 reading without gradient and 1 pass,  + cycle_latent 1 writing without gradient and 1 pass

Ratios count; each row is the minimum over interleaved rounds, in milliseconds for 128 texts. `--quick` does one round.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded

from collections.abc import Callable

import torch
from _rounds import fastest
from train_step import ROWS, STEPS, TEXTS, steps_of

from lgdlm.config import Loss, Training, TransformerModel
from lgdlm.data.corpus import read_corpus
from lgdlm.data.loader import StepData
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.hardware import compute_dtype
from lgdlm.models.build import build_model
from lgdlm.objectives.build import build_objectives
from lgdlm.objectives.schedule import Constant
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.step import TrainStep

BASE = {"cycle_text_weight": 0.0, "cycle_latent_weight": 0.0}
VARIANTS: dict[str, dict] = {
    "l2t + t2l": BASE,
    "+ cycle_text": {"cycle_latent_weight": 0.0},
    "+ cycle_text, no stop": {"cycle_latent_weight": 0.0, "cycle_stop_grad_latent": False},
    "+ cycle_text, decoder_only": {"cycle_latent_weight": 0.0, "cycle_update": "decoder_only"},
    "+ cycle_latent": {"cycle_text_weight": 0.0},
    "+ cycle_latent, gumbel_st": {"cycle_text_weight": 0.0, "cycle_latent_sampling": "gumbel_st"},
    "+ both": {},
    "+ both, every 4th step": {"cycle_every": 4},
    "+ moments": BASE | {"prior_type": "moments"},
    "+ diffusion prior": BASE | {"prior_type": "diffusion"},
}


def stepper(vocab_size: int, data: list[StepData], keys: dict) -> Callable[[], None]:
    config = TransformerModel(hidden_size=256, n_blocks=6, latent_dim=32, max_seq_len=32)
    model = build_model(config, vocab_size=vocab_size, eos_id=0, latent_mean=torch.zeros(32), latent_std=torch.ones(32))
    objectives = build_objectives({"cycle_vae"}, Loss(**{"cycle_probe_every": 0, **keys}), Training(cfg_dropout_prob=0.0))
    step = TrainStep(
        model,
        objectives,
        Constant("cycle_vae"),
        Optimizers(model),
        Ema(model, 0.999),
        Guard(0),
        seed=0,
        compute_dtype=compute_dtype("auto"),
    )

    def run() -> None:
        for number, batch in enumerate(data, start=1):
            step(batch, number, 1.0)

    return run


def main() -> None:
    rounds = 1 if "--quick" in sys.argv else 5
    texts = [text.text for text, _ in zip(read_corpus("wordnet", kinds=["definition"]), range(TEXTS), strict=False)]
    tokenizer = make_tokenizer("rwkv_compact", texts=texts, size=8192)
    data = steps_of(texts, tokenizer)
    rows = {name: stepper(tokenizer.vocab_size, data, keys) for name, keys in VARIANTS.items()}
    best = {name: seconds / STEPS for name, seconds in fastest(rows, rounds).items()}
    base = best["l2t + t2l"]
    print(f"{f'training step of {ROWS} texts':32} {'ms':>8} {'ratio':>7}")
    for name, seconds in best.items():
        print(f"{name:32} {1000 * seconds:8.0f} {seconds / base:7.2f}")


if __name__ == "__main__":
    main()
