"""The one loop: when it saves, validates and ends, and what a signal does."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from training_world import assembly, data_folder, digests, events_of, log_of, train, train_apart

from lgdlm.errors import InputError
from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.loop import Plan
from lgdlm.training.modes import mode_shares
from lgdlm.training.naming import checkpoints_of
from lgdlm.training.run import RunDirectory

SEND = """
import os, signal
from lgdlm.training.run import RunDirectory
append = RunDirectory.append
def signalled(self, name, record):
    append(self, name, record)
    if record.get("step") == 7 and name == "training_log.jsonl":
        for number in {numbers}: os.kill(os.getpid(), number)
RunDirectory.append = signalled
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def interrupted(data: Path, out: Path, *numbers: int) -> subprocess.CompletedProcess[str]:
    return train_apart(data, out, "training.num_train_steps=12", hook=SEND.format(numbers=[int(n) for n in numbers]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_current_step(data: Path, tmp_path: Path, number: int, code: int) -> None:
    done = interrupted(data, tmp_path / "a", number)
    assert done.returncode == code, done.stderr
    assert verify_checkpoint(tmp_path / "a" / "run" / "step_00000007")["step"] == 7
    assert (tmp_path / "a" / "run" / "latest").read_text() == "step_00000007"
    assert events_of(tmp_path / "a" / "run", "signal_received")[0]["signal"] == number
    assert train(data, tmp_path / "a", "training.resume=auto", "training.num_train_steps=12") == 0
    assert train(data, tmp_path / "b", "training.num_train_steps=12") == 0
    assert digests(tmp_path / "a" / "run" / "step_00000012") == digests(tmp_path / "b" / "run" / "step_00000012")
    assert log_of(tmp_path / "a" / "run") == log_of(tmp_path / "b" / "run")


def test_a_second_signal_exits_at_once_and_harms_nothing(data: Path, tmp_path: Path) -> None:
    done = interrupted(data, tmp_path, signal.SIGTERM, signal.SIGTERM)
    assert done.returncode == 143
    assert not checkpoints_of(tmp_path / "run")
    assert not events_of(tmp_path / "run", "signal_received")
    assert train(data, tmp_path, "training.resume=auto", "training.num_train_steps=12") == 0
    assert [record["step"] for record in log_of(tmp_path / "run")] == list(range(1, 13))


def test_a_locked_run_is_left_to_its_writer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = RunDirectory(tmp_path / "run")
    writer.start("mine\n", 0, None)
    assert train(data, tmp_path) == 4
    assert capsys.readouterr().err.startswith("error: E_LOCKED")
    assert (tmp_path / "run" / "config.yaml").read_text() == "mine\n"
    writer.close()


def test_when_it_saves_and_validates(data: Path, tmp_path: Path) -> None:
    """68 texts are 8 steps an epoch: two epochs, a checkpoint at each end and every fifth step, validation every sixth and at last."""
    options = ("training.num_train_steps=null", "training.num_epochs=2", "training.save_every_n_steps=5", "training.keep_checkpoints=9")
    assert train(data, tmp_path, *options, "logging.eval_freq=6") == 0
    names = [p.name for p in checkpoints_of(tmp_path / "run")]
    assert names == ["step_00000005", "epoch_001", "step_00000010", "step_00000015", "epoch_002"]
    log = log_of(tmp_path / "run")
    assert [record["epoch"] for record in log] == [1] * 8 + [2] * 8
    assert [record["step"] for record in log if "validation/nelbo_given_z" in record] == [6, 12, 16]
    assert train(data, tmp_path / "more", *options, f"training.resume={tmp_path / 'run' / 'epoch_001'}") == 0
    assert digests(tmp_path / "more" / "run" / "epoch_002") == digests(tmp_path / "run" / "epoch_002")


def test_the_clock_ends_a_run_with_a_checkpoint_and_a_validation(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, "training.num_train_steps=null", "training.max_minutes=0.005") == 0
    log = log_of(tmp_path / "run")
    assert "validation/nelbo_given_z" in log[-1]
    assert checkpoints_of(tmp_path / "run")[-1].name == f"step_{log[-1]['step']:08d}"


def test_the_share_done_is_the_later_of_steps_and_clock() -> None:
    plan = Plan(steps=100, warmup=0, minutes=1.0)
    assert plan.share_done(50, 15.0) == 0.5
    assert plan.share_done(10, 45.0) == 0.75
    assert plan.share_done(200, 0.0) == plan.share_done(0, 600.0) == 1.0
    assert Plan(steps=100, warmup=0).share_done(25, 1e9) == 0.25


def test_a_metric_that_is_not_finite_is_null_and_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap: NaN in the log is no JSON."""
    monkeypatch.setattr("lgdlm.training.assemble.validate", lambda *a: {"validation/nelbo_given_z": float("inf")})
    assert train(data, tmp_path, "training.num_train_steps=2") == 0
    assert log_of(tmp_path / "run")[-1]["validation/nelbo_given_z"] is None
    assert events_of(tmp_path / "run", "metric_not_finite")[0]["metrics"] == ["validation/nelbo_given_z"]


def test_the_learning_rate_of_a_skipped_step_is_its_own(data: Path, tmp_path: Path) -> None:
    ids = assembly(data, tmp_path / "probe").loader.step(3).sample_ids
    for name, options in (("skipped", (f"training.poison_ids={ids[0]}",)), ("clean", ())):
        assert train(data, tmp_path / name, "training.num_train_steps=5", *options) == 0
    skipped, clean = ([record["lr"] for record in log_of(tmp_path / name / "run")] for name in ("skipped", "clean"))
    assert skipped == clean


def test_validation_is_the_same_whenever_it_is_asked(data: Path, tmp_path: Path) -> None:
    parts = assembly(data, tmp_path)
    first = parts.validation()
    assert parts.validation() == first
    parts.train_step(parts.loader.step(1), 1, 1.0)
    assert parts.validation() != first


def test_validation_judges_the_averaged_weights(data: Path, tmp_path: Path) -> None:
    parts = assembly(data, tmp_path)
    before = parts.validation()
    for p in parts.model.parameters():
        p.data.add_(1.0)
    assert parts.validation() == before


@pytest.mark.parametrize("name", ["unconditional", "stage1_coupling", "l2t", "t2l"])
def test_a_mode_trains_what_it_names(data: Path, tmp_path: Path, name: str) -> None:
    """Trap: a mode that falls back to another one. The log names the objective whose metrics it holds."""
    assert train(data, tmp_path, f"loss.loss_type={name}", "training.num_train_steps=2") == 0
    modes = {key.partition("/")[0] for record in log_of(tmp_path / "run") for key in record if "/" in key} - {"validation"}
    assert modes == {"unconditional" if name == "stage1_coupling" else name}


@pytest.mark.parametrize(
    ("weights", "named"),
    [({"l2r": 1.0}, "l2r"), ({"unconditional": 1.0, "stage1_coupling": 2.0}, "same mode")],
)
def test_shares_of_unknown_or_repeated_modes_are_refused(weights: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        mode_shares(weights)
    assert mode_shares({"stage1_coupling": 2.0, "unconditional": 0.0, "l2t": 1.0}) == {"unconditional": 2.0, "l2t": 1.0}


def test_a_warm_start_takes_averages_and_nothing_else(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "a", "training.num_train_steps=5") == 0
    warm = assembly(data, tmp_path / "b", f"model.checkpoint_path={tmp_path / 'a' / 'run'}")
    from safetensors.torch import load_file

    averages = load_file(tmp_path / "a" / "run" / "step_00000005" / "ema.safetensors")
    named = dict(warm.model.named_parameters())
    assert averages.keys() == named.keys()
    assert all((named[name] == value).all() for name, value in averages.items())
    assert all((warm.train_step.ema.average[name] == value).all() for name, value in averages.items())
    assert warm.start == 0
    assert not warm.train_step.optimizers.tensors()


def test_phases_have_steps_or_epochs(data: Path, tmp_path: Path) -> None:
    def schedule(phases: str) -> list[str]:
        parts = assembly(data, tmp_path, "loss.loss_type=sequential", f"training.sequential_schedule={phases}")
        return [parts.train_step.schedule.at(k) for k in range(1, 12)]

    assert schedule('[{"type": "l2t", "epochs": 1}, {"type": "t2l", "steps": 2}, {"type": "stage1_coupling", "steps": 1}]') == (
        ["l2t"] * 8 + ["t2l"] * 2 + ["unconditional"]
    )
    for phases in ('[{"type": "l2t"}]', '[{"type": "l2t", "steps": 1, "epochs": 1}]', "[]"):
        with pytest.raises(InputError, match="sequential_schedule"):
            schedule(phases)
