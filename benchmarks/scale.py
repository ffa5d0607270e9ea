"""Ten million pairs: what opening, checking and reading them takes.

    python benchmarks/scale.py [count=10000000] [small=100000] [steps=400] [folder=...] [out=results.json]

Writes a synthetic packed folder of `count` pairs (270 bytes each: 2.7 GB; the command stops where the disk is too full), and one
of `small` pairs as the peer. A fresh process for each opens it, checks it, and reads steps of 256 rows: from the beginning, in the
middle of epoch 3 as a resumed run does, and over the border of a window. Its own memory is bounded by the system at LIMIT while it
does. Pages of the mapped files are counted apart: the system takes them back when it needs them. Prints one table, and writes the
figures, with the speed of `prepare` (which needs the extra `demo`), as JSON where `out` names a file: `benchmarks/scaling.py` reads it.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lgdlm.data.loader import Loader
from lgdlm.data.manifest import Manifest
from lgdlm.data.paired import open_dataset
from lgdlm.data.statistics import LatentStatistics
from lgdlm.data.storage import digest, write_bytes
from lgdlm.data.windows import WINDOW_ROWS

BATCH, BUCKET, VOCAB, DIM = 256, 32, 8192, 32
RANKED_ROWS, RANKS = 16_384, 64  # a step of one rank of many
SHARD_ROWS = 250_000
PAIR_BYTES = 300  # of disk, rounded up
LIMIT = 2_000_000_000  # bytes of a process's own memory
TEXT = b"text 00000000 is as long as a definition in a dictionary is"


def digits(first: int, count: int, pattern: bytes, at: int) -> np.ndarray:
    """`count` copies of `pattern` with eight decimal digits of first, first + 1, ... at `at`: uint8 [count, len(pattern)]."""
    rows = np.tile(np.frombuffer(pattern, np.uint8), (count, 1))
    numbers = np.arange(first, first + count)
    for place in range(8):
        rows[:, at + place] = numbers // 10 ** (7 - place) % 10 + ord("0")
    return rows


def shard(first: int, count: int) -> dict[str, np.ndarray]:
    """The columns of documents first .. first + count - 1: 6 to 32 random tokens, 32 normal numbers, a text and an id."""
    rng = np.random.default_rng(first)
    lengths = rng.integers(6, 33, count)
    columns = {"tokens": rng.integers(1, VOCAB, int(lengths.sum())).astype(np.uint16), "token_offsets": np.cumsum([0, *lengths])}
    for name, pattern, at in (("text", TEXT, 5), ("id", b"id-00000000", 3)):
        columns[name] = digits(first, count, pattern, at).ravel()
        columns[f"{name}_offsets"] = np.arange(count + 1) * len(pattern)
    columns["latents"] = rng.standard_normal((count, DIM), np.float32)
    return columns


def write(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    entries, tokens, statistics = [], 0, LatentStatistics(DIM)
    for first in range(0, count, SHARD_ROWS):
        columns = shard(first, min(SHARD_ROWS, count - first))
        statistics.add(columns["latents"])
        tokens += len(columns["tokens"])
        name = f"train-{len(entries):05d}.safetensors"
        entries.append({"file": name, "rows": len(columns["latents"]), **write_bytes(folder / name, save(columns))})
    counts = {"train": {"rows": count, "tokens": tokens, "bytes": count * len(TEXT)}}
    manifest = Manifest(
        layout="packed", vocab_size=VOCAB, tokenizer={"kind": "none", "eos_id": 0}, counts=counts, latent_dim=DIM,
        latent_mean=tuple(statistics.mean.tolist()), latent_std=tuple(statistics.std.tolist()), shards={"train": entries},
    )  # fmt: skip
    manifest.write(folder)


class Memory:
    """The largest memory of this process's own (anonymous) and of mapped files, in bytes, sampled until `stop`."""

    def __init__(self) -> None:
        self.own = self.mapped = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            own, mapped = (int(words[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(folder: Path, steps: int) -> dict[str, float]:
    """Everything that is measured on one folder, in this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    memory = Memory()
    opened, _ = timed(lambda: open_dataset(folder, verify=False))
    checked, data = timed(lambda: open_dataset(folder))
    made, loader = timed(lambda: Loader(data, batch_size=BATCH, bucket_rows=BUCKET, max_length=64))
    first, _ = timed(lambda: loader.step(1))
    steps = min(steps, loader.steps_per_epoch - 1)
    rest, _ = timed(lambda: [loader.step(k) for k in range(2, steps + 2)])
    middle = 2 * loader.steps_per_epoch + loader.steps_per_epoch // 2
    resumed, _ = timed(lambda: Loader(data, batch_size=BATCH, bucket_rows=BUCKET, max_length=64).step(middle))
    window = max(1, min(WINDOW_ROWS, len(data)) // BATCH)
    crossed, _ = timed(lambda: [loader.step(k) for k in (window, window + 1)])
    rows = min(RANKED_ROWS, len(data) // (4 * RANKS) * RANKS)
    ranked = Loader(data, batch_size=rows, bucket_rows=BUCKET, max_length=64, rank=1, world_size=RANKS)
    ranked.step(1)
    ranked_seconds = min(timed(lambda k=k: ranked.step(k))[0] for k in (2, 3))
    memory.stop()
    size = sum(path.stat().st_size for path in folder.iterdir())
    hashed, _ = timed(lambda: digest(folder / "train-00000.safetensors"))
    return {
        "pairs": len(data),
        "bytes_a_pair": size / len(data),
        "open_seconds": opened,
        "check_seconds": checked,
        "check_bytes_a_second": size / checked,
        "hash_bytes_a_second": (folder / "train-00000.safetensors").stat().st_size / hashed,
        "loader_seconds": made,
        "first_step_seconds": first,
        "resume_seconds": resumed,
        "window_seconds": crossed,
        "ranked_rows": rows,
        "ranked_step_seconds": ranked_seconds,
        "samples_a_second": steps * BATCH / rest,
        "own_bytes": memory.own,
        "mapped_bytes": memory.mapped,
    }


def in_fresh_process(folder: Path, steps: int) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, f"measure={folder}", f"steps={steps}"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def write_speed(folder: Path) -> float:
    """Bytes a second of a file that is hashed, written and flushed to disk, as those of a checkpoint are."""
    data = np.random.default_rng(0).bytes(1 << 28)
    spent, _ = timed(lambda: write_bytes(folder / "speed", data))
    return len(data) / spent


def prepare_speed(texts: int = 2048) -> dict[str, float]:
    """What one thread prepares: packaged definitions a second by the packaged encoder, and how long their tokens are."""
    import torch

    from lgdlm.data.corpus import read_corpus
    from lgdlm.data.encoder import load_encoder
    from lgdlm.data.tokenizer import make_tokenizer

    torch.set_num_threads(1)
    chosen = [text.text for text, _ in zip(read_corpus("wordnet", kinds=["definition"]), range(texts), strict=False)]
    encoder, tokenizer = load_encoder("minilm"), make_tokenizer("rwkv")
    encoder.encode(chosen[:64])
    encoded, _ = timed(lambda: encoder.encode(chosen))
    tokens = sum(map(len, tokenizer.encode_batch(chosen)))
    return {"encoded_tokens_a_second": tokens / encoded, "text_bytes_a_token": sum(len(text.encode()) for text in chosen) / tokens}


ROWS = (
    ("pairs", "{:,.0f}", 1),
    ("bytes_a_pair", "{:.0f}", 1),
    ("open_seconds", "{:.2f}", 1),
    ("check_seconds", "{:.1f}", 1),
    ("loader_seconds", "{:.2f}", 1),
    ("first_step_seconds", "{:.2f}", 1),
    ("resume_seconds", "{:.2f}", 1),
    ("window_seconds", "{:.2f}", 1),
    ("ranked_step_seconds", "{:.3f}", 1),
    ("samples_a_second", "{:,.0f}", 1),
    ("own_bytes", "{:,.0f} MB", 1e6),
    ("mapped_bytes", "{:,.0f} MB", 1e6),
)


def main(count: int = 10_000_000, small: int = 100_000, steps: int = 400, folder: str | None = None, out: str | None = None) -> None:
    base = Path(tempfile.mkdtemp(prefix="lgdlm-scale-", dir=folder))
    try:
        wanted, free = PAIR_BYTES * (count + small) + (1 << 28), shutil.disk_usage(base).free
        if free < wanted:
            sys.exit(f"{base} has {free / 1e9:.1f} GB free, {wanted / 1e9:.1f} GB are needed: name a folder=, or lower count=")
        for name, number in (("large", count), ("small", small)):
            write(base / name, number)
        found = {name: in_fresh_process(base / name, steps) for name in ("large", "small")}
        found["large"]["written_bytes_a_second"] = write_speed(base)
    finally:
        shutil.rmtree(base)
    print(f"{'':<24}{'large':>16}{'small':>16}{'ratio':>10}")
    for name, form, unit in ROWS:
        values = [found[size][name] for size in ("large", "small")]
        large, peer = (form.format(value / unit) for value in values)
        print(f"{name.replace('_', ' '):<24}{large:>16}{peer:>16}{values[0] / values[1]:>10.2f}")
    print(f"own memory bounded by the system at {LIMIT / 1e6:,.0f} MB")
    if out is not None:
        Path(out).write_text(json.dumps({**found["large"], **prepare_speed()}, indent=2) + "\n")


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    if "measure" in words:
        print(json.dumps(measure(Path(words["measure"]), int(words["steps"]))))
    else:
        main(**{name: value if name in ("folder", "out") else int(value) for name, value in words.items()})
