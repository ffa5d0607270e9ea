"""The ranks of one job: who this process is, what all agree on, and what one does for all.

    torchrun or `lgdlm train nproc=N` sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; without them a process is alone

Rank 0 leads: it writes the run directory, its clock counts, and it prints. What may differ between ranks is agreed by integers (a
floating flag could lose a NaN) or decided by the lead; what fails in the lead's hands fails in everyone's. A `World` of one does nothing at
all: training alone is the same arithmetic, without a branch of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lgdlm.errors import LgdlmError
from lgdlm.training.lookout import packed, unpacked
from lgdlm.training.peers import Watch

T = TypeVar("T")


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
