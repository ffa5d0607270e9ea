"""`lgdlm train nproc=N`: the same command once a rank, on this machine, as torchrun would start it.

    launcher   holds the job's store, starts the ranks, hands signals on, and ends with their exit code
    rank       the command itself, told who it is by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT

A rank that sees its parent gone ends itself. Of a rank that ends badly without a word the others are told here; whoever has not ended
LEAVE seconds after the first word of a failure is killed, as a rank that is frozen must be. Ctrl-Z stops the whole job, and `fg` wakes it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from lgdlm.errors import PeerLost, Stopped
from lgdlm.training.joining import LAUNCHER
from lgdlm.training.lookout import FAILURES, JOB

if TYPE_CHECKING:
    from torch.distributed import Store

HOST = "127.0.0.1"
LOOPBACK = ("lo", "lo0")
POLL, LEAVE = 0.1, 9.0  # seconds; the ranks' own watch is sooner

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
            if received:  # while some were not there yet; none has a step behind it, so a second time does no harm
                for process in ranks:
                    process.send_signal(received[0])
            first = wait(ranks, dist.PrefixStore(f"{JOB}/0", store))
    finally:
        for process in ranks:
            process.kill()
    return verdict([rank.wait() for rank in ranks], received, first)


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Of one rank; threads are shared out where nobody has said how many."""
    threads = str(max(1, processors() // count))
    shared = {"OMP_NUM_THREADS": threads, **os.environ}
    interfaces = {name for _, name in socket.if_nameindex()}
    if "GLOO_SOCKET_IFNAME" not in shared and (loopback := next((name for name in LOOPBACK if name in interfaces), None)):
        shared["GLOO_SOCKET_IFNAME"] = loopback
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    return {
        **shared,
        **{name: str(value) for name, value in own.items()},
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        LAUNCHER: str(os.getpid()),
    }


def processors() -> int:
    """Those that this process may use: a batch system often gives a job a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def handed_on(ranks: Ranks) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to every rank that still runs, and are listed; each saves, or ends at once on the second.

    SIGTSTP (Ctrl-Z) stops them all: they would miss the store that stands still with this process.
    """
    received: list[int] = []

    def send(number: int) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        send(number)

    def stand_still(number: int, frame: FrameType | None) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        send(signal.SIGCONT)  # somebody has woken us

    handlers = {signal.SIGINT: hand_on, signal.SIGTERM: hand_on, signal.SIGTSTP: stand_still}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(ranks: Ranks, store: Store) -> int | None:
    """Until all have ended; which one failed first, before any was killed here (None: none did).

    `store` is where ranks say that they fail; of one that ends without having said so it is said here, so that those who are still
    on their way to it need not find out by themselves.
    """
    first, last = None, math.inf
    while None in (codes := [rank.poll() for rank in ranks]):
        if first is None and any(codes):
            first = next(rank for rank, code in enumerate(codes) if code)
            speak_for(store, first, codes[first] or 0)
        if last == math.inf and store.add(FAILURES, 0) > 0:
            last = time.monotonic() + LEAVE
        if time.monotonic() > last:
            for rank in ranks:
                rank.kill()
        time.sleep(POLL)
    return first


def speak_for(store: Store, rank: int, code: int) -> None:
    """Say that `rank` ended with `code`, if it has not said so itself."""
    if not store.check([f"failure/{rank}"]):
        store.set(f"failure/{rank}", json.dumps({"code": code if code > 0 else PeerLost.exit_code, "reason": how(code)}))
        store.add(FAILURES, 1)


def how(code: int) -> str:
    """The end of a process, in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def verdict(codes: Sequence[int], received: Sequence[int] = (), first: int | None = None) -> int:
    """The job's exit code of the ranks': what a rank ended with of its own accord goes before a lost peer.

    A signal that was `received` may have met a rank that could not say so yet: the code is the signal's then. Raises Stopped where
    rank 0 was not there to speak of it, and without a signal PeerLost, about the rank that failed `first`.
    """
    if not any(codes):
        return 0
    lost = 128 + received[0] if received else PeerLost.exit_code
    code = next((code for code in codes if code > 0 and code != PeerLost.exit_code), lost)
    if codes[0] <= 0 and received:
        raise Stopped.by(received[0], "job", f"stopped; rank 0 ended by {how(codes[0])}, go on with training.resume=auto")
    if codes[0] <= 0 and not received:
        blamed = first or 0
        message = f"ended by {how(codes[blamed])}" if codes[blamed] else "ended amid the others"
        problem = PeerLost("PEER_LOST", f"rank {blamed}", "process", f"{message}; go on with training.resume=auto")
        problem.exit_code = code
        raise problem
    return code
