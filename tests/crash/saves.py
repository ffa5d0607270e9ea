"""A save struck at every place: each write, fsync, rename and removal of a life that goes on from one checkpoint to the next."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator

from crash.finding import CODES, Finding, survived
from crash.strike import FILES, MOMENTS, Strike
from crash.trial import EVERY, Ground, Trial

STEPS = 8
BEFORE_STEP_5 = 6  # the visit to the data: steps 1 to 4, the evaluation behind step 3, step 5
Place = tuple[str, int, str]  # point, visit, moment


def places_of(trial: Trial, *strikes: Strike, more: tuple[str, ...] = ()) -> list[Place]:
    """Every visit to a file of one life of the trial, which a strike of `strikes` ends by SIGTERM."""
    life = trial.start(*strikes, more=more)
    assert life.end().code == CODES["TERM"]
    return [(point, n + 1, moment) for point in ("write", *FILES) for n in range(life.tally.get(point, 0)) for moment in MOMENTS[point]]


def before_a_save(ground: Ground) -> tuple[Trial, list[Place]]:
    """A trial with checkpoints of steps 2 and 4, and the places of the life that goes on to the save of step 6.

    The evaluation and the removal of the oldest checkpoint are among them.
    """
    before = ground.trial(STEPS)
    assert before.go(Strike("data", BEFORE_STEP_5)).code == -signal.SIGKILL
    probe = before.copy("probe")
    places = places_of(probe, Strike("data", EVERY, "before", "TERM"))
    assert probe.newest() == 6
    shutil.rmtree(probe.folder)
    return before, places


def chosen(places: list[Place], amount: int | None, rng: random.Random) -> list[Place]:
    return places if amount is None else rng.sample(places, min(amount, len(places)))


def save(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """kill -9 before, amid and behind every write, fsync, rename and removal from the start of a life to behind its first save."""
    rng = random.Random(seed)
    before, places = before_a_save(ground)
    for point, visit, moment in chosen(places, amount, rng):
        yield survived(before.copy(f"{point}-{visit}-{moment}"), Strike(point, visit, moment), -signal.SIGKILL)


def power(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """The same, and everything that was not flushed is lost."""
    rng = random.Random(seed)
    before, places = before_a_save(ground)
    for point, visit, moment in chosen(places, amount, rng):
        yield survived(before.copy(f"power-{point}-{visit}-{moment}"), Strike(point, visit, moment, "POWER"), -signal.SIGKILL)


def refused(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """The system refuses a write, fsync or rename: exit 5, and the run goes on when it no longer does."""
    rng = random.Random(seed)
    before, places = before_a_save(ground)
    places = [place for place in places if place[0] != "unlink" and place[2] != "after"]
    for point, visit, moment in chosen(places, amount, rng):
        blow = rng.choice(("ENOSPC+", "EROFS+", "EIO", "EACCES", "EDQUOT"))
        yield survived(before.copy(f"{blow}-{point}-{visit}-{moment}"), Strike(point, visit, moment, blow), 5)


def history(ground: Ground, amount: int | None, seed: int, blow: str = "KILL") -> Iterator[Finding]:
    """kill -9 while a run goes back to an older checkpoint: no step is lost from the log, and none stands in it twice."""
    rng = random.Random(seed)
    before = ground.trial(STEPS)
    assert before.go(Strike("data", BEFORE_STEP_5)).code == -signal.SIGKILL
    older = ("training.resume=run/step_00000002",)
    probe = before.copy("probe")
    for point, visit, moment in chosen(places_of(probe, Strike("data", 1, "before", "TERM"), more=older), amount, rng):
        trial = before.copy(f"history-{blow}-{point}-{visit}-{moment}")
        yield survived(trial, Strike(point, visit, moment, blow), -signal.SIGKILL, more=older)
    shutil.rmtree(before.folder)
    shutil.rmtree(probe.folder)


def history_power(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """The same, and everything that was not flushed is lost."""
    yield from history(ground, amount, seed, "POWER")
