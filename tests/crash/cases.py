"""What a run must survive, as a table: a case strikes runs and yields one finding for each blow.

    CASES[name] = title, case, small      case(ground, amount, seed) -> Finding, ...

`amount` is how many blows fall (None: all that there are), `small` that of the small version. A case that cannot go on behind a blow
raises; one that this machine does not permit raises NotPermitted. `survey` catches both.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator

from crash.chains import chain, ranks
from crash.finding import CODES, Finding, survived
from crash.places import BALLAST, disk, leave, read_only
from crash.saves import STEPS, history, history_power, power, refused, save
from crash.strike import MOMENTS, POINTS, Strike
from crash.trial import Ground

SIZE = 16384  # kilobytes of a disk: five checkpoints


def signals(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """SIGTERM and SIGINT inside the loop: the step is finished and saved, 143 and 130."""
    rng = random.Random(seed)
    every = [(point, moment, blow) for point in POINTS for moment in MOMENTS[point] for blow in CODES]
    for point, moment, blow in every if amount is None else rng.sample(every, amount):
        strike = Strike(point, 1 if point == "evaluation" else rng.randint(1, 4), moment, blow)
        yield survived(ground.trial(STEPS), strike, CODES[blow])


def signals_while_saving(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """One or two signals inside a save, or before the first step: after one it is finished, after two it is left as it is."""
    rng = random.Random(seed)
    trial = ground.trial(STEPS)
    life = trial.start(Strike("data", 3, "before", "TERM"))
    life.end()
    shutil.rmtree(trial.folder)
    visits = [(point, visit) for point in ("write", "fsync", "rename") for visit in range(1, life.tally[point] + 1)]
    for point, visit in visits if amount is None else rng.sample(visits, amount):
        blow = rng.choice(("TERM", "INT", "TERM TERM", "INT TERM"))
        yield survived(ground.trial(STEPS), Strike(point, visit, "before", blow), *(CODES[name] for name in blow.split()))


def full(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """A disk that fills up: exit 5, again 5 while it is full, and on when there is room."""
    rng = random.Random(seed)
    for number in range(amount or 12):
        with disk(ground.folder / f"full-{number}", SIZE) as place:
            trial = ground.trial(STEPS, place)
            assert trial.go(Strike("data", 3, "before", "TERM")).code == CODES["TERM"]
            leave(place, rng.randrange(4096, 3_000_000, 4096))
            for _ in range(2):
                outcome = trial.go().ended(5)
                assert "DISK_FULL" in outcome.line or "STORAGE" in outcome.line
                trial.sound()
            (place / BALLAST).unlink()
            trial.recovered()
        yield Finding("ENOSPC", "a full disk")


def read_only_disk(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """A disk that became read-only: exit 5, and on when it can be written."""
    for number in range(amount or 4):
        with disk(ground.folder / f"read-only-{number}", SIZE) as place:
            trial = ground.trial(STEPS, place)
            if number % 2:
                assert trial.go(Strike("EMA", 3)).code == -signal.SIGKILL
            aside = ground.trial(STEPS)
            read_only(place, True)
            try:
                more = (f"logging.save_dir={place}",)
                outcome = aside.go(more=more).ended(5)
                assert "READ_ONLY" in outcome.line or "STORAGE" in outcome.line
                trial.sound()
            finally:
                read_only(place, False)
            trial.recovered()
        yield Finding("EROFS", "a read-only disk")


LOCKS = ('{"pid": 1, "host": "elsewhere"}', "", '{"pid": 99999', "\0" * 300)


def locks(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """A lock that nobody holds does not block, whatever it says; a live one does, also while its process stands still."""
    for text in LOCKS:
        trial = ground.trial(STEPS)
        trial.run.mkdir()
        (trial.run / "lock").write_text(text)
        trial.recovered()
        yield Finding("a stale lock", "lock")
    for end in ("goes on", "dies"):
        trial = ground.trial(STEPS)
        holder = trial.start(Strike("EMA", 3, "before", "STOP"))
        assert holder.stopped()
        before = {path: path.read_bytes() for path in trial.run.rglob("*") if path.is_file()}
        second = ground.trial(STEPS)
        outcome = second.go(more=(f"logging.save_dir={trial.folder}",)).ended(4)
        assert str(holder.pid) in outcome.line
        assert {path: path.read_bytes() for path in trial.run.rglob("*") if path.is_file()} == before
        holder.send(signal.SIGCONT if end == "goes on" else signal.SIGKILL)
        assert holder.end().code == (0 if end == "goes on" else -signal.SIGKILL)
        trial.recovered()
        yield Finding(f"a live lock whose holder {end}", "lock")


def clock(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """The time of day jumps, once or several times, and the process is killed behind it."""
    rng = random.Random(seed)
    jumps = (-3.0e9, -86400.0, -3600.0, -1.0, 1.0, 3600.0, 86400.0, 3.0e9)
    for jump in jumps[:amount]:
        trial = ground.trial(STEPS)
        there = Strike("data", rng.randint(1, 3), "before", f"CLOCK{jump:+}")
        back = Strike("forward", rng.randint(4, 6), "after", f"CLOCK{-jump:+}")
        assert trial.go(there, back, Strike("optimizer", rng.randint(3, 4))).code == -signal.SIGKILL
        trial.sound()
        trial.recovered()
        yield Finding("the clock jumps", "back" if jump < 0 else "forward")


Case = Callable[[Ground, int | None, int], Iterator[Finding]]
CASES: dict[str, tuple[str, Case, int]] = {
    "chain": ("kill -9, one run again and again", chain, 10),
    "ranks": ("kill -9 of one process of two, one run again and again", ranks, 2),
    "save": ("kill -9 in a save", save, 8),
    "power": ("power cut in a save", power, 6),
    "history": ("kill -9 while going back to an older checkpoint", history, 4),
    "history and power": ("power cut while going back to an older checkpoint", history_power, 4),
    "refused": ("a write is refused (full, read-only, quota, denied, broken)", refused, 6),
    "signals": ("SIGTERM or SIGINT in a step", signals, 4),
    "signals while saving": ("SIGTERM or SIGINT in a write, fsync or rename, once or twice", signals_while_saving, 4),
    "full": ("a full disk", full, 1),
    "read only": ("a read-only disk", read_only_disk, 1),
    "locks": ("locks, stale and live", locks, 0),
    "clock": ("the clock jumps", clock, 2),
}
