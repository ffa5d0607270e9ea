"""Loading documents: packed shards against one file a sample, on the same documents and the same random order.

    python benchmarks/data.py [count=4000] [rounds=5]

Each round reads random batches of tokens and latents from both layouts, turn about; the best round of each counts. Both are read
from the page cache, which flatters files more than shards. Prints samples per second and the ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lgdlm.data.loader import Loader
from lgdlm.data.paired import PairedDataset, open_dataset
from lgdlm.data.writing import Row, manifest_of, write_splits

BATCH, VOCAB, DIM = 256, 8192, 32


def documents(count: int) -> Iterator[Row]:
    """Texts of 6 to 32 random tokens with latents of 32 numbers, as the demo's."""
    rng = np.random.default_rng(0)
    for i in range(count):
        tokens = rng.integers(1, VOCAB, rng.integers(6, 33))
        yield Row(
            f"id-{i:08d}",
            f"text {i} of about the length of a definition in a dictionary",
            tokens,
            rng.standard_normal(DIM).astype(np.float32),
        )


def write(folder: Path, layout: str, count: int) -> PairedDataset:
    folder.mkdir()
    written = write_splits(folder, layout, {"train": documents(count)}, VOCAB, "benchmark")
    manifest_of(written, folder, layout, vocab_size=VOCAB, tokenizer={"kind": "none", "eos_id": 0}).write(folder)
    return open_dataset(folder)


def read(dataset: PairedDataset, batches: list[np.ndarray]) -> None:
    for indices in batches:
        dataset.gather(indices)
        dataset.latents(indices)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(count: int = 4000, rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as base:
        datasets = {layout: write(Path(base, layout), layout, count) for layout in ("packed", "samples")}
        order = np.random.default_rng(1).permutation(count)[: count // BATCH * BATCH]
        batches = list(order.reshape(-1, BATCH))
        repeats = {"packed": 50, "samples": 1}  # shards are too fast for a single pass to be timed
        best = dict.fromkeys(datasets, float("inf"))
        for _ in range(rounds):
            for layout, dataset in datasets.items():
                best[layout] = min(best[layout], seconds(lambda d=dataset, n=repeats[layout]: read(d, batches * n)) / repeats[layout])
        rate = {layout: len(order) / spent for layout, spent in best.items()}
        loader = Loader(datasets["packed"], batch_size=BATCH, bucket_rows=32)
        loader.step(1)
        steps = range(1, loader.steps_per_epoch + 1)
        whole = min(seconds(lambda: [loader.step(k) for k in steps]) for _ in range(rounds))
    print(f"{'layout':<34}{'samples/s':>12}{'ratio':>10}")
    print(f"{'one .npy and one .npz a sample':<34}{rate['samples']:>12,.0f}{1:>10}")
    print(f"{'packed, memory-mapped':<34}{rate['packed']:>12,.0f}{rate['packed'] / rate['samples']:>10.0f}")
    loaded = len(steps) * BATCH / whole
    print(f"{'packed, whole steps (batches, ids)':<34}{loaded:>12,.0f}{loaded / rate['samples']:>10.0f}")


if __name__ == "__main__":
    main(**{name: int(value) for name, value in (word.split("=") for word in sys.argv[1:])})
