"""`lgdlm demo`: real text to a trained, sampled, measured model and a page that shows it.

    prepare -> train -> evaluate (samples included) -> report.html

Every stage keeps what it made: a second demo reads the same data, finds the training finished and shows the results again.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgdlm.cli import evaluate, prepare, report, train
from lgdlm.cli.progress import say
from lgdlm.config import Config
from lgdlm.training.checkpoint import STATE, WEIGHTS
from lgdlm.training.signals import Interrupted

EXAMPLES = 5


def run(config: Config) -> int:
    """Exit code 0, or 130 / 143 where training was interrupted (a second demo goes on from there)."""
    began = time.monotonic()
    say("1/4 prepare")
    prepare.run(config)
    say("2/4 train")
    try:
        checkpoint = train.train_run(replace(config, training=replace(config.training, resume="auto")))
    except Interrupted as stopped:
        say(f"stopped by {stopped}; run the demo again to go on")
        return stopped.exit_code
    run_folder = checkpoint.parent
    config = replace(config, evaluation=replace(config.evaluation, checkpoint=str(run_folder)))
    say("3/4 evaluate")
    results = run_folder / "results.json"
    if not results.exists() or results.stat().st_mtime < (checkpoint / WEIGHTS).stat().st_mtime:
        evaluate.run(config)
    say("4/4 report")
    report.run(config)
    show(json.loads(results.read_text(encoding="utf-8")), checkpoint)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(f"\n{(time.monotonic() - began) / 60:.1f} minutes, peak memory {peak:.1f} GiB; the page: {run_folder / 'report.html'}")
    return 0


def show(results: dict[str, Any], checkpoint: Path) -> None:
    """Five held-out latents and what the model wrote for them, on stdout."""
    step = json.loads((checkpoint / STATE).read_text())["step"]
    print(f"\nlatent to text after {step} steps (source -> written; cosine of their encodings)")
    for sample in results["samples"]["l2t"][:EXAMPLES]:
        cosine = sample.get("cosines", {}).get("encoder")
        print(f"  {sample['source_text']}\n    -> {sample['text']}" + (f"   ({cosine:.2f})" if cosine is not None else ""))
