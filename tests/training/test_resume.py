"""A run that was killed anywhere and resumed is the run that was never killed, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_world import data_folder, digests, events_of, lines, log_of, train, words

from lgdlm.training.naming import STATE, checkpoints_of

# where the process kills itself, as Python that runs before the command
KILLED = {
    "after the log line of step 27": """
from lgdlm.training.run import RunDirectory
append = RunDirectory.append
def dying(self, name, record):
    append(self, name, record)
    if record.get("step") == 27: os.kill(os.getpid(), signal.SIGKILL)
RunDirectory.append = dying
""",
    "inside a log line": """
from lgdlm.training.run import RunDirectory
append = RunDirectory.append
def dying(self, name, record):
    if record.get("step") == 23:
        with open(self.path / name, "a") as file: file.write('{"epoch": 3, "st')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, name, record)
RunDirectory.append = dying
""",
    "while step 20 is being written": """
from lgdlm.training import checkpoint
write_bytes = checkpoint.write_bytes
def dying(path, data):
    entry = write_bytes(path, data)
    if path.name == "optimizer.safetensors" and "00000020" in path.parent.name: os.kill(os.getpid(), signal.SIGKILL)
    return entry
checkpoint.write_bytes = dying
""",
    "between the rename of step 30 and `latest`": """
from lgdlm.training import checkpoint
rename = checkpoint.os.rename
def dying(source, target):
    rename(source, target)
    if target.name == "step_00000030": os.kill(os.getpid(), signal.SIGKILL)
checkpoint.os.rename = dying
""",
    "while the oldest checkpoint is being removed": """
from lgdlm.training import checkpoint
rmtree = checkpoint.shutil.rmtree
def dying(path, **options):
    if path.is_dir() and "removed" in path.name:
        (path / "model.safetensors").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.shutil.rmtree = dying
""",
}
OPTIONS = ("training.ledger=true", "training.keep_checkpoints=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert train(data, out, *OPTIONS) == 0
    return out / "run"


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were killed, by the place; one process imports the package and forks a run for each."""
    folders = {place: tmp_path_factory.mktemp(f"killed{i}") for i, place in enumerate(KILLED)}
    runs = [(hook, words(data, folders[place], *OPTIONS)) for place, hook in KILLED.items()]
    code = f"""
import os, signal, sys
from lgdlm.cli.__main__ import main
import torch
import lgdlm.cli.train
torch.optim.AdamW([torch.zeros(1)])  # loads the compiler once, for all
for hook, words in {runs!r}:
    if (child := os.fork()) == 0:
        exec(hook, globals())
        main(words)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, hook
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("place", KILLED)
def test_killed_and_resumed_is_never_killed(place: str, data: Path, whole: Path, killed: dict[str, Path]) -> None:
    run = killed[place] / "run"
    before = checkpoints_of(run)
    assert before
    assert before[-1].name != "step_00000040"
    assert train(data, run.parent, *OPTIONS, "training.resume=auto") == 0
    assert events_of(run, "resumed")[0]["checkpoint"] == before[-1].name
    assert digests(run / "step_00000040") == digests(whole / "step_00000040")
    assert log_of(run) == log_of(whole)
    assert [record["step"] for record in log_of(run)] == list(range(1, 41))
    assert (run / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    assert not list(run.glob(".tmp-*"))
    assert [p.name for p in checkpoints_of(run)] == ["step_00000030", "step_00000040"]
    assert (run / "latest").read_text() == "step_00000040"


def test_the_comparison_can_fail(data: Path, whole: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, *OPTIONS, "training.seed=43") == 0
    assert digests(tmp_path / "run" / "step_00000040")["model"] != digests(whole / "step_00000040")["model"]


def test_a_finished_run_is_left_as_it_is(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    assert train(data, tmp_path, *OPTIONS, "training.resume=auto") == 0
    assert log_of(tmp_path / "run") == log_of(whole)
    assert digests(tmp_path / "run" / "step_00000040") == digests(whole / "step_00000040")


def test_the_most_memory_of_all_its_processes_is_kept(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(run: Path, step: int) -> int:
        return json.loads((run / f"step_{step:08d}" / STATE).read_bytes())["peak_memory_bytes"]

    assert peak(whole, 40) > 1 << 20
    shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr("lgdlm.training.assemble.peak_memory", lambda *_: 1)
    assert train(data, tmp_path, *OPTIONS, "training.resume=auto", "training.num_train_steps=42") == 0
    assert peak(tmp_path / "run", 42) == peak(whole, 40)


def test_an_older_checkpoint_begins_another_history(data: Path, whole: Path, tmp_path: Path) -> None:
    """The log is cut at it and newer checkpoints are set aside, so that `auto` cannot pick up the abandoned branch."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert train(data, tmp_path, *OPTIONS, f"training.resume={run / 'step_00000030'}", "training.num_train_steps=35") == 0
    assert [record["step"] for record in log_of(run)] == list(range(1, 36))
    assert [p.name for p in checkpoints_of(run)] == ["step_00000030", "step_00000035"]
    assert (run / "superseded" / "step_00000040" / STATE).exists()
    assert [e["checkpoint"] for e in events_of(run, "checkpoint_superseded")] == ["step_00000040"]


def test_a_checkpoint_of_another_run_starts_a_run_of_its_own(data: Path, whole: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, f"training.resume={whole / 'step_00000030'}") == 0
    assert digests(tmp_path / "run" / "step_00000040") == digests(whole / "step_00000040")
    assert [record["step"] for record in log_of(tmp_path / "run")] == list(range(31, 41))


def test_without_resume_a_run_is_not_overwritten(data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, whole.parent) == 2
    assert "training.resume=auto" in capsys.readouterr().err


def test_another_network_cannot_be_resumed(data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = (whole / "training_log.jsonl").read_bytes()
    for change, named in (
        ("model.hidden_size=32", "expected shape"),
        ("optimizer.name=muon", "resume with the run's own"),
        ("model=mmdit", "missing"),
    ):
        assert train(data, whole.parent, "training.resume=auto", change) == 3, change
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert named in error[0]
    assert (whole / "training_log.jsonl").read_bytes() == log
    assert len(checkpoints_of(whole)) == 2


def test_events_tell_what_happened(whole: Path) -> None:
    assert [event["event"] for event in lines(whole / "events.jsonl")] == ["run_started"] + ["checkpoint_saved"] * 4
