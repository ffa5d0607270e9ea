"""Damaged and hostile checkpoints are refused with exit 3 and one line that names the file or the tensor; nothing is changed.

`verify` finds everything; `resume`, sampling and evaluation refuse what they are about to read, whatever its hashes say.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from contract.bad_checkpoints import CHECKPOINTS, cuts, flip, flips
from contract.harness import Adapter, jsonl
from contract.sound import World
from contract.test_bad_data import bounded

from lgdlm.errors import CheckpointError
from lgdlm.training.checkpoint import verify_checkpoint

NEWEST, OLDER = "step_00000004", "step_00000002"
READERS = ("resume", "sample-l2t", "sample-t2l", "eval")


def asked(adapter: Adapter, verb: str, run: Path, world: World) -> tuple[int, str]:
    """Exit code and error line of a verb on the newest checkpoint of `run`."""
    values = {"run": run, "checkpoint": run / NEWEST, "out": run.parent / "out.jsonl", "steps": 6, **world.values}
    prompts = run.parent / "prompts.jsonl"
    prompts.write_text('{"id": "a", "text": "a cat"}\n')
    given = {"latents": world.latent_dir / "latents/validation", "prompts": prompts}
    outcome = adapter.call(verb, run.parent, **values, **given)
    return outcome.code, outcome.line if outcome.code else ""


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_damage_is_refused_and_named(adapter: Adapter, pristine: World, run: Path, name: str) -> None:
    fixture = CHECKPOINTS[name]
    fixture.damage(run / NEWEST)
    with bounded(fixture.heavy):
        code, line = asked(adapter, "verify", run, pristine)
    assert code == 3
    assert fixture.names in line
    if "hashes" in name or name.startswith(("a tensor", "a configuration", "NaN", "another", "weights")):
        with bounded(fixture.heavy):
            code, line = asked(adapter, "sample-l2t", run, pristine)
        assert (code, fixture.names in line) == (3, True), line


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(
    "name", ["manifest.json missing", "model.safetensors empty", "a tensor less", "another shape", "NaN in the weights", "a state of NaN"]
)
def test_whoever_reads_a_checkpoint_refuses_it(adapter: Adapter, pristine: World, run: Path, verb: str, name: str) -> None:
    fixture = CHECKPOINTS[name]
    fixture.damage(run / NEWEST)
    log = (run / "training_log.jsonl").read_bytes()
    code, line = asked(adapter, verb, run, pristine)
    assert code == 3
    assert fixture.names in line
    assert (run / "training_log.jsonl").read_bytes() == log
    assert sorted(path.name for path in run.glob("step_*")) == [OLDER, NEWEST]


def test_the_fallback_goes_on_from_the_older_one(adapter: Adapter, pristine: World, run: Path) -> None:
    CHECKPOINTS["model.safetensors empty"].damage(run / NEWEST)
    code, line = asked(adapter, "resume", run, pristine)
    assert (code, OLDER in line, "--fallback" in line) == (3, True, True)
    adapter.call("resume", run.parent, "fallback", run=run, **pristine.values).ended(0)
    events = {event["event"]: event for event in jsonl(run / "events.jsonl")}
    assert (events["fallback"]["checkpoint"], events["resumed"]["checkpoint"], events["resumed"]["step"]) == (OLDER, OLDER, 2)
    assert [record["step"] for record in jsonl(run / "training_log.jsonl")] == [1, 2, 3, 4]
    assert asked(adapter, "verify", run, pristine) == (0, "")


@pytest.mark.parametrize(("step", "said", "code"), [(NEWEST, 0, 3), (NEWEST, 9, 3), (OLDER, 9, 0), (OLDER, 0, 0)])
def test_no_damage_changes_which_checkpoint_is_the_newest(
    adapter: Adapter, pristine: World, run: Path, step: str, said: int, code: int
) -> None:
    """A flipped bit in the number of a step neither hides the newest checkpoint nor puts an older one in its place."""
    state = run / step / "state.json"
    state.write_text(state.read_text().replace(f'"step": {int(step[5:])}', f'"step": {said}'))
    outcome = adapter.call("resume", run.parent, run=run, **{**pristine.values, "steps": 5}).ended(code)
    if code:
        assert f"{NEWEST}/state.json" in outcome.line
    else:
        assert jsonl(run / "events.jsonl")[-2]["checkpoint"] == NEWEST


def test_what_has_a_checkpoint_s_name_is_one(adapter: Adapter, pristine: World, run: Path) -> None:
    """A file in its place is damage as well, not a run that has only the older one."""
    shutil.rmtree(run / NEWEST)
    (run / NEWEST).write_text("x")
    assert f"{NEWEST}/manifest.json" in adapter.call("resume", run.parent, run=run, **pristine.values).ended(3).line
    adapter.call("resume", run.parent, "fallback", run=run, **pristine.values).ended(0)
    assert asked(adapter, "verify", run, pristine) == (0, "")


def test_the_only_checkpoint_is_not_begun_over_where_it_lost_its_manifest(adapter: Adapter, pristine: World, run: Path) -> None:
    one_checkpoint(run)
    CHECKPOINTS["manifest.json missing"].damage(run / NEWEST)
    held = {path: path.read_bytes() for path in (run / NEWEST).rglob("*") if path.is_file()}
    for verb, code in (("resume", 3), ("train", 2)):
        adapter.call(verb, run.parent, run=run, **pristine.values).ended(code)
    assert {path: path.read_bytes() for path in (run / NEWEST).rglob("*") if path.is_file()} == held


def refused(checkpoint: Path, file: str, damaged: bytes) -> None:
    """The damaged file is found, named, and put back."""
    path, sound = checkpoint / file, (checkpoint / file).read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError) as found:
        verify_checkpoint(checkpoint)
    assert found.value.where == str(path)
    assert len(found.value.line().encode()) <= 300
    path.write_bytes(sound)


def one_checkpoint(run: Path) -> Path:
    """The newest checkpoint alone: no older one has to be looked for."""
    shutil.rmtree(run / OLDER)
    return run / NEWEST


def test_500_flipped_bits_are_found(run: Path) -> None:
    checkpoint = one_checkpoint(run)
    for file, bit in flips(checkpoint, 500, seed=0):
        data = bytearray((checkpoint / file).read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        refused(checkpoint, file, bytes(data))
    assert verify_checkpoint(checkpoint)["step"] == 4


def test_every_cut_is_found(run: Path) -> None:
    checkpoint = one_checkpoint(run)
    places = list(cuts(checkpoint))
    assert len(places) >= 60
    for file, length in places:
        refused(checkpoint, file, (checkpoint / file).read_bytes()[:length])
    assert verify_checkpoint(checkpoint)["step"] == 4


def test_flipped_bits_are_found_from_outside(adapter: Adapter, pristine: World, run: Path) -> None:
    for file, bit in flips(run / NEWEST, 6, seed=1):
        flip(run / NEWEST / file, bit)
        code, line = asked(adapter, "verify", run, pristine)
        assert (code, file.rpartition("/")[2] in line) == (3, True), (file, bit, line)
        flip(run / NEWEST / file, bit)
    assert asked(adapter, "verify", run, pristine) == (0, "")
