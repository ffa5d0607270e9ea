"""A run that is struck, and the run that nobody struck.

    trial = Trial(server, folder, steps=6)
    outcome = trial.go(Strike("fsync", 9))        the run goes on, or begins, until it ends or is ended
    trial.recovered()                             it goes on to its last step and is, byte for byte, the run that nobody struck

The world has 40 samples and one of them is poison, so that every tenth step is skipped and the guard's counters are restored as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

from contract.harness import Adapter, Outcome, jsonl
from contract.sound import DIM, World
from crash.life import Life, Server
from crash.strike import Strike
from folders import per_sample

from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.naming import checkpoints_of

POISON = "train_005"
EVERY, KEEP, EVALUATE = 2, 2, 3
TENSORS = ("model", "ema", "optimizer")
LOGS = ("training_log.jsonl", "ledger.jsonl")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors_of(checkpoint: Path) -> list[str]:
    """Hashes of weights, averages and optimizer state."""
    return [sha256(checkpoint / f"{name}.safetensors") for name in TENSORS]


class Ground:
    """The data of all trials, and the runs that nobody struck; made once below `folder`."""

    def __init__(self, server: Server, folder: Path):
        self.server, self.folder, self.adapter = server, folder, Adapter()
        per_sample(folder / "data", {"train": 40, "validation": 4}, DIM)
        self.whole = cache(self._whole)
        self._count = 0

    def words(self, steps: int, *more: str, ranks: int = 1, every: int = EVERY, keep: int = KEEP) -> list[str]:
        """`lgdlm` command line of a run in the folder `run`, or wherever it is started. Later words win."""
        data = World(self.folder / "data").values
        plan = {"run": "run", "steps": steps, "save_every": every, "keep": keep, "nproc": ranks, "micro_batch": 4 // ranks}
        words = self.adapter.words("resume", "ledger", "poison", poison_ids=POISON, **data, **plan)[3:]
        chosen = {word.partition("=")[0]: word for word in (*words, f"logging.eval_freq={EVALUATE}", "training.num_threads=1", *more)}
        return list(chosen.values())

    def _whole(self, steps: int, ranks: int) -> Path:
        folder = self.folder / f"whole-{steps}-{ranks}"
        folder.mkdir()
        lives = self.server.ranks(self.words(steps, ranks=ranks, every=1, keep=steps), folder, ranks, 0)
        for life in lives:
            life.end().ended(0)
        return folder / "run"

    def trial(self, steps: int, where: Path | None = None, ranks: int = 1) -> Trial:
        """A fresh one; `where` is an empty folder of the caller's."""
        self._count += 1
        folder = where or self.folder / f"trial-{self._count}"
        folder.mkdir(exist_ok=True)
        return Trial(self, folder, steps, ranks)


class Trial:
    """One run below `folder`, of `steps` steps, by `ranks` processes."""

    def __init__(self, ground: Ground, folder: Path, steps: int, ranks: int = 1):
        self.ground, self.folder, self.steps, self.ranks, self.run = ground, folder, steps, ranks, folder / "run"

    def start(self, *strikes: Strike, more: tuple[str, ...] = ()) -> Life:
        return self.ground.server.life(self.ground.words(self.steps, *more), self.folder, *strikes)

    def go(self, *strikes: Strike, more: tuple[str, ...] = ()) -> Outcome:
        """The life of a run that is one process."""
        return self.start(*strikes, more=more).end()

    def together(self, *strikes: Strike, struck: int = 0) -> list[Outcome]:
        """The lives of all ranks, of which `struck` is struck."""
        lives = self.ground.server.ranks(self.ground.words(self.steps, ranks=self.ranks), self.folder, self.ranks, struck, *strikes)
        return [life.end() for life in lives]

    def copy(self, name: str) -> Trial:
        """The same at this point, beside it."""
        target = self.folder.with_name(f"{self.folder.name}-{name}")
        return Trial(self.ground, Path(shutil.copytree(self.folder, target)), self.steps, self.ranks)

    def sound(self) -> None:
        """As it lies there, every checkpoint is whole and is that of the run that nobody struck."""
        whole = self.ground.whole(self.steps, self.ranks)
        for checkpoint in checkpoints_of(self.run):
            verify_checkpoint(checkpoint)
            assert tensors_of(checkpoint) == tensors_of(whole / checkpoint.name), checkpoint
        found = [path for path in self.run.glob("*") if path.name.startswith(("step_", "epoch_"))]
        assert len(found) == len(checkpoints_of(self.run)), "no folder that is half a checkpoint"

    def recovered(self) -> None:
        """It goes on to the end, and nothing tells that anything happened but its events."""
        for outcome in self.together():
            outcome.ended(0)
        self.sound()
        whole = self.ground.whole(self.steps, self.ranks)
        for name in LOGS:
            assert (self.run / name).read_bytes() == (whole / name).read_bytes(), name
        last = f"step_{self.steps:08d}"
        skipped = [json.loads((run / last / "state.json").read_text())["skipped"] for run in (self.run, whole)]
        assert skipped[0] == skipped[1]
        assert len(checkpoints_of(self.run)) == KEEP
        assert (self.run / "latest").read_text() == last
        assert jsonl(self.run / "events.jsonl")[-1]["event"] in ("checkpoint_saved", "resumed")
        assert not list(self.run.rglob(".tmp-*")), "what was being written is gone"

    def steps_logged(self) -> int:
        log = self.run / "training_log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def newest(self) -> int:
        """The step of the newest checkpoint; 0: none."""
        found = checkpoints_of(self.run)
        return int(found[-1].name.removeprefix("step_")) if found else 0
