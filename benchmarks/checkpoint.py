"""What a checkpoint costs a run: writing, hashing and flushing it, as a share of the steps between two of them.

    overhead = seconds of a save / (training.save_every_n_steps x seconds of a step)

The demo's transformer with its averages and moments. A save is timed as it is, without flushing to disk, without hashes, and without
both; the parts are differences of the fastest of interleaved rounds. `--quick` does one round.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: read when torch is loaded

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from train_step import ROWS, STEPS, TEXTS, steps_of

from lgdlm.config import Training, TransformerModel
from lgdlm.data.corpus import read_corpus
from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.hardware import compute_dtype
from lgdlm.models.build import build_model
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.schedule import Constant
from lgdlm.training.checkpoint import Snapshot, save_checkpoint, verify_checkpoint
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.optimizer import Optimizers
from lgdlm.training.step import TrainStep
from lgdlm.training.weights import weights_of

GOAL = 0.05


class Unhashed:
    """In the place of SHA-256."""

    def __init__(self, data: bytes = b""):
        pass

    def update(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


@contextmanager
def without(*parts: str) -> Iterator[None]:
    """Saves of which some parts cost nothing."""
    flush, hashes = (lambda handle: None) if "flushing" in parts else os.fsync, Unhashed if "hashing" in parts else hashlib.sha256
    with mock.patch.object(os, "fsync", flush), mock.patch.object(hashlib, "sha256", hashes):
        yield


def parts_of_a_run(folder: Path) -> tuple[Callable[[], None], Callable[[int], Snapshot]]:
    """STEPS training steps, and what a checkpoint behind them holds."""
    texts = [text.text for text, _ in zip(read_corpus("wordnet", kinds=["definition"]), range(TEXTS), strict=False)]
    tokenizer = make_tokenizer("rwkv_compact", texts=texts, size=8192)
    tokenizer.save(folder)
    config = TransformerModel(hidden_size=256, n_blocks=6, latent_dim=32, max_seq_len=32)
    model = build_model(config, vocab_size=tokenizer.vocab_size, eos_id=0, latent_mean=torch.zeros(32), latent_std=torch.ones(32))
    optimizers, ema = Optimizers(model), Ema(model, 0.999)
    train_step = TrainStep(
        model, {"l2t": DenoisingObjective(MODES["l2t"])}, Constant("l2t"), optimizers, ema, Guard(0),
        seed=0, compute_dtype=compute_dtype("auto"),
    )  # fmt: skip
    data = steps_of(texts, tokenizer)

    def run() -> None:
        for number, step in enumerate(data, start=1):
            train_step(step, number, 1.0)

    return run, lambda step: Snapshot(step, weights_of(model), ema.average, optimizers.tensors(), {}, "", {"tokenizer": folder})


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    rounds, every = 1 if "--quick" in sys.argv else 7, Training().save_every_n_steps
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as place:  # where runs lie: a folder of temporary files may be memory
        run_steps, snapshot = parts_of_a_run(Path(place) / "tokenizer")
        run_steps()
        saved, run = snapshot(1), Path(place) / "run"
        for _ in range(rounds):
            found.setdefault("steps", []).append(seconds_of(run_steps))
            for left_out in ((), ("flushing",), ("hashing",), ("flushing", "hashing")):
                with without(*left_out):
                    found.setdefault(" ".join(left_out), []).append(seconds_of(lambda: save_checkpoint(run, "step_00000001", saved)))
                if not left_out:
                    found.setdefault("read", []).append(seconds_of(lambda: verify_checkpoint(run / "step_00000001")))
                size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
                shutil.rmtree(run)
    best = {name: min(seconds) for name, seconds in found.items()}
    step = best["steps"] / STEPS
    print(f"a step of {ROWS} texts takes {1000 * step:.0f} ms, a checkpoint has {size / 2**20:.0f} MiB, one is saved every {every} steps")
    print(f"{'':34} {'ms':>8} {'steps':>8} {'share of a run':>15}")
    shown = {
        "a save": best[""],
        "of it: flushing": best[""] - best["flushing"],
        "of it: hashing": best[""] - best["hashing"],
        "of it: the bytes": best["flushing hashing"],
        "verifying one, when it is read": best["read"],
    }
    for name, seconds in shown.items():
        print(f"{name:34} {1000 * seconds:8.0f} {seconds / step:8.2f} {seconds / (every * step):15.3%}")
    steps = (best[""] - best["flushing hashing"]) / step
    print(
        f"hashing and flushing take {steps / every:.3%} of a run; below the goal of {GOAL:.0%} from {steps / GOAL:.0f} steps between saves"
    )


if __name__ == "__main__":
    main()
