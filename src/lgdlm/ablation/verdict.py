"""Is a variant better than the one it is compared with? Runs of one seed make a pair.

    d_s = ours_s - theirs_s over the seeds s that both finished,      better where the interval of mean(d) lies on the better side of 0

Pairing removes what a seed does to both (data order, noise). An interval that holds 0 says that no difference was shown, not that
there is none; its width says which difference would have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lgdlm.ablation.student import Estimate, estimate

BETTER, WORSE, OPEN, NOT_COMPARED = "better", "worse", "no difference shown", "not compared"
VERDICTS = (BETTER, WORSE, OPEN, NOT_COMPARED)


class Comparison(NamedTuple):
    """`difference` is None where no seed has both values, and then nothing is compared."""

    difference: Estimate | None
    verdict: str


def compare(ours: Mapping[int, float], theirs: Mapping[int, float], better: str) -> Comparison:
    """The paired difference of two variants' values by seed; `better` is `lower` or `higher`. Fewer than two pairs are not judged."""
    assert better in ("lower", "higher")
    pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return Comparison(None, NOT_COMPARED)
    found = estimate(pairs)
    if found.low is None or found.high is None:
        return Comparison(found, NOT_COMPARED)
    if found.low <= 0 <= found.high:
        return Comparison(found, OPEN)
    return Comparison(found, BETTER if (found.mean > 0) == (better == "higher") else WORSE)


def sentence(name: str, against: str, failures: Sequence[str], runs: int, judged: Sequence[tuple[str, str]]) -> str:
    """One row in words: how many of its `runs` failed (with their reasons), then the labels under each verdict.

    `judged` is (label of a column, its verdict); of the reference itself it is empty.
    """
    parts = []
    if failures:
        reasons = "; ".join(dict.fromkeys(failures))
        parts.append(f"{len(failures)} of {runs} runs failed ({reasons})")
    if name == against:
        parts.append("the others are compared with it")
    for verdict in VERDICTS:
        labels = [label for label, found in judged if found == verdict]
        if labels:
            parts.append(f"{verdict} {'in' if verdict in (BETTER, WORSE) else 'for'} {' and '.join(labels)}")
    beside = "" if name == against else f" against {against}"
    return f"{name}{beside}: {'; '.join(parts)}."
