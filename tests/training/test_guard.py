"""A non-finite step changes nothing, is told, and after too many in a row ends the run with the last good weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from training_world import assembly, data_folder, digests, events_of, log_of, train

from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.guard import Guard
from lgdlm.training.naming import checkpoints_of
from lgdlm.training.weights import weights_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", [1.0, math.nan, math.inf])
def test_only_finite_steps_are_admitted(loss: float, norm: float) -> None:
    guard = Guard(patience=1)
    assert guard.admits(loss, norm) == (math.isfinite(loss) and math.isfinite(norm))
    assert guard.skipped == guard.skipped_in_a_row == (0 if math.isfinite(loss + norm) else 1)


def test_patience_counts_a_row() -> None:
    guard = Guard(patience=2)
    seen = []
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan, math.nan):
        guard.admits(loss, 1.0)
        seen.append(guard.exhausted)
    assert seen == [False] * 5 + [True]
    assert (guard.skipped, guard.skipped_in_a_row) == (5, 3)
    guard.forget_row()
    assert (guard.skipped, guard.skipped_in_a_row, guard.exhausted) == (2, 0, False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_skipped_step_leaves_every_bit(data: Path, tmp_path: Path, optimizer: str) -> None:
    """One poisoned sample is enough: weights, moments and averages are those before, and the next step is as if it had not been."""
    parts = assembly(data, tmp_path, f"optimizer.name={optimizer}")
    step = parts.train_step

    def state() -> dict[str, torch.Tensor]:
        held = {**weights_of(parts.model), **step.optimizers.tensors(), **{f"ema {k}": v for k, v in step.ema.average.items()}}
        return {name: tensor.clone() for name, tensor in held.items()}

    for k in (1, 2):
        assert step(parts.loader.step(k), k, 1.0)["loss"] is not None
    before = state()
    poisoned = parts.loader.step(3)
    step.poison = frozenset(poisoned.sample_ids[4:5])
    assert step(poisoned, 3, 1.0) == {"loss": None}
    assert all(p.grad is None for p in parts.model.parameters()), "nothing of it is left for the next step"
    after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    step.poison = frozenset()
    metrics = step(parts.loader.step(4), 4, 1.0)
    other = assembly(data, tmp_path / "other", f"optimizer.name={optimizer}")
    for k in (1, 2, 4):
        expected = other.train_step(other.loader.step(k), k, 1.0)
    assert metrics == expected
    assert not torch.equal(state()["denoiser.embedding.mask"], before["denoiser.embedding.mask"])


def test_a_gradient_that_overflows_is_skipped_too(data: Path, tmp_path: Path) -> None:
    parts = assembly(data, tmp_path)
    parts.model.denoiser.embedding.mask.register_hook(lambda gradient: gradient * math.inf)
    assert parts.train_step(parts.loader.step(1), 1, 1.0) == {"loss": None}
    assert parts.train_step.guard.skipped == 1


def test_skips_are_logged_and_counted(data: Path, tmp_path: Path) -> None:
    ids = assembly(data, tmp_path / "probe").loader.step(4).sample_ids
    assert train(data, tmp_path, "training.num_train_steps=8", f"training.poison_ids={ids[0]}", "training.save_every_n_steps=4") == 0
    log, skipped = log_of(tmp_path / "run"), events_of(tmp_path / "run", "step_skipped")
    assert [record["step"] for record in log if record["loss"] is None] == [4]
    assert "null" in (tmp_path / "run" / "training_log.jsonl").read_text()
    assert [(event["step"], event["sample_ids"]) for event in skipped] == [(4, list(ids))]
    assert "finite" in skipped[0]["reason"]
    assert [p.name for p in checkpoints_of(tmp_path / "run")] == ["step_00000004", "step_00000008"], "a skipped step counts"
    state = json.loads((tmp_path / "run" / "step_00000004" / "state.json").read_text())
    assert (state["skipped"], state["skipped_in_a_row"]) == (1, 1)
    state = json.loads((tmp_path / "run" / "step_00000008" / "state.json").read_text())
    assert (state["skipped"], state["skipped_in_a_row"]) == (1, 0)


def test_too_many_in_a_row_end_the_run_with_the_last_good_step(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loader = assembly(data, tmp_path / "probe").loader
    ids = [sample for k in (14, 15, 16) for sample in loader.step(k).sample_ids[:1]]
    common = ("training.lr_schedule=constant", "training.max_skipped_steps=2")
    assert train(data, tmp_path / "clean", *common, "training.num_train_steps=13") == 0
    assert train(data, tmp_path, *common, "training.num_train_steps=10") == 0
    capsys.readouterr()
    assert train(data, tmp_path, *common, "training.resume=auto", f'training.poison_ids="{",".join(ids)}"') == 6
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: E_DIVERGED")
    assert "step 16" in error[0]
    assert "last good step: 13" in error[0]
    run = tmp_path / "run"
    assert [p.name for p in checkpoints_of(run)] == ["step_00000010", "step_00000013"]
    assert [record["loss"] is None for record in log_of(run)[-4:]] == [False, True, True, True]
    assert digests(run / "step_00000013") == digests(tmp_path / "clean" / "run" / "step_00000013")
    assert json.loads((run / "step_00000013" / "state.json").read_text())["skipped_in_a_row"] == 0
    assert train(data, tmp_path, *common, "training.resume=auto", "training.num_train_steps=17") == 0
    assert all(record["loss"] is not None for record in log_of(run)), "whoever resumes meets the steps again"


def test_a_run_that_never_had_a_good_step_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [sample for k in (1, 2) for sample in assembly(data, tmp_path / "probe").loader.step(k).sample_ids]
    assert train(data, tmp_path, "training.max_skipped_steps=1", f'training.poison_ids="{",".join(ids)}"') == 6
    assert "last good step: 0" in capsys.readouterr().err
    (begun,) = checkpoints_of(tmp_path / "run")
    assert begun.name == "step_00000000", "the weights that it began with"
    assert verify_checkpoint(begun)["step"] == 0
    assert train(data, tmp_path, "training.resume=auto", "training.num_train_steps=2") == 0
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1, 2]
