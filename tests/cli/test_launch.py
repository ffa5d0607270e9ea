"""`lgdlm train nproc=2`, from outside: one command, one exit code, no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_world import data_folder, events_of, words

from lgdlm.cli.launch import LEAVE, POLL, environment, verdict, wait
from lgdlm.errors import PeerLost, Stopped
from lgdlm.training.lookout import BEAT, FAILURES, TELLING, unpacked
from lgdlm.training.naming import checkpoints_of
from lgdlm.training.peers import GRACE, SILENCE

LIMIT = 30.0  # seconds, of the contract


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


class Launched:
    """The command, once its run has `lines` in its log, or 0: as soon as its two ranks are there; `ranks` are the processes that train."""

    def __init__(self, command: list[str], run: Path, lines: int):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        log, last = run / "training_log.jsonl", time.monotonic() + 170
        while not self.ready() if lines == 0 else not (log.exists() and log.read_text().count("\n") >= lines):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < last
            time.sleep(0.05)
        self.ranks = sorted(children_of(self.process.pid), key=lambda pid: int(variable(pid, "RANK")))

    def ready(self) -> bool:
        """Whether two processes know which rank they are: a child has its parent's environment until it begins."""
        return sorted(variable(pid, "RANK") for pid in children_of(self.process.pid)) == ["0", "1"]

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
    return [int(place.name) for place in Path("/proc").glob("[0-9]*") if stat_of(int(place.name))[1:2] == [str(parent)]]


