"""A small data folder and short runs on it through the command line, in this process or in one that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from folders import sentences

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.cli.commands import parse
from lgdlm.cli.compose import compose
from lgdlm.data.prepare import prepare
from lgdlm.training.assemble import Assembly, assemble

DIM = 4
TIMING = ("tokens_per_second", "rows_per_second")
TINY = (
    "model=transformer", "model.hidden_size=16", "model.n_blocks=1", "model.n_heads=2", f"model.latent_dim={DIM}", "model.max_seq_len=48",
    "training.train_batch_size=8", "training.eval_batch_size=8", "training.warmup_steps=5", "training.dtype=fp32", "training.num_threads=1",
    "logging.run_name=run", "logging.num_eval_batches=1",
    "training.num_train_steps=40", "training.save_every_n_steps=10", "logging.eval_freq=15",
)  # fmt: skip


def data_folder(folder: Path, rows: int = 80, dim: int = DIM) -> Path:
    """Packed: byte tokens and given latents; 12 texts are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"s{i}", "text": text}) for i, text in enumerate(sentences(rows))]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / "latents.npy", np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32))
    out = folder / "packed"
    prepare(
        "file", out, path=folder / "texts.jsonl", tokenizer="byte", latents=folder / "latents.npy", projection="identity", latent_dim=None,
        validation=12,
    )  # fmt: skip
    return out


def words(data: Path, out: Path, *more: str) -> list[str]:
    """The command line of a short run at `out/run`; later words win."""
    chosen = {word.partition("=")[0]: word for word in (*TINY, f"data.latent_dir={data}", f"logging.save_dir={out}", *more)}
    return ["train", "--quiet", *chosen.values()]


def train(data: Path, out: Path, *more: str) -> int:
    """The exit code of the command in this process."""
    try:
        return main(words(data, out, *more))
    finally:
        progress._silent = False  # --quiet is for the process, and this one goes on


def assembly(data: Path, out: Path, *more: str) -> Assembly:
    """The parts of such a run, in this process and without its loop."""
    request = parse(words(data, out, *more))
    return assemble(compose(request.words, request.config_name), out / "run")


def train_apart(data: Path, out: Path, *more: str, hook: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `hook` is Python that runs before it, to kill or to signal at a chosen point."""
    code = f"import sys\nfrom lgdlm.cli.__main__ import main\n{hook}\nsys.exit(main({words(data, out, *more)!r}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def log_of(run: Path) -> list[dict[str, Any]]:
    """The training log without what a clock measured."""
    return [{name: value for name, value in record.items() if name not in TIMING} for record in lines(run / "training_log.jsonl")]


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in lines(run / "events.jsonl") if event["event"] == kind]


def digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of weights, averages and optimizer state."""
    return {name: hashlib.sha256((checkpoint / f"{name}.safetensors").read_bytes()).hexdigest() for name in ("model", "ema", "optimizer")}
