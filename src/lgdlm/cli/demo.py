"""`lgdlm demo`: real text to a trained, sampled, measured model and a page that shows it.

    prepare -> train -> evaluate (samples included) -> report.html

Every stage keeps what it made: a second demo reads the same data, finds the training finished and shows the results again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lgdlm.cli import evaluate, prepare, report, train
from lgdlm.cli.progress import say
from lgdlm.config import Config, Evaluation
from lgdlm.errors import Stopped
from lgdlm.hardware import peak_memory
from lgdlm.training.checkpoint import WEIGHTS
from lgdlm.training.naming import STATE
from lgdlm.training.signals import Interrupted

EXAMPLES = 5


def run(config: Config) -> int:
    """Exit code 0. Raises Stopped (130, 143) where training was interrupted: a second demo goes on from there."""
    began = time.monotonic()
    say("1/4 prepare")
    prepare.run(config)
    say("2/4 train")
    try:
        checkpoint = train.train_run(replace(config, training=replace(config.training, resume="auto")))
    except Interrupted as stopped:
        message = f"stopped behind step {stopped.step} of training, whose checkpoint is saved; run the demo again to go on"
        raise Stopped.by(stopped.number, "demo", message) from stopped
    run_folder = checkpoint.parent
    config = replace(config, evaluation=replace(config.evaluation, checkpoint=str(run_folder)))
    say("3/4 evaluate")
    results = evaluate.results_file(config.evaluation.out, checkpoint)
    if not answers(results, checkpoint, config.evaluation):
        evaluate.run(config)
    say("4/4 report")
    report.run(config)
    show(json.loads(results.read_text(encoding="utf-8")), checkpoint)
    peak = peak_memory() / 2**30
    say(f"\n{(time.monotonic() - began) / 60:.1f} minutes, peak memory {peak:.1f} GiB; the page: {run_folder / 'report.html'}")
    return 0


def answers(results: Path, checkpoint: Path, asked: Evaluation) -> bool:
    """Whether the results there are of this checkpoint and were measured as asked."""
    if not results.is_file() or results.stat().st_mtime < (checkpoint / WEIGHTS).stat().st_mtime:
        return False
    found = json.loads(results.read_text(encoding="utf-8"))
    settings = {**found["settings"], "seed": found["seed"]}
    return all(settings[name] == value for name, value in asdict(asked).items() if name in settings)


def show(results: dict[str, Any], checkpoint: Path) -> None:
    """Five held-out latents and what the model wrote for them, on stdout."""
    step = json.loads((checkpoint / STATE).read_text())["step"]
    print(f"\nlatent to text after {step} steps (source -> written; cosine of their encodings)")
    for sample in results["samples"]["l2t"][:EXAMPLES]:
        cosine = sample.get("cosines", {}).get("encoder")
        print(f"  {sample['source_text']}\n    -> {sample['text']}" + (f"   ({cosine:.2f})" if cosine is not None else ""))
