"""Runs are struck everywhere and go on as if nothing had been; the small version of what `make reliability` does in full."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from crash.cases import CASES
from crash.life import Server
from crash.places import NotPermitted
from crash.saves import STEPS
from crash.strike import Strike
from crash.survey import findings_of
from crash.trial import Ground


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Server() as server:
        yield Ground(server, tmp_path_factory.mktemp("ground"))


def all_survived(ground: Ground, name: str, amount: int | None) -> None:
    try:
        found = list(findings_of(ground, name, amount, seed=1))
    except NotPermitted as reason:
        pytest.skip(str(reason))
    assert found
    assert not [finding.failure for finding in found if finding.failure]


@pytest.mark.parametrize("name", CASES)
def test_a_few_blows_are_survived(ground: Ground, name: str) -> None:
    all_survived(ground, name, CASES[name][2])


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_every_blow_is_survived(ground: Ground, name: str) -> None:
    all_survived(ground, name, None)


def test_the_comparison_can_fail(ground: Ground) -> None:
    """A run with other randomness is not the run that nobody struck."""
    trial = ground.trial(STEPS)
    assert trial.go(Strike("data", 5), more=("training.seed=8",)).code == -signal.SIGKILL
    with pytest.raises(AssertionError):
        trial.sound()


def test_a_power_cut_takes_what_was_not_flushed(ground: Ground) -> None:
    """A disk that only says that it has flushed loses the save that a true one keeps: the cut is as hard as it claims to be."""
    for deaf in (False, True):
        trial = ground.trial(STEPS)
        lie = (Strike("data", 1, "before", "DEAF"),) if deaf else ()
        assert trial.go(*lie, Strike("data", 4, "before", "POWER")).code == -signal.SIGKILL
        kept = trial.run / "step_00000002" / "model.safetensors"
        assert (kept.exists() and kept.stat().st_size > 0) != deaf


def test_a_strike_falls_where_it_is_told(ground: Ground) -> None:
    """Half of the bytes of a write that is struck in its middle are on the disk, and a folder that is not renamed is no checkpoint."""
    trial = ground.trial(STEPS)
    life = trial.start(Strike("data", 2, "before", "TERM"))
    assert life.end().code == 143
    whole = (trial.run / "step_00000002/model.safetensors").stat().st_size
    sizes = set()
    for visit in range(1, life.tally["write"] + 1):
        trial = ground.trial(STEPS)
        assert trial.go(Strike("write", visit, "amid")).code == -signal.SIGKILL
        sizes |= {path.stat().st_size for path in trial.run.glob(".tmp-step_*/.tmp-model.safetensors")}
    assert sizes == {whole // 2}


def test_two_signals_before_the_first_step_end_it_at_once(ground: Ground) -> None:
    """The second falls into what the first has to tidy up."""
    trial = ground.trial(STEPS)
    outcome = trial.go(Strike("write", 2, "amid", "TERM"), Strike("unlink", 1, "before", "INT"))
    assert outcome.ended(130).kind == "INTERRUPTED"
    trial.recovered()
