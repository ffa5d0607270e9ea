"""One run that is killed again and again, alone or with another rank."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

from crash.finding import Finding
from crash.strike import MOMENTS, Strike
from crash.trial import Ground

IN_A_LIFE = {"write": 40, "fsync": 60, "rename": 30, "unlink": 20, "evaluation": 2}  # visits within about four steps; of the others 4


def chain(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """One run killed again and again, at every point in turn; behind each kill its checkpoints are those of a run never killed."""
    kills, rng = amount or 50, random.Random(seed)
    trial = ground.trial(6 * kills)
    points = [point for _ in range(-(-kills // len(MOMENTS))) for point in rng.sample(sorted(MOMENTS), len(MOMENTS))][:kills]
    for point in points:
        strike = Strike(point, rng.randint(1, IN_A_LIFE.get(point, 4)), rng.choice(MOMENTS[point]))
        outcome = trial.go(strike)
        assert outcome.code == -signal.SIGKILL, f"{strike} in {trial.folder}: {outcome}"
        trial.sound()
        yield Finding("KILL", point)
    trial.recovered()


def ranks(ground: Ground, amount: int | None, seed: int) -> Iterator[Finding]:
    """The same with two processes, one of them killed: the other ends with exit 7."""
    kills, rng = amount or 50, random.Random(seed)
    trial = ground.trial(6 * kills, ranks=2)
    of_all = ("data", "forward", "backward", "optimizer", "EMA")
    for kill in range(kills):
        struck = kill % 2
        point = rng.choice(of_all if struck else sorted(MOMENTS))  # the lead alone writes
        strike = Strike(point, rng.randint(1, IN_A_LIFE.get(point, 4)), rng.choice(MOMENTS[point]))
        outcomes = trial.together(strike, struck=struck)
        assert outcomes[struck].code == -signal.SIGKILL, f"{strike} in {trial.folder}: {outcomes}"
        assert outcomes[1 - struck].code == 7, f"{strike} in {trial.folder}: {outcomes}"
        trial.sound()
        yield Finding("KILL", f"{point} of rank {struck}")
    trial.recovered()
