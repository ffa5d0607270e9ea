"""What operators rely on, from outside: signals, the lock, places that cannot be written, closed streams, help."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import TextIO

import pytest
from contract.harness import Adapter, Outcome, called, jsonl
from contract.sound import World
from contract.test_adapter import wait_for_step

from lgdlm.cli.__main__ import main
from lgdlm.cli.commands import COMMANDS

LONG = {"steps": 1_000_000, "save_every": 1_000_000}


def test_a_signal_saves_the_step_and_a_lock_keeps_others_out(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = adapter.start("resume", tmp_path, run=run, **{**pristine.values, **LONG})
        steps = 0 if number == signal.SIGTERM else len(jsonl(run / "training_log.jsonl"))
        wait_for_step(run, steps + 5)
        second = adapter.call("resume", tmp_path, run=run, **{**pristine.values, **LONG}).ended(4)
        assert f"{run.name}/lock" in second.line
        assert str(process.pid) in second.line
        process.send_signal(number)
        outcome = Outcome(process.wait(60), *process.communicate())
        name = signal.Signals(number).name
        assert outcome.ended(code).line.startswith(f"error: E_INTERRUPTED {run} {name}: stopped behind step ")
        log = [line["step"] for line in jsonl(run / "training_log.jsonl")]
        assert log == list(range(1, len(log) + 1))
        assert (run / "latest").read_text() == f"step_{log[-1]:08d}"
        told = jsonl(run / "events.jsonl")[-1]
        assert (told["event"], told["signal"], told["step"]) == ("signal_received", number, log[-1])
        adapter.call("verify", tmp_path, checkpoint=run / f"step_{log[-1]:08d}").ended(0)


def test_a_stale_lock_does_not_block(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").write_text('{"pid": 1, "host": "elsewhere"}')
    adapter.call("train", tmp_path, run=tmp_path / "run", **pristine.values).ended(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_outside_the_loop_ends_at_once(
    adapter: Adapter, pristine: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """While data are read or samples drawn there is no step to save."""
    module = ModuleType("lgdlm.cli.check")
    module.run = lambda config, words: os.kill(os.getpid(), number)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lgdlm.cli.check", module)
    before, keyboard = (
        signal.getsignal(signal.SIGTERM),
        signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # shells start jobs without
    try:
        outcome = adapter.call("check", tmp_path, **pristine.values)
    finally:
        signal.signal(signal.SIGINT, keyboard)
    assert (outcome.code, outcome.kind) == (code, "INTERRUPTED")
    assert signal.getsignal(signal.SIGTERM) is before


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


@pytest.mark.parametrize("verb", ["prepare", "train", "sample-l2t", "sample-t2l", "eval"])
def test_a_place_that_cannot_be_written_is_5(adapter: Adapter, pristine: World, trained: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "a cat"}\n')
    place = below_a_file(tmp_path) / "inside"
    given = {"text": tmp_path / "t.jsonl", "prompts": tmp_path / "t.jsonl", "latents": pristine.latent_dir / "latents/validation"}
    outcome = adapter.call(verb, tmp_path, run=place, out=place, checkpoint=trained / "step_00000004", **given, **pristine.values).ended(5)
    assert "file" in outcome.line
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("verb", ["verify", "sample-l2t", "sample-t2l", "eval"])
def test_a_checkpoint_that_is_not_there_is_3(adapter: Adapter, pristine: World, tmp_path: Path, verb: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "a cat"}\n')
    given = {"prompts": tmp_path / "t.jsonl", "latents": pristine.latent_dir, "out": tmp_path / "out", **pristine.values}
    for place in (tmp_path / "nowhere", tmp_path / "t.jsonl", tmp_path):
        assert str(place) in adapter.call(verb, tmp_path, checkpoint=place, **given).ended(3).line


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30)])
def test_a_name_that_no_disk_can_have_is_2(adapter: Adapter, pristine: World, tmp_path: Path, name: str) -> None:
    adapter.call("train", tmp_path, run=tmp_path / name, **pristine.values).ended(2)


def test_a_file_that_may_not_grow_is_5(adapter: Adapter, pristine: World, trained: Path, tmp_path: Path) -> None:
    """`ulimit -f`: the system refuses with an error of its own kind, and what was there before stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        outcome = adapter.call("train", tmp_path, run=tmp_path / "run", **pristine.values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.ended(5).kind == "FILE_LIMIT"
    assert not list((tmp_path / "run").glob("*step_*"))
    adapter.call("resume", tmp_path, run=tmp_path / "run", **pristine.values).ended(0)


@pytest.mark.parametrize("kind", ["a pipe", "a link to a device"])
def test_a_device_is_not_replaced_by_a_file(adapter: Adapter, pristine: World, trained: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    os.mkfifo(out) if kind == "a pipe" else out.symlink_to("/dev/full")
    given = {"checkpoint": trained / "step_00000004", "latents": pristine.latent_dir / "latents/validation", "out": out}
    for verb in ("sample-l2t", "eval"):
        assert adapter.call(verb, tmp_path, **given, **pristine.values).ended(5).kind == "NOT_A_FILE"
    assert out.is_fifo() if kind == "a pipe" else out.is_char_device()


def left_behind() -> TextIO:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def full() -> TextIO:
    """A place where nothing more can be written."""
    return Path("/dev/full").open("w", encoding="utf-8")


@pytest.mark.parametrize("make", [left_behind, full])
def test_training_does_not_end_because_nobody_reads_of_it(
    adapter: Adapter, pristine: World, tmp_path: Path, make: Callable[[], TextIO]
) -> None:
    stream = make()
    try:
        with redirect_stderr(stream):
            assert main(adapter.words("train", run=tmp_path / "run", **pristine.values)[3:]) == 0
    finally:
        with suppress(OSError):  # what it still holds goes nowhere
            stream.close()
    assert (tmp_path / "run/latest").read_text() == "step_00000004"


def test_a_reader_that_leaves_changes_nothing_of_what_is_found(adapter: Adapter, world: World, run: Path) -> None:
    world.edit(text="")
    (run / "step_00000004/state.json").unlink()
    verify = adapter.words("verify", checkpoint=run / "step_00000004")
    for words, code in ((adapter.words("check", **world.values), 2), (verify, 3)):
        with left_behind() as stream, redirect_stdout(stream), redirect_stderr(io.StringIO()) as said:
            assert main(words[3:]) == code
        assert said.getvalue().splitlines()[-1].startswith("error: ")


def test_results_that_cannot_be_written_are_5() -> None:
    """Also the last of them, which stdout holds back until the end."""
    stream = full()
    with redirect_stdout(stream), redirect_stderr(io.StringIO()) as said:
        assert main(["--version"]) == 5
    assert "No space left" in said.getvalue()
    with suppress(OSError):
        stream.close()


def test_a_path_is_bytes(adapter: Adapter, pristine: World, trained: Path, tmp_path: Path) -> None:
    """Data are read where they lie, and named with escapes; a run is not begun where its own weights could not be read again."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff"))
    world = pristine.copied(place)
    assert "d\\udcff" in adapter.call("check", tmp_path, **world.values).ended(0).out
    adapter.call("train", tmp_path, run=tmp_path / "run", **world.values).ended(0)
    adapter.call("eval", tmp_path, checkpoint=trained / "step_00000004", out=place / "e.json", **world.values).ended(0)
    assert str(place) in json.loads((place / "e.json").read_text())["data"]["folder"]
    assert "UTF-8" in adapter.call("train", tmp_path, run=place / "run", **world.values).ended(2).line
    assert not (place / "run").exists()


def test_streams_may_be_closed(adapter: Adapter, world: World, tmp_path: Path) -> None:
    """Neither an absent stdin nor a reader that left changes what is found."""
    world.edit(text="")
    words = adapter.words("check", **world.values)
    options = {"cwd": tmp_path, "env": adapter.environment(tmp_path / "home"), "stderr": subprocess.PIPE, "text": True, "timeout": 120}
    closed = subprocess.run(words, preexec_fn=lambda: (os.close(0), os.close(1)), **options)  # type: ignore[call-overload]
    assert Outcome(closed.returncode, "", closed.stderr).ended(2).kind == "EMPTY_TEXT"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, tmp_path: Path) -> None:
    for words in ([name, "--help"], ["--help", name]):
        outcome = called(words, tmp_path)
        assert (outcome.code, outcome.err) == (0, "")
        assert name in outcome.out
    assert not list(tmp_path.iterdir())


def test_quiet_is_quiet(adapter: Adapter, pristine: World, trained: Path, tmp_path: Path) -> None:
    words = adapter.words(
        "sample-l2t", checkpoint=trained / "step_00000004", latents=pristine.latent_dir / "latents/validation", out=tmp_path / "o"
    )
    done = subprocess.run(
        [*words, "--quiet"], cwd=tmp_path, env=adapter.environment(tmp_path / "home"), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_behind_the_end_changes_nothing(pristine: World, adapter: Adapter, tmp_path: Path, number: int) -> None:
    """Taking an interpreter apart lasts; meanwhile the result is there, and the exit code is decided."""
    words = adapter.words("check", **pristine.values)[3:]
    late = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background starts without
        f"sys.argv = {['lgdlm', *words]!r}\nfrom lgdlm.cli.__main__ import main\n"
        f"code = main()\nos.kill(os.getpid(), {int(number)})\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("error:")) == (0, 0), done.stderr
    assert "no problems" in done.stdout


def test_a_second_signal_is_told_in_one_line(pristine: World, adapter: Adapter, tmp_path: Path) -> None:
    """Whenever it comes: while the first one's step is saved, while the process tidies up, or behind that."""
    for gap in (0.0, 0.02, 0.05, 0.1):
        folder = tmp_path / str(gap)
        folder.mkdir()
        process = adapter.start("resume", folder, run=folder / "run", **{**pristine.values, **LONG})
        wait_for_step(folder / "run", 3)
        process.send_signal(signal.SIGTERM)
        time.sleep(gap)
        process.send_signal(signal.SIGTERM)
        outcome = Outcome(process.wait(60), *process.communicate())
        assert outcome.ended(143).kind == "INTERRUPTED"


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_closed_standard_streams_are_not_taken_by_files(pristine: World, adapter: Adapter, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """`2>&-`: the run goes on, and what would be said to the user stands in none of its files."""
    words = adapter.words("train", run=tmp_path / "run", **pristine.values)
    close = "".join(f" {number}>&-" for number in closed)
    done = subprocess.run(["sh", "-c", f'exec "$@"{close}', "sh", *words], cwd=tmp_path)
    assert done.returncode == 0
    assert [line["step"] for line in jsonl(tmp_path / "run/training_log.jsonl")] == [1, 2, 3, 4]
    assert all(event["event"] for event in jsonl(tmp_path / "run/events.jsonl"))
