"""A second demo shows what the first one measured, unless something else was asked."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lgdlm.cli.demo import answers
from lgdlm.config import Evaluation
from lgdlm.evaluation.evaluate import Settings


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Path, Path, Evaluation]:
    """Results, the checkpoint they are of, and what was asked for."""
    asked = Evaluation(num_steps=24, guidance_scale=2.0)
    checkpoint = tmp_path / "step_00000001"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    names = {name: value for name, value in asdict(asked).items() if name in Settings.__dataclass_fields__}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"settings": asdict(replace(Settings(), **names)), "seed": asked.seed}))
    return results, checkpoint, asked


def test_the_same_request_is_not_measured_twice(measured: tuple[Path, Path, Evaluation]) -> None:
    assert answers(*measured)


@pytest.mark.parametrize(
    "change", [{"guidance_scale": 3.0}, {"num_samples": 8}, {"seed": 1}, {"best_of": 2}, {"temperature": 0.9}], ids=lambda c: next(iter(c))
)
def test_another_request_is_measured(measured: tuple[Path, Path, Evaluation], change: dict[str, float]) -> None:
    results, checkpoint, asked = measured
    assert not answers(results, checkpoint, replace(asked, **change))


def test_older_results_are_of_other_weights(measured: tuple[Path, Path, Evaluation]) -> None:
    results, checkpoint, asked = measured
    os.utime(results, (1, 1))
    assert not answers(results, checkpoint, asked)
    results.unlink()
    assert not answers(results, checkpoint, asked)
