"""A run directory: one writer, a strict log, and nothing left of a run that never started."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lgdlm.errors import LockedError, StorageError
from lgdlm.training.naming import checkpoints_of, step_named
from lgdlm.training.run import EVENTS, LEDGER, LOG, RunDirectory
from lgdlm.training.shelf import set_aside_behind


def test_a_second_writer_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run")
    first.start("a: 1\n", 0, None)
    with pytest.raises(LockedError, match=f"{os.getpid()}") as refused:
        RunDirectory(tmp_path / "run")
    assert refused.value.exit_code == 4
    first.close()
    RunDirectory(tmp_path / "run").close()


def test_the_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from lgdlm.training.run import RunDirectory
RunDirectory(Path({str(tmp_path / "run")!r})).start("", 0, None)
print(os.getpid(), flush=True)
os.kill(os.getpid(), 9)
"""
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == int(dead.stdout)
    RunDirectory(tmp_path / "run").close()


def test_a_run_that_never_started_leaves_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "outputs" / "nested" / "run")
    (run.path / "tokenizer").mkdir()
    run.close()
    assert not list(tmp_path.iterdir())


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "other").mkdir(parents=True)
    RunDirectory(tmp_path / "outputs" / "run").close()
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == ["other"]
    mine = tmp_path / "outputs" / "other" / "mine.txt"
    mine.write_text("x")
    RunDirectory(tmp_path / "outputs" / "other").close()
    assert mine.exists()
    started = RunDirectory(tmp_path / "outputs" / "run")
    started.start("", 0, None)
    started.close()
    assert (tmp_path / "outputs" / "run" / EVENTS).exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_log_never_holds_what_json_does_not(tmp_path: Path, value: float) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        run.append(LOG, {"step": 1, "loss": value})
    run.append(LOG, {"step": 1, "loss": None, "word": "\u732b"})
    assert (tmp_path / LOG).read_text(encoding="utf-8") == '{"step": 1, "loss": null, "word": "\u732b"}\n'
    run.close()


def test_going_back_sets_aside_what_follows_and_latest_goes_with_it(tmp_path: Path) -> None:
    """Any number of times, and whatever has become of what was set aside before."""
    for back in range(4):
        for step in (2, 4):
            (tmp_path / f"step_{step:08d}").mkdir(exist_ok=True)
        (tmp_path / "latest").write_text("step_00000004")
        if back == 3:
            (tmp_path / "superseded" / "step_00000004").rmdir()
        assert [folder.parent.name for folder in set_aside_behind(tmp_path, 2)] == ["superseded"]
        assert (tmp_path / "latest").read_text() == "step_00000002"
    assert sorted(p.name for p in (tmp_path / "superseded").iterdir()) == ["step_00000004", "step_00000004.1", "step_00000004.2"]
    assert len(set_aside_behind(tmp_path, 0)) == 1
    assert not (tmp_path / "latest").exists()


def test_at_no_moment_is_a_checkpoint_newer_than_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run goes back it may be killed anywhere; what is resumed then must find the lines of all steps before it."""
    for step in (2, 4):
        (tmp_path / f"step_{step:08d}").mkdir()
    for name in (LOG, LEDGER):
        (tmp_path / name).write_bytes(b"".join(b'{"step": %d}\n' % k for k in range(1, 6)))
    run, moments = RunDirectory(tmp_path), set[tuple[int, int]]()

    def watched(plain: Callable[..., None]) -> Callable[..., None]:
        def act(*places: object) -> None:
            plain(*places)
            newest, lines = step_named(checkpoints_of(tmp_path)[-1]), (tmp_path / LOG).read_bytes().count(b"\n")
            assert newest <= min(lines, (tmp_path / LEDGER).read_bytes().count(b"\n"))
            moments.add((newest, lines))

        return act

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    run.start("", 2, tmp_path / "step_00000002")
    run.close()
    assert moments == {(4, 5), (2, 5), (2, 2)}


@pytest.mark.parametrize("torn", [b'{"step": 6, "lo', b'{"step": 6}', b"\0\0\0\0\n", b"[]\n", b'{"loss": 1.0}\n', b'{"step": 6}\n'])
def test_every_step_stands_in_the_log_once(tmp_path: Path, torn: bytes) -> None:
    """Behind a crash at step 6 and a checkpoint of step 3, whatever the crash left of the last line."""
    whole = b"".join(b'{"step": %d, "loss": 1.0}\n' % k for k in range(1, 6))
    for name in (LOG, LEDGER):
        (tmp_path / name).write_bytes(whole + torn)
    (tmp_path / EVENTS).write_bytes(b'{"event": "run_started"}\n{"event": "che')
    run = RunDirectory(tmp_path)
    run.start("", 3, tmp_path / "step_00000003")
    run.append(LOG, {"step": 4})
    run.close()
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()] == [1, 2, 3, 4]
    assert [json.loads(line)["step"] for line in (tmp_path / LEDGER).read_text().splitlines()] == [1, 2, 3]
    events = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
    assert [event["event"] for event in events] == ["run_started", "resumed"]
    assert events[1]["checkpoint"] == "step_00000003"


def test_what_happened_to_steps_that_are_taken_again_is_told_once(tmp_path: Path) -> None:
    """A step that is skipped, forgotten by a crash and skipped again is one skipped step; other events are history and stay."""
    run = RunDirectory(tmp_path / "run")
    run.start("", 0, None)
    for step in (1, 2, 3, 4):
        run.append(LOG, {"step": step})
        run.append(LEDGER, {"step": step, "sample_ids": ["a"]})
        run.event("step_skipped", step=step, sample_ids=["a"], reason="x")
    run.event("checkpoint_saved", step=4, checkpoint="step_00000004")
    run.start("", 2, run.path / "step_00000002")
    run.event("step_skipped", step=3, sample_ids=["a"], reason="x")
    run.close()
    events = [json.loads(line) for line in (run.path / EVENTS).read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step_skipped"] == [1, 2, 3]
    assert [event["event"] for event in events if event["event"] != "step_skipped"] == ["run_started", "checkpoint_saved", "resumed"]
    (resumed,) = [event for event in events if event["event"] == "resumed"]
    assert resumed["dropped"] == {LOG: 2, LEDGER: 2, EVENTS: 2}


def test_a_file_system_that_cannot_lock_is_not_a_run_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("lgdlm.training.run.fcntl.flock", refused)
    with pytest.raises(StorageError, match="cannot lock") as found:
        RunDirectory(tmp_path / "run")
    assert found.value.exit_code == 5
