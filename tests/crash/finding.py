"""One blow and what became of it: the run is what it would have been, or it is said why not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from crash.strike import Strike
from crash.trial import Trial

CODES = {"TERM": 143, "INT": 130}


@dataclass(frozen=True)
class Finding:
    """One blow, where it fell, and why the run did not survive it (empty: it did)."""

    blow: str
    where: str
    failure: str = ""


def survived(trial: Trial, strike: Strike, *codes: int, more: tuple[str, ...] = ()) -> Finding:
    """The blow falls, the process ends with one of `codes`, what lies there is sound, and the run goes on to what it would have been."""
    try:
        outcome = trial.go(strike, more=more)
        assert outcome.code in codes, f"exit {outcome.code}, expected {codes}: {outcome.err[-2000:]}"
        if outcome.code >= 0:
            outcome.ended(outcome.code)
        if strike.blow in CODES:
            assert trial.newest() == trial.steps_logged(), "a signal saves the step it falls in"
        trial.sound()
        trial.recovered()
    except Exception as failure:
        return Finding(strike.blow, strike.point, f"{strike} in {trial.folder}: {failure!r}")
    shutil.rmtree(trial.folder)
    return Finding(strike.blow, strike.point)
