"""Whether the others are still there: a thread beside the training that notices what would otherwise be waited for in vain.

    beat       the next rank's count has not moved for SILENCE seconds: it is frozen, or behind a dead network; on this machine it is killed
    store      no look at the job's store has been answered for SILENCE seconds: it stands still with its host
    failure    a rank that ends with an error says so before it goes; the others then end with the same code
    parent     the launcher started us; when somebody else is our parent, it is gone

A rank that is killed closes its connections, so what waits for it fails at once; this thread is for everything that does not. It gives
the training GRACE seconds to end by itself and then ends the process: a collective that waits for a dead peer cannot be interrupted.
It asks nobody itself, and so waits for nobody (`lgdlm.training.lookout`).

Silence is counted in seconds that this process was awake. A job that a batch system suspends as a whole misses nobody when it wakes.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from lgdlm.errors import LgdlmError, PeerLost, tell
from lgdlm.training import sibling
from lgdlm.training.lookout import BEAT, Lookout

if TYPE_CHECKING:
    from torch.distributed import Store

SILENCE, GRACE = 16.0, 6.0  # seconds; a lost peer ends the job within their sum and a few beats
NAP = 5.0  # seconds between two beats that still count as silence: what takes longer was sleep
ASKED = 2.5 * BEAT  # seconds in which the reason of a broken connection may still be posted


def launcher_gone(rank: int) -> PeerLost:
    return PeerLost("PEER_LOST", f"rank {rank}", "launcher", "the process that started this one is gone; go on with training.resume=auto")


class Watch:
    """The thread of rank `rank` of `size`. `store` is a connection of its own; `parent` the launcher's process id, None: there is none."""

    def __init__(self, store: Store, rank: int, size: int, parent: int | None):
        self.rank, self.size, self.parent = rank, size, parent
        self.lookout = Lookout(store, rank, size)
        self._ended = threading.Event()
        self._problem: LgdlmError | None = None
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def start(self) -> None:
        self.lookout.start()
        self._thread.start()

    def stop(self) -> None:
        """End the threads: from here on nobody is missed."""
        self._ended.set()
        self.lookout.stop()
        self._thread.join(timeout=GRACE)

    def check(self) -> None:
        """Raise what the thread has found, if anything."""
        if self._problem is not None:
            raise self._problem

    def post(self, problem: BaseException) -> None:
        """Tell the others why this rank ends, if they can be told."""
        self.lookout.post(problem)

    def blame(self, broken: BaseException) -> LgdlmError:
        """Why a collective failed with `broken`: what a peer has posted, or that one is gone."""
        last = time.monotonic() + ASKED
        while (found := self._problem or self.lookout.said) is None and time.monotonic() < last:
            time.sleep(BEAT / 10)
        line = str(broken).strip().splitlines() or [type(broken).__name__]
        return found or PeerLost("PEER_LOST", f"rank {self.rank}", "peer", f"another process of the job is gone ({line[0]})")

    def _run(self) -> None:
        heard, rounds, silent, unanswered, last = 0, 0, 0.0, 0.0, time.monotonic()
        while not self._ended.wait(BEAT):
            now = time.monotonic()
            awake, last = min(now - last, NAP), now
            unanswered = unanswered + awake if self.lookout.rounds == rounds else 0.0
            silent = silent + awake if self.lookout.heard == heard > 0 else 0.0  # 0: it has not begun, and its launcher would know
            heard, rounds = self.lookout.heard, self.lookout.rounds
            if (problem := self._found(unanswered, silent)) is not None:
                self._problem = problem
                self._end(problem)
                return

    def _found(self, unanswered: float, silent: float) -> LgdlmError | None:
        if self.parent is not None and os.getppid() != self.parent:
            return launcher_gone(self.rank)
        if self.lookout.said is not None:
            return self.lookout.said
        if unanswered > SILENCE:
            return PeerLost("PEER_LOST", f"rank {self.rank}", "store", f"the job's store has not answered for {SILENCE:.0f} s")
        if silent > SILENCE:
            # what waits for it fails at once then, and nobody is left behind
            sibling.end(self.lookout.place)
            return PeerLost("PEER_LOST", f"rank {self.lookout.watched}", "beat", f"has not been heard of for {SILENCE:.0f} s")
        return None

    def _end(self, problem: LgdlmError) -> None:
        """Tell the others, and end the process unless the training has ended itself."""
        self.post(problem)
        if not self._ended.wait(GRACE):
            tell(problem)
            os._exit(problem.exit_code)
