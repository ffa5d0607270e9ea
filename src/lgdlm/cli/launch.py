"""`lgdlm train nproc=N`: the same command once a rank, on this machine, as torchrun would start it.

    launcher   holds the job's store, starts the ranks, hands signals on, and ends with their exit code
    rank       the command itself, told who it is by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT

A rank that sees its parent gone ends itself; one that outlives a lost peer longer than it may is killed here, as a rank that is frozen
must be: it is missed by another after SILENCE, and has LEAVE from then on.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lgdlm.errors import PeerLost
from lgdlm.training.peers import FAILURES, JOB

HOST = "127.0.0.1"
LOOPBACK = ("lo", "lo0")
POLL, PATIENCE, LEAVE = 0.1, 27.0, 9.0  # seconds, behind the end of a rank and behind its word that it fails; their own watch is sooner

Ranks = Sequence["subprocess.Popen[bytes]"]


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `lgdlm ARGUMENTS` in `count` processes; their exit code. Raises PeerLost where rank 0 is not there to say what happened."""
    import torch.distributed as dist

    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        with handed_on(ranks) as received:
            for rank in range(count):
                # a session of its own: what a terminal sends to all at once would arrive twice
                ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "lgdlm", *arguments],
                        env=environment(rank, count, store.port),
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
            said = dist.PrefixStore(f"{JOB}/0", store)
            wait(ranks, lambda: said.add(FAILURES, 0) > 0)
    finally:
        for process in ranks:
            process.kill()
    return verdict([rank.wait() for rank in ranks], received)


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Of one rank; threads are shared out where nobody has said how many."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {"OMP_NUM_THREADS": threads, **os.environ}
    interfaces = {name for _, name in socket.if_nameindex()}
    if "GLOO_SOCKET_IFNAME" not in shared and (loopback := next((name for name in LOOPBACK if name in interfaces), None)):
        shared["GLOO_SOCKET_IFNAME"] = loopback
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    return {**shared, **{name: str(value) for name, value in own.items()}, "TORCHELASTIC_USE_AGENT_STORE": "True"}


@contextmanager
def handed_on(ranks: Ranks) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to every rank that still runs, and are listed; each saves, or ends at once on the second."""
    received: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(ranks: Ranks, failing: Callable[[], bool]) -> None:
    """Until all have ended; when one has failed the others have PATIENCE seconds, and LEAVE once one says that it is `failing`."""
    last, told = math.inf, False
    while None in (codes := [rank.poll() for rank in ranks]):
        if last == math.inf and any(codes):
            last = time.monotonic() + PATIENCE
        if not told and failing():
            last, told = min(last, time.monotonic() + LEAVE), True
        if time.monotonic() > last:
            for rank in ranks:
                rank.kill()
        time.sleep(POLL)


def verdict(codes: Sequence[int], received: Sequence[int] = ()) -> int:
    """The job's exit code of the ranks': what a rank ended with of its own accord goes before a lost peer.

    A signal that was `received` may have met a rank that could not say so yet: the code is the signal's then. Raises PeerLost where
    rank 0 was not there to speak.
    """
    if not any(codes):
        return 0
    lost = 128 + received[0] if received else PeerLost.exit_code
    code = next((code for code in codes if code > 0 and code != PeerLost.exit_code), lost)
    if codes[0] <= 0 and not received:
        how = signal.Signals(-codes[0]).name if codes[0] else "another rank's end"
        problem = PeerLost("PEER_LOST", "rank 0", "process", f"ended by {how}; go on with training.resume=auto")
        problem.exit_code = code
        raise problem
    return code
