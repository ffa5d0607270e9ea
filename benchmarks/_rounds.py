"""Time in turns: what is compared runs one after another, round after round, and the minimum counts, so other load disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def fastest(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each: one call to warm up, then the minimum of `rounds` calls in turns."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    return best
