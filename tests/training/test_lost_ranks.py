"""A rank that ends, however it ends, ends the job: with the right code, one line of error, and nobody left behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from ranks_world import AT_STEP, Ended, Job, run_jobs
from training_world import data_folder, events_of, words

from lgdlm.errors import CheckpointError, InputError
from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.lookout import PeerEnded, packed, unpacked
from lgdlm.training.naming import checkpoints_of

LIMIT = 30.0  # seconds, of the contract
REFUSING = """
from lgdlm.errors import InputError
import lgdlm.training.assemble as assembling
open_splits = assembling.open_splits
def refusing(*words):
    if rank == 1: raise InputError("NAN_LATENT", "z.npy", "latent", "is not finite")
    return open_splits(*words)
assembling.open_splits = refusing
"""
FULL = """
import errno
from lgdlm.training import checkpoint
def full(path, data):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
checkpoint.write_bytes = full
"""
ENDINGS = {
    "killed": AT_STEP.format(action="os.kill(os.getpid(), signal.SIGKILL)"),
    "signalled": AT_STEP.format(action="os.kill(os.getpid(), signal.SIGTERM)"),
    "interrupted": AT_STEP.format(action="os.kill(os.getpid(), signal.SIGINT)"),
    "in error": REFUSING,
    "broken": AT_STEP.format(action="raise ValueError('a defect')"),
    "disk full": FULL,
    "diverged": "",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, Path]]:
    data = data_folder(tmp_path_factory.mktemp("data"))
    outs = {name: tmp_path_factory.mktemp("ending") for name in ENDINGS}
    jobs = []
    for name, hook in ENDINGS.items():
        poison = f"training.poison_ids={','.join(f's{i}' for i in range(80))}" if name == "diverged" else "training.poison_ids="
        own = words(data, outs[name], "training.num_train_steps=1000", poison, "training.max_skipped_steps=3")
        jobs.append(Job(own, 2, str(outs[name] / "stderr"), hook))
    return {name: (done, outs[name]) for name, done in zip(ENDINGS, run_jobs(*jobs), strict=True)}


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("killed", [7, -signal.SIGKILL]),
        ("signalled", [143, 143]),
        ("interrupted", [130, 130]),
        ("in error", [2, 2]),
        ("broken", [7, 1]),
        ("disk full", [5, 5]),
        ("diverged", [6, 6]),
    ],
)
def test_all_end_with_the_right_code(name: str, codes: list[int], ended: dict[str, tuple[Ended, Path]]) -> None:
    done, out = ended[name]
    assert done.codes == codes, (out / "stderr0").read_text()
    assert done.seconds < LIMIT
    said = [(out / f"stderr{rank}").read_text().splitlines() for rank in (0, 1)]
    assert len(said[0]) == 1, said
    assert ("E_INTERRUPTED" in said[0][0]) == (codes[0] >= 128)
    assert said[1] == [], "the lead speaks for all"


def test_a_signal_to_any_rank_saves_its_step(ended: dict[str, tuple[Ended, Path]]) -> None:
    for name in ("signalled", "interrupted"):
        run = ended[name][1] / "run"
        assert checkpoints_of(run)[-1].name == "step_00000012"
        verify_checkpoint(run / "step_00000012")
        assert [event["step"] for event in events_of(run, "signal_received")] == [12]


def test_the_line_is_that_of_the_rank_in_error(ended: dict[str, tuple[Ended, Path]]) -> None:
    assert "E_NAN_LATENT z.npy latent: is not finite" in (ended["in error"][1] / "stderr0").read_text()
    assert "E_PEER_LOST" in (ended["killed"][1] / "stderr0").read_text()


def test_a_lost_peer_leaves_the_last_checkpoint(ended: dict[str, tuple[Ended, Path]]) -> None:
    run = ended["killed"][1] / "run"
    assert checkpoints_of(run)[-1].name == "step_00000010"
    verify_checkpoint(run / "step_00000010")


def test_an_error_crosses_to_another_rank() -> None:
    for problem in (InputError("A", "b:1", "c", "d", "1 of 2: "), CheckpointError("A", "b", "c", "d")):
        found = unpacked(json.loads(json.dumps(packed(problem))), 1)
        assert (type(found), found.line(), found.exit_code) == (type(problem), problem.line(), problem.exit_code)
    for problem, code in ((KeyboardInterrupt(), 130), (ValueError("x"), 7), (PeerEnded(0, 143, "y"), 143)):
        assert unpacked(packed(problem), 1).exit_code == code
