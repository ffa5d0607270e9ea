"""What is known of the other ranks: a thread that asks the job's store, and may be left waiting by it.

    beat/RANK      a count that each rank raises once a BEAT        place/RANK    where its process is, to be ended there
    failure/RANK   why it ends, said before it goes                 failures      how many have said so

A store that stands still with its host does not answer, and its client waits without end whatever timeout it was given. So nobody else
waits for it: `rounds` tells whether it still answers, and the rest is what it last said.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from lgdlm import errors
from lgdlm.errors import LgdlmError, PeerLost
from lgdlm.training import sibling

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT = 1.0  # seconds between two looks
TELLING = 2.0  # seconds that a rank which ends waits for its last word to arrive
JOB, FAILURES = "lgdlm", "failures"  # of the store: whose it is, and how many ranks have said that they fail


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


class Lookout:
    """The thread of rank `rank` of `size`, with a connection of its own to the job's `store`; it looks after the next rank.

    rounds   looks that the store has answered       place   of the next rank's process, as `sibling` writes it
    heard    the next rank's count; 0: not begun     said    why another rank ends, if one has said so, or that the store is gone
    """

    def __init__(self, store: Store, rank: int, size: int):
        self.store, self.rank, self.size, self.watched = store, rank, size, (rank + 1) % size
        self.rounds, self.heard, self.place = 0, 0, ""
        self.said: LgdlmError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=TELLING)

    def post(self, problem: BaseException) -> None:
        """Tell the others why this rank ends. Where the store is gone, or does not answer, there is nobody to tell."""

        def tell() -> None:
            try:
                self.store.set(f"failure/{self.rank}", json.dumps(packed(problem)))
                self.store.add(FAILURES, 1)
            except RuntimeError:
                return

        telling = threading.Thread(target=tell, name="last word", daemon=True)
        telling.start()
        telling.join(timeout=TELLING)

    def _run(self) -> None:
        try:
            self.store.set(f"place/{self.rank}", sibling.whereabouts())
            while True:
                self._look()
                self.rounds += 1
                if self._ended.wait(BEAT):
                    return
        except RuntimeError as gone:
            self.said = self.said or PeerLost("PEER_LOST", f"rank {self.rank}", "store", f"the job's store is gone ({gone})")

    def _look(self) -> None:
        self.store.add(f"beat/{self.rank}", 1)
        self.heard = self.store.add(f"beat/{self.watched}", 0)
        if not self.place and self.store.check([f"place/{self.watched}"]):
            self.place = self.store.get(f"place/{self.watched}").decode()
        if self.store.add(FAILURES, 0) > 0:
            self.said = self._failure() or self.said

    def _failure(self) -> LgdlmError | None:
        """Of another rank: one of its own accord before one that followed from it."""
        found: LgdlmError | None = None
        for rank in (r for r in range(self.size) if r != self.rank):
            if self.store.check([f"failure/{rank}"]):
                problem = unpacked(json.loads(self.store.get(f"failure/{rank}")), rank)
                if found is None or found.exit_code == PeerLost.exit_code:
                    found = problem
        return found