def stat_of(pid: int) -> list[str]:
    """State, parent, ... of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def variable(pid: int, name: str) -> str:
    words = dict(word.partition("=")[::2] for word in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return words.get(name, "")


def alive(pid: int) -> bool:
    return stat_of(pid)[:1] not in ([], ["Z"])


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[object]:
    started: list[Launched] = []

    def launched(*prefix: str, more: tuple[str, ...] = (), lines: int = 5) -> Launched:
        own = words(data, tmp_path, "training.num_train_steps=100000", "logging.eval_freq=1000000", *more)
        started.append(Launched([*(prefix or (sys.executable, "-m", "lgdlm")), *own], tmp_path / "run", lines))
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", [pytest.param("rank 0", marks=pytest.mark.nightly), "rank 1", "launcher"])
@pytest.mark.parametrize("later", [pytest.param(seconds, marks=pytest.mark.nightly if seconds else ()) for seconds in (0.0, 1.0, 2.0, 4.0)])
def test_who_is_killed_while_the_job_starts_takes_all_along(killed: str, later: float, start: object) -> None:
    """The others are still on their way, and would wait for it there."""
    job = start(more=("training.nproc=2",), lines=0)  # type: ignore[operator]
    time.sleep(later)
    os.kill(job.process.pid if killed == "launcher" else job.ranks[int(killed[-1])], signal.SIGKILL)
    assert job.all_end(), "somebody is left"
    assert job.process.returncode == (-signal.SIGKILL if killed == "launcher" else 7)
    if killed != "launcher":
        (said,) = job.process.communicate()[1].splitlines()
        assert said.startswith(f"error: E_PEER_LOST {killed} process: ended")


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_job_that_was_stopped_goes_on(start: object, tmp_path: Path) -> None:
    """Ctrl-Z for longer than a rank may be silent, and `fg`."""
    job = start(more=("training.nproc=2",))  # type: ignore[operator]
    job.process.send_signal(signal.SIGTSTP)
    everybody, last = [job.process.pid, *job.ranks], time.monotonic() + LIMIT
    while {stat_of(pid)[0] for pid in everybody} != {"T"}:
        assert time.monotonic() < last
        time.sleep(0.05)
    log = tmp_path / "run/training_log.jsonl"
    before = log.read_text().count("\n")
    time.sleep(SILENCE + 2 * BEAT)
    assert log.read_text().count("\n") == before
    job.process.send_signal(signal.SIGCONT)
    last = time.monotonic() + LIMIT
    while log.read_text().count("\n") < before + 50:
        assert time.monotonic() < last
        assert job.process.poll() is None
        time.sleep(0.05)
    job.process.send_signal(signal.SIGTERM)
    assert job.all_end()
    assert job.process.returncode == 143


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
    (line,) = job.process.communicate()[1].splitlines()
    assert line.startswith("error: E_INTERRUPTED run ")
    (stopped,) = events_of(tmp_path / "run", "signal_received")
    assert checkpoints_of(tmp_path / "run")[-1].name == f"step_{stopped['step']:08d}"


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ended", ["rank 1", "rank 1, frozen", "launcher"])
def test_torchrun_starts_it_and_its_end_is_ours(ended: str, start: object) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lgdlm"]
    job = start(*torchrun)  # type: ignore[operator]
    os.kill(job.process.pid if ended == "launcher" else job.ranks[1], signal.SIGSTOP if ended.endswith("frozen") else signal.SIGKILL)
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


class Store:
    """Where ranks say that they fail."""

    def __init__(self, *failing: int):
        self.values = {f"failure/{rank}": "" for rank in failing}
        self.count = len(failing)

    def add(self, name: str, number: int) -> int:
        assert name == FAILURES
        self.count += number
        return self.count

    def check(self, names: list[str]) -> bool:
        return all(name in self.values for name in names)

    def set(self, name: str, value: str) -> None:
        self.values[name] = value


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgdlm.cli.launch.LEAVE", 0.2)
    monkeypatch.setattr("lgdlm.cli.launch.POLL", 0.01)


@pytest.mark.usefixtures("at_once")
def test_a_rank_that_never_ends_is_killed_soon_after_another_said_that_it_fails() -> None:
    """Not only after another has ended: that one waits for it first, and both together are more than the contract allows."""
    frozen = Rank(None)
    assert wait([Rank(None), frozen], Store(0)) is None  # type: ignore[list-item,arg-type]
    assert frozen.killed


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("code", "told"), [(-signal.SIGKILL, 7), (1, 1)])
def test_of_a_rank_that_ends_without_a_word_the_others_are_told(code: int, told: int) -> None:
    """They may still be on their way to the store, and would wait there for one that will not come."""
    store, waiting = Store(), Rank(None)
    assert wait([waiting, Rank(3, code)], store) == 1  # type: ignore[list-item,arg-type]
    assert store.count == 1
    assert unpacked(json.loads(store.values["failure/1"]), 1).exit_code == told
    assert waiting.killed


@pytest.mark.usefixtures("at_once")
def test_what_a_rank_said_itself_is_not_said_for_it() -> None:
    store = Store(1)
    assert wait([Rank(5, 2), Rank(2, 2)], store) == 1  # type: ignore[list-item,arg-type]
    assert (store.count, store.values["failure/1"]) == (1, "")


@pytest.mark.usefixtures("at_once")
def test_nobody_is_killed_while_nobody_fails() -> None:
    ranks = [Rank(30), Rank(60)]
    assert wait(ranks, Store()) is None  # type: ignore[arg-type]
    assert not any(rank.killed for rank in ranks)


def test_a_lost_rank_is_gone_within_the_limit() -> None:
    """The longest way there is: it is missed, its watcher says so, the launcher ends it."""
    assert 2 * BEAT + SILENCE + LEAVE + POLL < LIMIT
    assert BEAT + GRACE < LEAVE
    assert 2 * BEAT + SILENCE + TELLING + GRACE < LIMIT, "without a launcher of ours"


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([7, -9], 7), ([143, 143], 143), ([7, 1], 1), ([2, 2], 2), ([6, 7], 6), ([7, 7, 130], 130), ([5, 7], 5)],
)
def test_the_job_ends_with_what_a_rank_ended_with(codes: list[int], code: int) -> None:
    assert verdict(codes) == code


@pytest.mark.parametrize(
    ("codes", "first", "code", "said"),
    [
        ([-9, 7], 0, 7, "rank 0 process: ended by SIGKILL"),
        ([0, 7], 1, 7, "rank 1 process: ended by exit code 7"),
        ([-9, 3], 1, 3, "rank 1 process: ended by exit code 3"),
        ([-9, -9], None, 7, "rank 0 process: ended by SIGKILL"),
    ],
)
def test_where_the_lead_cannot_speak_the_launcher_does(codes: list[int], first: int | None, code: int, said: str) -> None:
    with pytest.raises(PeerLost) as lost:
        verdict(codes, first=first)
    assert lost.value.exit_code == code
    assert said in lost.value.line()


@pytest.mark.parametrize(
    ("codes", "code", "spoke"),
    [
        ([-15, -15], 143, False),
        ([-15, 7], 143, False),
        ([0, 143], 143, False),
        ([0, -9], 143, False),
        ([143, 143], 143, True),
        ([7, -15], 143, True),
        ([0, 0], 0, True),
        ([5, 7], 5, True),
    ],
)
def test_a_signal_that_meets_ranks_which_cannot_say_so_yet(codes: list[int], code: int, spoke: bool) -> None:
    """Where the lead could not speak, the launcher does."""
    if spoke:
        assert verdict(codes, [signal.SIGTERM]) == code
        return
    with pytest.raises(Stopped) as stopped:
        verdict(codes, [signal.SIGTERM])
    assert stopped.value.exit_code == code


def test_a_rank_is_told_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    own = environment(1, 4, 12345)
    assert (own["RANK"], own["LOCAL_RANK"], own["WORLD_SIZE"], own["MASTER_PORT"]) == ("1", "1", "4", "12345")
    assert own["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert int(environment(0, 1000, 1)["OMP_NUM_THREADS"]) == 1
