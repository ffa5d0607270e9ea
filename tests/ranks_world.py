"""Jobs of several ranks: processes forked from one that has loaded the package, each told who it is as a launcher would tell it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

CODE = """
import json, os, signal, sys, time
import torch
import torch.distributed as dist
from lgdlm.cli.__main__ import main
import lgdlm.cli.train
torch.optim.AdamW([torch.zeros(1)])  # loads the compiler once, for all

ended = []
for job in json.loads(sys.stdin.read()):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in range(job["ranks"]):
        if (child := os.fork()) == 0:
            if job["ranks"] > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["ranks"]), "MASTER_ADDR": "127.0.0.1",
                               "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
            os.dup2(os.open(job["stderr"] + str(rank), os.O_WRONLY | os.O_CREAT), 2)
            exec(job["hook"], globals() | {"rank": rank})
            code = main(job["words"])
            sys.stderr.flush()
            os._exit(code)
        ranks.append(child)
    began = time.monotonic()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks]
    ended.append({"codes": codes, "seconds": time.monotonic() - began})
print(json.dumps(ended))
"""

# Python that runs in every rank before the command: what rank 1 does behind the log line of step 12
AT_STEP = """
from lgdlm.training.step import TrainStep
step_of = TrainStep.__call__
def acting(self, data, step, scale):
    record = step_of(self, data, step, scale)
    if rank == 1 and step == 12:
        {action}
    return record
TrainStep.__call__ = acting
"""


@dataclass(frozen=True)
class Job:
    """`words` of the command, on so many `ranks`; each rank's stderr goes to the file `stderr` and its number."""

    words: list[str]
    ranks: int
    stderr: str
    hook: str = ""


@dataclass(frozen=True)
class Ended:
    """Exit codes by rank (negative: the signal), and how long the job took."""

    codes: list[int]
    seconds: float


def run_jobs(*jobs: Job) -> list[Ended]:
    """One after another."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps([asdict(job) for job in jobs]), capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Ended(**job) for job in json.loads(done.stdout)]


def difference(one: Path, other: Path, name: str = "model") -> float:
    """|a - b| / |b| of all tensors of two checkpoints' files together."""
    a, b = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return float(torch.cat([(a[n] - b[n]).double().flatten() for n in b]).norm() / torch.cat([b[n].double().flatten() for n in b]).norm())
