"""The watch beside the training: a silent rank is missed and ended, a job that slept as a whole misses nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest

from lgdlm.errors import LgdlmError, PeerLost
from lgdlm.training import lookout, peers, sibling
from lgdlm.training.lookout import Lookout
from lgdlm.training.peers import Watch

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Store:
    """The job's store in this process; `beats(count of looks)` is what rank 1 has counted up to."""

    def __init__(self, beats: Callable[[int], int], **values: str):
        self.beats, self.values, self.looks, self.own = beats, values, 0, 0

    def add(self, name: str, number: int) -> int:
        if name == "beat/1":
            self.looks += 1
            return self.beats(self.looks)
        self.own += number if name == "beat/0" else 0
        return 0

    def set(self, name: str, value: str) -> None:
        self.values[name] = value

    def check(self, names: list[str]) -> bool:
        return all(name in self.values for name in names)

    def get(self, name: str) -> bytes:
        return self.values[name].encode()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Store], Watch]]:
    """Starts a watch of rank 0 that beats every hundredth of a second and misses others after a fifth of one."""
    monkeypatch.setattr(peers, "BEAT", 0.01)
    monkeypatch.setattr(lookout, "BEAT", 0.01)
    monkeypatch.setattr(lookout, "TELLING", 0.1)
    monkeypatch.setattr(peers, "SILENCE", 0.2)
    monkeypatch.setattr(peers, "NAP", 0.02)
    monkeypatch.setattr(Watch, "_end", lambda self, problem: None)
    started: list[Watch] = []

    def start(store: Store) -> Watch:
        started.append(Watch(store, 0, 2, None))  # type: ignore[arg-type]
        started[-1].start()
        return started[-1]

    yield start
    for watch in started:
        watch.stop()


@pytest.fixture
def frozen() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    os.kill(process.pid, signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


def found_by(watch: Watch) -> LgdlmError | None:
    """What the watch has found once its thread has ended."""
    watch._thread.join(timeout=60)
    assert not watch._thread.is_alive()
    try:
        watch.check()
    except LgdlmError as problem:
        return problem
    return None


def until(true: Callable[[], bool]) -> None:
    last = time.perf_counter() + 60
    while not true():
        assert time.perf_counter() < last
        time.sleep(0.005)


@needs_proc
def test_a_silent_rank_is_missed_and_ended(watched: Callable[[Store], Watch], frozen: subprocess.Popen[bytes]) -> None:
    store = Store(lambda looks: 7, **{"place/1": sibling.whereabouts(frozen.pid)})
    problem = found_by(watched(store))
    assert isinstance(problem, PeerLost)
    assert (problem.where, problem.field) == ("rank 1", "beat")
    assert frozen.wait(60) == -signal.SIGKILL


def test_a_rank_that_has_not_begun_is_not_missed(watched: Callable[[Store], Watch]) -> None:
    store = Store(lambda looks: 0)
    watch = watched(store)
    until(lambda: store.looks > 60)
    watch.stop()
    assert found_by(watch) is None


def test_a_job_that_slept_as_a_whole_misses_nobody(watched: Callable[[Store], Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock has run on for an hour when all wake up, and the other is a few beats late."""
    slept, real, asleep_at = [0.0], time.monotonic, 20

    def beats(looks: int) -> int:
        slept[0] = 3600.0 * (looks >= asleep_at)
        return min(looks, asleep_at) + max(0, looks - asleep_at) // 4

    monkeypatch.setattr(peers.time, "monotonic", lambda: real() + slept[0])
    store = Store(beats)
    watch = watched(store)
    until(lambda: store.looks > 60)
    watch.stop()
    assert found_by(watch) is None


class Standing(Store):
    """A store whose host stands still from the fifth look on: it neither answers nor refuses."""

    def add(self, name: str, number: int) -> int:
        if self.looks >= 5:
            threading.Event().wait(600)
        return super().add(name, number)


def test_a_store_that_stands_still_is_missed(watched: Callable[[Store], Watch]) -> None:
    """Whoever asks it waits without end: that is one thread, and neither the watch, nor who ends, nor who asks why it must end."""
    watch = watched(Standing(lambda looks: looks))
    problem = found_by(watch)
    assert isinstance(problem, PeerLost)
    assert problem.field == "store"
    began = time.perf_counter()
    watch.post(problem)
    assert watch.blame(RuntimeError("gloo: connection closed")) is problem
    assert time.perf_counter() - began < 60


def test_a_real_store_that_stands_still_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's own client does when its server is stopped, whatever timeout it was given."""
    import torch.distributed as dist

    serve = "store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)"
    code = f"import time, torch.distributed as dist; {serve}; print(store.port, flush=True); time.sleep(600)"
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    monkeypatch.setattr(peers, "SILENCE", 2.0)
    monkeypatch.setattr(Watch, "_end", lambda self, problem: None)
    try:
        store = dist.TCPStore("127.0.0.1", int(host.stdout.readline()), None, False, timeout=timedelta(seconds=60), wait_for_workers=False)
        watch = Watch(store, 0, 2, None)
        watch.start()
        until(lambda: watch.lookout.rounds > 0)
        os.kill(host.pid, signal.SIGSTOP)
        problem = found_by(watch)
        assert problem is not None
        assert problem.field == "store"
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
        watch.stop()


@pytest.mark.parametrize("stderr", ["closed", "broken", "none"])
def test_a_rank_ends_also_where_nobody_reads_its_error(stderr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        if stderr == "closed":
            broken.close()
        monkeypatch.setattr(sys, "stderr", None if stderr == "none" else broken)
        monkeypatch.setattr(peers, "GRACE", 0.0)
        monkeypatch.setattr(peers.os, "_exit", ended.append)
        Watch(Store(lambda looks: 0), 0, 2, None)._end(PeerLost("PEER_LOST", "rank 1", "beat", "x"))  # type: ignore[arg-type]
        monkeypatch.undo()
        with suppress(OSError, ValueError):
            broken.close()
    assert ended == [7]


def test_what_a_rank_said_of_its_own_accord_goes_before_what_followed() -> None:
    def word(code: int) -> str:
        return json.dumps({"code": code, "reason": "x"})

    looking = Lookout(Store(lambda looks: 0, **{"failure/1": word(7), "failure/2": word(5), "failure/3": word(7)}), 0, 4)  # type: ignore[arg-type]
    found = looking._failure()
    assert found is not None
    assert (found.exit_code, found.where) == (5, "rank 2")


@needs_proc
def test_only_the_process_that_was_meant_is_ended(frozen: subprocess.Popen[bytes]) -> None:
    """Not one that has its number by now, on another machine, or in another container; nor this one."""
    place = sibling.whereabouts(frozen.pid)
    boot, namespace, pid, started = place.split("/")
    others = ("", "nothing", "/".join((boot, namespace, pid, "1")), "/".join(("other", namespace, pid, started)))
    for other in (*others, "/".join((boot, "pid:[1]", pid, started)), sibling.whereabouts()):
        assert not sibling.end(other)
        assert frozen.poll() is None
    assert sibling.end(place)
    assert frozen.wait(60) == -signal.SIGKILL
    assert not sibling.end(place)
    assert sibling.whereabouts(frozen.pid) == ""
