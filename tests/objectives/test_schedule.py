"""Which objective a step trains: pure in (seed, step), with the shares that were asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from lgdlm.objectives.schedule import Constant, Random, Sequential


def test_random_has_its_shares_in_any_run_of_steps() -> None:
    schedule = Random({"l2t": 5, "t2l": 2, "unconditional": 3}, seed=1)
    for start in (1, 137, 5000):
        seen = Counter(schedule.at(step) for step in range(start, start + 100))
        assert {name: abs(seen[name] - share) <= 3 for name, share in {"l2t": 50, "t2l": 20, "unconditional": 30}.items()} == dict.fromkeys(
            seen, True
        )


def test_random_is_a_function_of_seed_and_step() -> None:
    a, b, c = Random({"l2t": 1, "t2l": 1}, 1), Random({"l2t": 1, "t2l": 1}, 1), Random({"l2t": 1, "t2l": 1}, 2)
    assert [a.at(k) for k in range(60)] == [b.at(k) for k in reversed(range(60))][::-1] != [c.at(k) for k in range(60)]


def test_a_mode_without_weight_never_comes() -> None:
    assert {Random({"l2t": 1, "t2l": 0}, 3).at(k) for k in range(200)} == {"l2t"}


@pytest.mark.parametrize("weights", [{}, {"l2t": 0.0}, {"l2t": 1.0, "t2l": -1.0}])
def test_shares_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mode_weights"):
        Random(weights, 0)


def test_phases_follow_one_another_and_the_last_stays() -> None:
    schedule = Sequential([("unconditional", 2), ("l2t", 3)])
    assert [schedule.at(k) for k in range(1, 8)] == ["unconditional"] * 2 + ["l2t"] * 5
    with pytest.raises(ValueError, match="empty"):
        Sequential([])
    assert Constant("t2l").at(9) == "t2l"
