"""A run folder as training and evaluation leave it, small, with a text of the test's choice wherever a text can stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.results import Results

HOSTILE = "</script><img src=x onerror=alert(1)> \x00 \u202e & \"'{{ 7*7 }} <!-- \ud800"
STEPS = 30


def a_run(folder: Path) -> Path:
    """A run without results."""
    folder.mkdir(parents=True)
    write_log(folder)
    return folder


def write_results(run: Path, text: str) -> None:
    """Escaped JSON: a lone surrogate can stand in it only as an escape."""
    (run / "results.json").write_text(json.dumps(some_results(text).to_dict()), encoding="utf-8")


def write_log(run: Path) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        mode = ("l2t", "t2l", "unconditional")[step % 3]
        quantity = "latent_loss" if mode == "t2l" else "nelbo"
        always = {"epoch": 0, "step": step, "lr": 1e-3, "tokens_per_second": 1e3}
        lines.append({**always, "loss": 9 / step, "grad_norm": 1.0, f"{mode}/{quantity}": 9 / step})
    lines[4] = {"epoch": 0, "step": 5, "lr": 1e-3, "loss": None, "tokens_per_second": 1e3}
    lines[-1] |= {"validation/nelbo_given_z": 4.5, "validation/latent_loss": 0.4}
    (run / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (run / "config.yaml").write_text("training: {seed: 7}\nmodel: {denoiser: transformer}\nloss: {loss_type: l2t}\n", encoding="utf-8")
    (run / "step_00000030").mkdir()
    (run / "step_00000030" / "state.json").write_text('{"step": 30, "seconds": 3725.0}', encoding="utf-8")


def some_results(text: str = "a small cat") -> Results:
    """Results made by their own class, with `text` wherever a text can stand."""
    model, data = {"parameters": 1234567, "denoiser": "transformer", "step": 30}, {"train": 90, "validation": 9, "evaluated": 4}
    results = Results(model, data, 42, {"num_steps": 2, "temperature": 0.5, "guidance_scale": 2.0, "bootstrap": 50})
    rng, bootstrap = np.random.default_rng(0), Bootstrap(4, 50)
    measured = {"nelbo_given_latent": "unigram", "t2l_r2_one_step": "ridge regression", "l2t_bleu": "", "joint_cosine_projected": "other"}
    for name, beside in measured.items():
        statistics = rng.uniform(1, 2, (4, 10)) if name == "l2t_bleu" else mean_of(rng.uniform(0.2, 0.9, 4))
        results.add(name, statistics, bootstrap, {beside: statistics * 0.9} if beside else None, 0.01 if "nelbo" in name else None)
    written = {"id": text, "source_text": text, "baseline_nearest": text, "baseline_random": text, "cosines": {"encoder": 0.5}}
    results.samples = {
        "l2t": [{**written, "text": f"{text} {i}"} for i in range(8)],
        "t2l": [{"id": "a", "text": text, "r2": 0.5, "cosine": 0.75, "nearest_text": text, "rank": 2}],
        "joint": [{"text": "", "nearest_training_text": text, "cosines": {}}],
    }
    masks = ([True, True], [False, True], [False, False])
    words = ("dog", f" {text}")
    steps = [
        {"clock": 1 - i / 2, "tokens": ["" if hidden else word for hidden, word in zip(mask, words, strict=True)], "masked": mask}
        for i, mask in enumerate(masks)
    ]
    results.trajectory = [{"mode": "l2t", "id": "a", "source_text": text, "steps": steps}]
    points = [{"x": i, "y": -i, "kind": kind, "text": text} for i, kind in enumerate(("validation", "l2t", "joint"))]
    results.latent_map = {"method": "pca", "explained": [0.5, 0.25], "points": points}
    results.leave_out("judge perplexity", text)
    return results
