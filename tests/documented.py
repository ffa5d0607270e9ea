"""The commands that the documentation shows, and a small world to run them in.

A command is a line of a ```bash block of README.md or docs/*.md. Blocks of a page run in order, in one folder. A block behind the
comment `<!-- long: nightly -->` runs under `make nightly` only. In the small world every `lgdlm` command gets the words of SMALL
behind its own, so that the documented line runs as it is written, on less. The reader's own texts, `my.jsonl`, are there, and where
a page names them the reader's pretrained weights, `rwkv7.pth`: random ones, over the World vocabulary.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from folders import sentences
from pretrained_world import random_weights

from lgdlm.models.pretrained_layout import Sizes

ROOT = Path(__file__).parent.parent
LONG = "<!-- long: nightly -->"
BLOCK = re.compile(rf"(?P<long>{LONG}\s*\n)?```bash\n(?P<body>.*?)^```", re.S | re.M)

TINY_MODEL = ("model.hidden_size=64", "model.n_blocks=1", "model.n_heads=1")
TINY_TRAINING = (
    *TINY_MODEL,
    "training.num_train_steps=4",
    "training.train_batch_size=16",
    "training.eval_batch_size=16",
    "training.save_every_n_steps=2",
    "training.dtype=fp32",
    "data.bucket_rows=4",
    "logging.num_eval_batches=1",
)
SMALL: dict[str, tuple[str, ...]] = {
    "prepare": ("prepare.limit=300", "prepare.validation=0.2"),
    "train": TINY_TRAINING,
    "sample": ("sampling.num_steps=2",),
    "evaluate": ("evaluation.num_samples=8", "evaluation.num_steps=2", "evaluation.bootstrap=10", "evaluation.judge=false"),
}
SMALL["ablate"] = (*TINY_TRAINING, *SMALL["evaluate"])


def own_texts(folder: Path) -> None:
    """The file that pages call the reader's own."""
    lines = [json.dumps({"text": text}) for text in sentences(400)]
    (folder / "my.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def own_weights(folder: Path, page: Path) -> None:
    """The file that a page calls the reader's pretrained weights."""
    if "rwkv7.pth" in page.read_text(encoding="utf-8"):
        ranks = {"w": 8, "a": 8, "v": 8, "g": 8}
        sizes = Sizes(vocab_size=65536, hidden_size=64, n_blocks=2, head_size=64, ffn_size=128, ranks=ranks)
        torch.save(random_weights(sizes, dtype=torch.bfloat16), folder / "rwkv7.pth")


@dataclass(frozen=True)
class Command:
    """One line of a page."""

    page: str
    line: int
    text: str
    long: bool

    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_in(page: Path) -> list[Command]:
    """The commands of a page, continuation lines joined, comments left out."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start("body")) + 1
        body = block["body"].replace("\\\n", "  ")
        for offset, line in enumerate(body.splitlines()):
            if shlex.split(line, comments=True):
                found.append(Command(str(page.relative_to(ROOT)), first + offset, line.strip(), bool(block["long"])))
    return found


def run(command: Command, folder: Path, small: bool) -> subprocess.CompletedProcess[str]:
    """Runs one command as a shell would find it: `lgdlm`, `python` and the tools of this environment, `make` at the root.

    `make` has the machine to itself, as a reader would give it; the others have one thread, beside other tests.
    """
    words = command.words()
    text = command.text
    if words[0] == "lgdlm" and small and "--help" not in words:
        text = f"{text.partition(' #')[0]} {shlex.join(SMALL.get(words[1], ()))}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=ROOT if words[0] == "make" else folder,
        env={**plain, "PATH": path, **({} if words[0] == "make" else {"OMP_NUM_THREADS": "1"})},  # make sets its own
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3600,
    )
