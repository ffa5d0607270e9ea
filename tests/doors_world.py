"""A folder that looks like the root of the checkout, with a few texts, and the old commands run there as the documentation has them."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from documented import ROOT
from folders import sentences

from lgdlm.cli import progress

DOORS = ("rwkv_diffusion_rnn", "latentDLM_mmdit", "cycle_vae_impl")
BLOCK = re.compile(r"^(?P<title>[^\n]+):\n\n```sh\n(?P<body>.*?)^```", re.S | re.M)
SMALL = {
    "model.hidden_size": "64", "model.n_blocks": "1", "model.n_heads": "1", "training.num_train_steps": "2",
    "training.train_batch_size": "8", "training.eval_batch_size": "8", "training.gradient_accumulation_steps": "1",
    "training.dtype": "fp32", "training.save_every_n_steps": "1000", "data.bucket_rows": "4", "logging.num_eval_batches": "1",
}  # fmt: skip
DIM = 32


def documented(title: str) -> list[str]:
    """The commands of the block that a line ending with `title:` announces in docs/commands.md, continuation lines joined."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    (body,) = [match["body"] for match in BLOCK.finditer(text) if match["title"] == title]
    return [line.strip() for line in body.replace("\\\n", " ").splitlines() if line.strip()]


def root(folder: Path) -> Path:
    """The door folders as links, `preprocessed_data` with its command, and files that the pages name."""
    for name in DOORS:
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    (folder / "preprocessed_data").mkdir()
    name = "preprocessed_data/prepare_data_multi_gpu.py"
    (folder / name).symlink_to(ROOT / name)
    (folder / "prompts.txt").write_text("a small house\nthe red dog runs\nanother one\n")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(60)))
    return folder


def samples(folder: Path, train: int = 8, validation: int = 6, tokens: bool = False) -> Path:
    """`preprocessed_data/qwen_32d` as the earlier systems left it, and with `tokens` its byte tokens; returns the root."""
    data, texts, rng = folder / "preprocessed_data" / "qwen_32d", iter(sentences(train + validation)), np.random.default_rng(0)
    for split, count in (("train", train), ("validation", validation)):
        entries = []
        (data / "latents" / split).mkdir(parents=True)
        for i in range(count):
            stem = f"wiki_{i:08d}_{i:016x}"
            entry = {"text": next(texts), "latent_path": f"latents/{split}/{stem}.npy", "text_path": "gone.txt", "dataset": "wiki"}
            entries.append({**entry, "doc_id": i, "chunk_id": 0, "embedding_dim": DIM})
            latent = rng.standard_normal(DIM).astype(np.float32)
            np.save(data / entry["latent_path"], latent if i % 2 else latent[None])
        (data / f"{split}_data.json").write_text(json.dumps(entries))
        if tokens:
            command = "python rwkv_diffusion_rnn/preprocess_tokenize_text.py --output_dir preprocessed_data/rwkv_tokens --tokenizer byte"
            assert run(f"{command} --json_path {data}/{split}_data.json --quiet", folder)[0] == 0
    return folder


def small(command: str) -> str:
    """The command with what makes it small behind its own words, as `documented.SMALL` does; what it says itself stays."""
    if "train_" not in command:
        return command
    said = {word.partition("=")[0] for word in shlex.split(command)}
    return f"{command} {' '.join(f'{name}={value}' for name, value in SMALL.items() if name not in said)}"


def run(command: str, folder: Path) -> tuple[int, str, str]:
    """`python SCRIPT WORDS` from `folder`, the script run in this process as `__main__`: exit code, stdout, stderr."""
    python, script, *words = shlex.split(command)
    assert python == "python"
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    before, argv, path = Path.cwd(), sys.argv, list(sys.path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # a process that ends leaves them deaf
    os.chdir(folder)
    sys.argv, code = [script, *words], 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        os.chdir(before)
        sys.argv, sys.path[:], progress._silent = argv, path, False
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, out.buffer.getvalue().decode(), err.getvalue()  # type: ignore[attr-defined]


def apart(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a shell, `python` and `torchrun` being those of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
