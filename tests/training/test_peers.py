"""The watch beside the training: a silent rank is missed and ended, a job that slept as a whole misses nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lgdlm.errors import LgdlmError, PeerLost
from lgdlm.training import peers, sibling
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
