"""How the ranks of a job find each other, and part.

    call      the job's store, which the launcher or rank 0 holds, and the watch beside the training
    meet      in short looks at the store, until all are there; then the process group
    part      all at once, or as the first that ends with an error: the others hear of it and end with the same code

What waits in here can be interrupted: a rank that a signal or a lost peer meets before the first step ends as one that trains.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from lgdlm.errors import InputError, LgdlmError, PeerLost
from lgdlm.training.distributed import ALONE, World
from lgdlm.training.lookout import BEAT, JOB
from lgdlm.training.peers import SILENCE, Watch, launcher_gone

if TYPE_CHECKING:
    import torch.distributed as dist

PATIENCE = timedelta(minutes=30)  # of a collective: longer than any checkpoint takes; who is gone is noticed by `Watch`
JOINING = timedelta(minutes=10)  # until every rank is there
CALLING = timedelta(seconds=SILENCE / 4)  # one try to reach the store; torch tries a little longer than it is told
LOOK = 0.05  # seconds between two looks at who is there
LAUNCHER = "LGDLM_LAUNCHER"  # process id of our own launcher: which parent we had may no longer be told by asking
VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def world_of(environment: Mapping[str, str]) -> Iterator[World]:
    """The world that the environment tells of, joined for the length of the block.

    Raises InputError (ENVIRONMENT) where it tells only half, PeerLost where another rank is gone, and what another rank ended with.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    rank, size = _place(environment)
    watch = None
    try:
        watch, store = _call(environment, rank, size)
        world = _meet(environment, watch, store)
        yield world
        world.barrier()
        _leave()
    except BaseException as problem:
        if watch is None:
            raise _not_joined(problem) from problem
        if (broken := _broken(problem)) is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a launcher's, for the same reason: this rank is ending
            problem = watch.blame(broken)
        watch.post(problem)
        if rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(2 * BEAT)  # the store goes with this rank: let the others read there why
        raise problem
    finally:
        if watch is not None:
            watch.stop()


def _broken(problem: BaseException | None) -> RuntimeError | None:
    """The broken connection that an exception is, or was raised in the face of (a signal while ending).

    Torch raises a kind of its own for some backends and a plain RuntimeError for gloo.
    """
    import torch.distributed as dist

    while problem is not None and not isinstance(problem, LgdlmError):
        words = ("gloo", "NCCL", "onnection closed")
        if isinstance(problem, RuntimeError) and (isinstance(problem, dist.DistError) or any(word in str(problem) for word in words)):
            return problem
        problem = problem.__context__
    return None


def _place(environment: Mapping[str, str]) -> tuple[int, int]:
    if absent := [name for name in VARIABLES if not environment.get(name)]:
        message = f"WORLD_SIZE is set and {', '.join(absent)} not: start with torchrun, or with training.nproc"
        raise InputError("ENVIRONMENT", "environment", absent[0], message)
    try:
        rank, size, _, _ = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} of {size}")
    except ValueError as wrong:
        raise InputError("ENVIRONMENT", "environment", "RANK", f"RANK and WORLD_SIZE make no sense: {wrong}") from wrong
    return rank, size


def _call(environment: Mapping[str, str], rank: int, size: int) -> tuple[Watch, dist.Store]:
    """The job's store, and the watch of this rank, which looks around from here on."""
    import torch.distributed as dist

    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by the launcher; otherwise rank 0 does
    parent = int(environment.get(LAUNCHER, os.getppid())) if hosted else None
    if parent not in (None, os.getppid()):
        raise launcher_gone(rank)

    def connect(master: bool, patience: float) -> dist.Store:
        last = time.monotonic() + patience
        while True:  # each try is short: a signal is heard between two
            try:
                store = dist.TCPStore(host, port, size, master, timeout=CALLING, wait_for_workers=False)
                break
            except RuntimeError:
                if time.monotonic() > last:
                    raise
        store.set_timeout(JOINING)
        return dist.PrefixStore(f"{JOB}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    # our launcher holds its store before it starts us: where there is none any more, it is gone
    patience = 0.0 if LAUNCHER in environment else SILENCE if hosted else JOINING.total_seconds()
    store = connect(rank == 0 and not hosted, patience)
    watch = Watch(connect(False, patience), rank, size, parent)
    watch.start()
    return watch, store


def _meet(environment: Mapping[str, str], watch: Watch, store: dist.Store) -> World:
    """The world of all ranks, once all are there."""
    import torch.distributed as dist

    _await_all(store, watch)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=watch.rank, world_size=watch.size, timeout=PATIENCE)
    return World(watch.rank, watch.size, watch)


def _await_all(store: dist.Store, watch: Watch) -> None:
    """Until every rank has come this far: in short looks, so that a signal or a loss is heard meanwhile. Raises PeerLost after JOINING."""
    store.set(f"here/{watch.rank}", "")
    absent, last = list(range(watch.size)), time.monotonic() + JOINING.total_seconds()
    while absent := [rank for rank in absent if not store.check([f"here/{rank}"])]:
        watch.check()
        if time.monotonic() > last:
            message = f"did not join within {JOINING.total_seconds():.0f} s: see its own output"
            raise PeerLost("PEER_LOST", f"rank {absent[0]}", "process", message)
        time.sleep(LOOK)


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _not_joined(problem: BaseException) -> BaseException:
    if isinstance(problem, RuntimeError):
        return PeerLost("PEER_LOST", "job", "store", f"the other processes cannot be reached ({str(problem).strip().splitlines()[0]})")
    return problem
