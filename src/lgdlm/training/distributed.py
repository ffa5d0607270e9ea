"""The ranks of one job: who this process is, what all agree on, and what one does for all.

    torchrun or `lgdlm train nproc=N` sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; without them a process is alone

Rank 0 leads: it writes the run directory, its clock counts, and it prints. What may differ between ranks is agreed by integers (a
floating flag could lose a NaN) or decided by the lead; what fails in the lead's hands fails in everyone's. A `World` of one does nothing at
all: training alone is the same arithmetic, without a branch of its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from lgdlm.errors import InputError, LgdlmError, PeerLost
from lgdlm.training.peers import JOB, SILENCE, Watch, packed, unpacked

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # of a collective: longer than any checkpoint takes; who is gone is noticed by `Watch`
JOINING = timedelta(minutes=10)  # until every rank is there
VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size`. Every method is called by all ranks, in the same order; where another is gone, RuntimeError."""

    rank: int = 0
    size: int = 1
    watch: Watch | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""
        if self.size == 1:
            return [text]
        import torch.distributed as dist

        data = bytearray(text.encode())
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(1, *(int(size) for size in sizes))
        found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, torch.frombuffer(data.ljust(longest, b"\0"), dtype=torch.uint8))
        return [text[: int(size)].numpy().tobytes().decode() for text, size in zip(found, sizes, strict=True)]

    def lead(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, where alone it is done: JSON. An error of ours that it raises there is raised everywhere."""
        if self.size == 1:
            return action()
        answer: dict[str, Any] = {}
        problem: LgdlmError | None = None
        if self.leads:
            try:
                answer = {"value": action()}
            except LgdlmError as raised:
                problem, answer = raised, {"error": packed(raised)}
        answer = json.loads(self.gather(json.dumps(answer) if self.leads else "")[0])
        if problem is not None:
            raise problem
        if "error" in answer:
            raise unpacked(answer["error"], 0)
        return answer["value"]

    def all_agree(self, flag: bool) -> bool:
        """Whether `flag` is true on every rank."""
        return self.largest(int(not flag)) == 0

    def largest(self, number: int) -> int:
        """The largest of all ranks' integers."""
        if self.size == 1:
            return number
        assert self.watch is not None
        self.watch.check()
        found = torch.tensor([number])
        self.maximum(found)
        return int(found)

    def maximum(self, numbers: Tensor) -> None:
        """The largest of all ranks' integers, entry by entry and in place."""
        if self.size > 1:
            import torch.distributed as dist

            assert not numbers.is_floating_point(), "a floating maximum may drop a NaN"
            dist.all_reduce(numbers, dist.ReduceOp.MAX)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the sum over ranks, the same bits on all of them."""
        if self.size > 1:
            import torch.distributed as dist

            pending = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
            for work in pending:
                assert work is not None
                work.wait()

    def of_lead(self, number: float) -> float:
        """Rank 0's number."""
        return self.lead(lambda: number)

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes that of rank 0."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait for all."""
        self.largest(0)


ALONE = World()


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
        watch, world = _join(environment, rank, size)
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


def _join(environment: Mapping[str, str], rank: int, size: int) -> tuple[Watch, World]:
    import torch.distributed as dist

    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by the launcher; otherwise rank 0 does

    def connect(master: bool, patience: timedelta) -> dist.Store:
        store = dist.TCPStore(host, port, size, master, timeout=patience, wait_for_workers=False)
        return dist.PrefixStore(f"{JOB}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    store = connect(rank == 0 and not hosted, JOINING)
    watch = Watch(connect(False, timedelta(seconds=SILENCE)), rank, size, os.getppid() if hosted else None)
    watch.start()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return watch, World(rank, size, watch)


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _not_joined(problem: BaseException) -> BaseException:
    if isinstance(problem, RuntimeError):
        return PeerLost("PEER_LOST", "job", "store", f"the other processes cannot be reached ({str(problem).strip().splitlines()[0]})")
    return problem
