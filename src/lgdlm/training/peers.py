"""Whether the others are still there: a thread beside the training that notices what would otherwise be waited for in vain.

    beat       each rank counts up its own number in the job's store once a second, and reads that of the next rank: a count that has
               not moved for SILENCE seconds is a rank that is frozen, or behind a dead network; on this machine it is killed
    failure    a rank that ends with an error says so in the store before it goes; the others then end with the same code
    parent     the launcher started us; when somebody else is our parent, it is gone

A rank that is killed closes its connections, so what waits for it fails at once; this thread is for everything that does not. It gives
the training GRACE seconds to end by itself and then ends the process: a collective that waits for a dead peer cannot be interrupted.

Silence is counted in seconds that this process was awake. A job that a batch system suspends as a whole misses nobody when it wakes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from lgdlm import errors
from lgdlm.errors import LgdlmError, PeerLost
from lgdlm.training import sibling

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT, SILENCE, GRACE = 1.0, 16.0, 6.0  # seconds; a lost peer ends the job within their sum
NAP = 5.0  # seconds between two beats that still count as silence: what takes longer was sleep
JOB, FAILURES = "lgdlm", "failures"  # of the store: whose it is, and how many ranks have said that they fail
ASKED = 2.0  # seconds in which the reason of a broken connection may still be posted


class PeerEnded(PeerLost):
    """Another rank ended with `exit_code`, and so does this one."""

    def __init__(self, rank: int, exit_code: int, reason: str):
        code = "PEER_LOST" if exit_code == PeerLost.exit_code else "PEER_ENDED"
        super().__init__(code, f"rank {rank}", "process", f"{reason}; go on with training.resume=auto")
        self.exit_code = exit_code


def packed(problem: BaseException) -> dict[str, Any]:
    """An exception as JSON: an error of ours with its parts, anything else with its exit code and its text."""
    if isinstance(problem, LgdlmError) and not isinstance(problem, PeerEnded):
        parts = [problem.code, problem.where, problem.field, problem.message, problem.preface]
        return {"kind": type(problem).__name__, "parts": parts}
    ends = {"KeyboardInterrupt": 130, "Terminated": 143}
    code = getattr(problem, "exit_code", ends.get(type(problem).__name__, PeerLost.exit_code))
    return {"code": code, "reason": f"{type(problem).__name__}: {problem}"}


def unpacked(value: dict[str, Any], rank: int) -> LgdlmError:
    """The exception of another `rank`, to be raised here."""
    if "kind" in value:
        kind = getattr(errors, value["kind"])
        return kind(*value["parts"])
    return PeerEnded(rank, value["code"], f"ended ({value['reason']})")


def launcher_gone(rank: int) -> PeerLost:
    return PeerLost("PEER_LOST", f"rank {rank}", "launcher", "the process that started this one is gone; go on with training.resume=auto")


class Watch:
    """The thread of rank `rank` of `size`. `store` is a connection of its own; `parent` the launcher's process id, None: there is none."""

    def __init__(self, store: Store, rank: int, size: int, parent: int | None):
        self.store, self.rank, self.size, self.parent = store, rank, size, parent
        self._ended = threading.Event()
        self._problem: LgdlmError | None = None
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread: from here on nobody is missed."""
        self._ended.set()
        self._thread.join(timeout=GRACE)

    def check(self) -> None:
        """Raise what the thread has found, if anything."""
        if self._problem is not None:
            raise self._problem

    def post(self, problem: BaseException) -> None:
        """Tell the others why this rank ends. Where the store is gone there is nobody to tell."""
        try:
            self.store.set(f"failure/{self.rank}", json.dumps(packed(problem)))
            self.store.add(FAILURES, 1)
        except RuntimeError:
            return

    def blame(self, broken: BaseException) -> LgdlmError:
        """Why a collective failed with `broken`: what a peer has posted, or that one is gone."""
        last = time.monotonic() + ASKED
        while self._problem is None and time.monotonic() < last:
            if (problem := self._posted()) is not None:
                return problem
            time.sleep(BEAT / 10)
        line = str(broken).strip().splitlines() or [type(broken).__name__]
        return self._problem or PeerLost("PEER_LOST", f"rank {self.rank}", "peer", f"another process of the job is gone ({line[0]})")

    def _run(self) -> None:
        seen, silent, last = -1, 0.0, time.monotonic()
        watched = (self.rank + 1) % self.size
        while not self._ended.wait(BEAT):
            now = time.monotonic()
            awake, last = min(now - last, NAP), now
            problem: LgdlmError | None = None
            if self.parent is not None and os.getppid() != self.parent:
                problem = launcher_gone(self.rank)
            else:
                try:
                    if seen == -1:
                        self.store.set(f"place/{self.rank}", sibling.whereabouts())
                    self.store.add(f"beat/{self.rank}", 1)
                    problem, count = self._posted(), self.store.add(f"beat/{watched}", 0)
                except RuntimeError as gone:
                    problem, count = PeerLost("PEER_LOST", f"rank {self.rank}", "store", f"the job's store is gone ({gone})"), seen
                silent += awake
                if count != seen or count == 0:  # 0: it has not begun, and its launcher would know
                    seen, silent = count, 0.0
                elif problem is None and silent > SILENCE:
                    problem = PeerLost("PEER_LOST", f"rank {watched}", "beat", f"has not been heard of for {SILENCE:.0f} s")
                    self._end_frozen(watched)
            if problem is not None:
                self._problem = problem
                self._end(problem)
                return

    def _end_frozen(self, rank: int) -> None:
        """Kill a rank that is not heard of, if it is on this machine: what waits for it fails at once then, and nobody is left behind."""
        try:
            if self.store.check([f"place/{rank}"]):
                sibling.end(self.store.get(f"place/{rank}").decode())
        except RuntimeError:
            return

    def _posted(self) -> LgdlmError | None:
        """The failure of another rank: one of its own accord before one that followed from it."""
        found: LgdlmError | None = None
        try:
            if self.store.add(FAILURES, 0) > 0:
                for rank in (r for r in range(self.size) if r != self.rank):
                    if self.store.check([f"failure/{rank}"]):
                        problem = unpacked(json.loads(self.store.get(f"failure/{rank}")), rank)
                        if found is None or found.exit_code == PeerLost.exit_code:
                            found = problem
        except RuntimeError as gone:
            return PeerLost("PEER_LOST", f"rank {self.rank}", "store", f"the job's store is gone ({gone})")
        return found

    def _end(self, problem: LgdlmError) -> None:
        """Tell the others, and end the process unless the training has ended itself."""
        self.post(problem)
        if not self._ended.wait(GRACE):
            if self.rank == 0:
                print(problem.line(), file=sys.stderr, flush=True)
            os._exit(problem.exit_code)
