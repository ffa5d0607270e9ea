"""Many short lives of one command.

    Server().life(words, folder, strikes) -> Life        `lgdlm WORDS` in `folder`, struck where `strikes` say
    life.end() -> Outcome                                its exit code (minus the signal that killed it) and what it said

Importing torch takes longer than a life does, so it is done once, in a process (`crash.server`) that forks a child for each.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract.harness import Outcome
from crash.strike import Strike

HOST = "127.0.0.1"


@dataclass
class Life:
    """A process that runs or ran, and the folder it runs in; what it says stands in files there whose names begin with `name`."""

    server: Server
    pid: int
    folder: Path
    name: str
    tally: dict[str, int] = field(default_factory=dict)

    def end(self) -> Outcome:
        """Wait for it. Afterwards `tally` holds its visits to every point, where it lived to count them."""
        code = self.server.ask(wait=self.pid)["code"]
        said = {kind: (self.folder / f"{self.name}{kind}").read_text(encoding="utf-8") for kind in ("out", "err", "tally")}
        self.tally = json.loads(said["tally"] or "{}")
        return Outcome(code, said["out"], said["err"])

    def stopped(self) -> bool:
        """Wait until a STOP has stopped it (True) or it has ended (False)."""
        return bool(self.server.ask(stopped=self.pid)["stopped"])

    def send(self, number: int) -> None:
        os.kill(self.pid, number)


class Server:
    """The process that forks; used as a context."""

    def __enter__(self) -> Server:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crash.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
        )
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """One line of JSON there, one back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the server is gone"
        return json.loads(answer)

    def life(self, words: list[str], folder: Path, *strikes: Strike, name: str = "", environment: dict[str, str] | None = None) -> Life:
        """Start one."""
        told = {"words": words, "folder": str(folder), "name": name, "environment": environment or {}}
        return Life(self, self.ask(**told, strikes=[asdict(strike) for strike in strikes])["pid"], folder, name)

    def ranks(self, words: list[str], folder: Path, count: int, struck: int, *strikes: Strike) -> list[Life]:
        """`count` lives that train together, as torchrun would start them; the strikes are meant for rank `struck`."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        job = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        lives = []
        for rank in range(count):
            own = {name: str(value) for name, value in {**job, "RANK": rank, "LOCAL_RANK": rank}.items()}
            lives.append(self.life(words, folder, *(strikes if rank == struck else ()), name=f"rank{rank}-", environment=own))
        return lives
