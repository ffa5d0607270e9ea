"""`lgdlm train nproc=2`, from outside: one command, one exit code, no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_world import data_folder, events_of, words

from lgdlm.cli.launch import LEAVE, PATIENCE, POLL, environment, verdict, wait
from lgdlm.errors import PeerLost
from lgdlm.training.checkpoint import checkpoints_of
from lgdlm.training.peers import BEAT, GRACE, SILENCE

LIMIT = 30.0  # seconds, of the contract


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


class Launched:
    """The command, once its run has a log line of step 5; `ranks` are the processes that train."""

    def __init__(self, command: list[str], run: Path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        log, last = run / "training_log.jsonl", time.monotonic() + 170
        while not (log.exists() and log.read_text().count("\n") >= 5):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < last
            time.sleep(0.05)
        self.ranks = sorted(children_of(self.process.pid), key=lambda pid: int(variable(pid, "RANK")))

    def all_end(self) -> bool:
        """Whether within the limit every process is gone."""
        last = time.monotonic() + LIMIT
        while time.monotonic() < last:
            self.process.poll()
            if self.process.returncode is not None and not any(alive(pid) for pid in self.ranks):
                return True
            time.sleep(0.1)
        return False


def children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def variable(pid: int, name: str) -> str:
    words = dict(word.partition("=")[::2] for word in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return words[name]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[object]:
    started: list[Launched] = []

    def launched(*prefix: str, more: tuple[str, ...] = ()) -> Launched:
        own = words(data, tmp_path, "training.num_train_steps=100000", "logging.eval_freq=1000000", *more)
        started.append(Launched([*(prefix or (sys.executable, "-m", "lgdlm")), *own], tmp_path / "run"))
        return started[-1]

    yield launched
    for one in started:
        for pid in (one.process.pid, *one.ranks):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        one.process.wait()
        one.stderr.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("killed", "code"), [("rank 1", 7), ("launcher", -signal.SIGKILL)])
def test_who_is_killed_takes_all_along(killed: str, code: int, start: object, tmp_path: Path) -> None:
    job = start(more=("training.nproc=2",))  # type: ignore[operator]
    assert len(job.ranks) == 2
    os.kill(job.ranks[1] if killed == "rank 1" else job.process.pid, signal.SIGKILL)
    assert job.all_end(), "somebody is left"
    assert job.process.returncode == code
    said = job.process.communicate()[1].splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: E_PEER_LOST")


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("which", "code"), [("rank 0", 7), ("frozen", 7)])
def test_the_lead_or_a_frozen_rank_takes_all_along(which: str, code: int, start: object) -> None:
    job = start(more=("training.nproc=2",))  # type: ignore[operator]
    os.kill(job.ranks[0] if which == "rank 0" else job.ranks[1], signal.SIGKILL if which == "rank 0" else signal.SIGSTOP)
    assert job.all_end(), "somebody is left"
    assert job.process.returncode == code
    assert len(job.process.communicate()[1].splitlines()) == 1


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_saves(number: int, code: int, start: object, tmp_path: Path) -> None:
    job = start(more=("training.nproc=2",))  # type: ignore[operator]
    job.process.send_signal(number)
    assert job.all_end()
    assert job.process.returncode == code
    assert job.process.communicate()[1] == ""
    (stopped,) = events_of(tmp_path / "run", "signal_received")
    assert checkpoints_of(tmp_path / "run")[-1].name == f"step_{stopped['step']:08d}"


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", ["rank 1", "launcher"])
def test_torchrun_starts_it_and_its_end_is_ours(killed: str, start: object) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lgdlm"]
    job = start(*torchrun)  # type: ignore[operator]
    os.kill(job.ranks[1] if killed == "rank 1" else job.process.pid, signal.SIGKILL)
    assert job.all_end(), "somebody is left"
    assert job.process.returncode != 0
    assert "E_PEER_LOST" in job.process.communicate()[1]


def test_an_error_before_the_ranks_start_is_the_launchers(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lgdlm", *words(data, tmp_path, "training.nproc=2", "training.sede=1")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


class Rank:
    """A process of the launcher's, as far as `wait` asks: it ends when it is killed, or is asked for the `ends`-th time."""

    def __init__(self, ends: int | None, code: int = 0):
        self.ends, self.code, self.asked, self.killed = ends, code, 0, False

    def poll(self) -> int | None:
        self.asked += 1
        if self.killed:
            return -signal.SIGKILL
        return self.code if self.ends is not None and self.asked >= self.ends else None

    def kill(self) -> None:
        self.killed = True


def test_a_rank_that_never_ends_is_killed_soon_after_another_said_that_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only after another has ended: that one waits for it first, and both together are more than the contract allows."""
    monkeypatch.setattr("lgdlm.cli.launch.LEAVE", 0.2)
    monkeypatch.setattr("lgdlm.cli.launch.POLL", 0.01)
    frozen = Rank(None)
    wait([Rank(None), frozen], lambda: True)  # type: ignore[list-item]
    assert frozen.killed


def test_nobody_is_killed_while_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgdlm.cli.launch.LEAVE", 0.0)
    monkeypatch.setattr("lgdlm.cli.launch.POLL", 0.001)
    ranks = [Rank(30), Rank(60)]
    wait(ranks, lambda: False)  # type: ignore[arg-type]
    assert not any(rank.killed for rank in ranks)


def test_a_lost_rank_is_gone_within_the_limit() -> None:
    """The longest way there is: it is missed, its watcher says so, the launcher ends it."""
    assert 2 * BEAT + SILENCE + LEAVE + POLL < LIMIT
    assert BEAT + GRACE < LEAVE < PATIENCE < LIMIT


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([7, -9], 7), ([143, 143], 143), ([7, 1], 1), ([2, 2], 2), ([6, 7], 6), ([7, 7, 130], 130), ([5, 7], 5)],
)
def test_the_job_ends_with_what_a_rank_ended_with(codes: list[int], code: int) -> None:
    assert verdict(codes) == code


@pytest.mark.parametrize(("codes", "code"), [([-9, 7], 7), ([0, 7], 7), ([-9, 3], 3)])
def test_where_the_lead_cannot_speak_the_launcher_does(codes: list[int], code: int) -> None:
    with pytest.raises(PeerLost) as lost:
        verdict(codes)
    assert lost.value.exit_code == code


@pytest.mark.parametrize(
    ("codes", "code"), [([-15, -15], 143), ([-15, 7], 143), ([143, 143], 143), ([7, -15], 143), ([0, 0], 0), ([5, 7], 5)]
)
def test_a_signal_that_meets_ranks_which_cannot_say_so_yet(codes: list[int], code: int) -> None:
    assert verdict(codes, [signal.SIGTERM]) == code


def test_a_rank_is_told_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    own = environment(1, 4, 12345)
    assert (own["RANK"], own["LOCAL_RANK"], own["WORLD_SIZE"], own["MASTER_PORT"]) == ("1", "1", "4", "12345")
    assert own["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert int(environment(0, 1000, 1)["OMP_NUM_THREADS"]) == 1
