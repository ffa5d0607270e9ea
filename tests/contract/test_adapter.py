"""`adapter.toml` driven as an outside harness drives it: every verb in processes of its own, one of them killed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from contract.harness import Adapter, jsonl
from contract.sound import World
from folders import sentences

VERBS = {"prepare", "check", "train", "resume", "verify", "sample-l2t", "sample-t2l", "eval"}
SAVES = {"save_every": 25, "keep": 3}
TENSORS = ("model", "ema", "optimizer")


def wait_for_step(run: Path, step: int) -> None:
    """Until the log has the line of `step`."""
    log = run / "training_log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= step):
        time.sleep(0.01)


def result(run: Path, step: int) -> tuple[dict[str, str], list[object], list[object]]:
    """What two equal runs share: hashes of the tensors, the log and the ledger."""
    files = json.loads((run / f"step_{step:08d}" / "manifest.json").read_text())["files"]
    hashes = {name: files[f"{name}.safetensors"]["sha256"] for name in TENSORS}
    return hashes, list(jsonl(run / "training_log.jsonl")), list(jsonl(run / "ledger.jsonl"))


def test_every_verb_and_option_is_mapped(adapter: Adapter) -> None:
    assert set(adapter.verbs) >= VERBS
    assert set(adapter.options) == {"fallback", "ledger", "poison"}
    train, resume = adapter.verbs["train"], adapter.verbs["resume"]
    assert resume[: len(train)] == train, "resume is train, and goes on"


def test_a_run_from_text_to_figures(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    """prepare, check, train, kill, resume, verify, sample both ways, evaluate; compared with a run that nobody killed."""
    texts = tmp_path / "te xts \u00e9.jsonl"
    texts.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(sentences(5))))
    adapter.run("prepare", tmp_path, text=texts, out=tmp_path / "prepared").ended(0)
    assert json.loads((tmp_path / "prepared/manifest.json").read_text())["counts"]["train"]["rows"] == 5
    adapter.run("check", tmp_path, **pristine.values).ended(0)

    run = tmp_path / "a run \u00e9"
    killed = adapter.start("train", tmp_path, "ledger", run=run, steps=1_000_000, **SAVES, **pristine.values)
    wait_for_step(run, 12)  # and some more, until the blow falls
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    end = (run / "training_log.jsonl").read_bytes().count(b"\n") // 25 * 25 + 50
    adapter.run("resume", tmp_path, "ledger", run=run, steps=end, **SAVES, **pristine.values).ended(0)
    whole = tmp_path / "whole"
    adapter.call("train", tmp_path, "ledger", run=whole, steps=end, **SAVES, **pristine.values).ended(0)
    assert result(run, end) == result(whole, end)
    assert [line["step"] for line in jsonl(run / "training_log.jsonl")] == list(range(1, end + 1))
    kept = [step for step in (end - 50, end - 25, end) if step]
    assert sorted(path.name for path in run.glob("step_*")) == [f"step_{step:08d}" for step in kept]
    assert (run / "latest").read_text() == f"step_{end:08d}"
    assert jsonl(run / "events.jsonl")[-1]["event"] == "checkpoint_saved"

    checkpoint = run / f"step_{end:08d}"
    adapter.run("verify", tmp_path, checkpoint=checkpoint).ended(0)
    latents = {path.stem: path for path in (pristine.latent_dir / "latents/validation").iterdir()}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "p \u00e9", "text": "a cat"}\n{"id": "q", "text": "na\u00efve"}\n', encoding="utf-8")
    given = {"latents": pristine.latent_dir / "latents/validation", "prompts": prompts}
    for verb, ids in (("sample-l2t", set(latents)), ("sample-t2l", {"p \u00e9", "q"})):
        for run_it, size in ((adapter.run, 8), (adapter.call, 1)):
            out = tmp_path / f"{verb} {size}.jsonl"
            run_it(verb, tmp_path, checkpoint=checkpoint, out=out, **given, **{"sample_batch": size}, **pristine.values).ended(0)
            assert {line["id"] for line in jsonl(out)} == ids
    texts_of = [[line["text"] for line in jsonl(tmp_path / f"sample-l2t {size}.jsonl")] for size in (8, 1)]
    assert texts_of[0] == texts_of[1]
    vectors = [np.array([line["latent"] for line in jsonl(tmp_path / f"sample-t2l {size}.jsonl")]) for size in (8, 1)]
    assert vectors[0].shape == (2, 4)
    assert np.array_equal(*vectors), "to the bit"

    adapter.run("eval", tmp_path, checkpoint=checkpoint, out=tmp_path / "figures.json", **pristine.values).ended(0)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(np.isfinite(number["value"]) for number in figures["numbers"])
    assert {number["name"] for number in figures["numbers"]} >= {"nelbo_given_latent", "perplexity_given_latent"}


def test_a_manifest_says_what_a_checkpoint_holds(trained: Path) -> None:
    for step in (2, 4):
        folder = trained / f"step_{step:08d}"
        manifest = json.loads((folder / "manifest.json").read_text())
        held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
        assert (manifest["step"], manifest["world_size"], set(manifest["files"])) == (step, 1, held)
        assert held >= {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "config.yaml"}
        assert all(
            len(entry["sha256"]) == 64 and entry["bytes"] == (folder / name).stat().st_size for name, entry in manifest["files"].items()
        )


def test_one_seed_one_run_and_another_seed_another(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        adapter.call("train", tmp_path, "ledger", run=tmp_path / name, **{**pristine.values, "seed": seed}).ended(0)
    a, b, c = (result(tmp_path / name, 4) for name in "abc")
    assert a == b
    assert a[0]["model"] != c[0]["model"]


def test_a_shorter_run_that_goes_on_is_the_longer_one(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    for run, parts in (("whole", [6]), ("parts", [2, 4, 6])):
        for steps in parts:
            adapter.call("resume", tmp_path, run=tmp_path / run, **{**pristine.values, "steps": steps}).ended(0)
    hashes = [json.loads((tmp_path / run / "step_00000006/manifest.json").read_text())["files"] for run in ("whole", "parts")]
    assert all(hashes[0][f"{name}.safetensors"] == hashes[1][f"{name}.safetensors"] for name in TENSORS)


def test_micro_batches_share_a_batch(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    for name, accum in (("one", 1), ("four", 4)):
        adapter.call(
            "train", tmp_path, "ledger", run=tmp_path / name, **{**pristine.values, "accum": accum, "micro_batch": 4 // accum}
        ).ended(0)
    one, four = (result(tmp_path / name, 4) for name in ("one", "four"))
    assert one[2] == four[2], "the same samples in every step"
    np.testing.assert_allclose([line["loss"] for line in one[1]], [line["loss"] for line in four[1]], rtol=1e-4)


def test_a_poisoned_step_is_skipped_noted_and_counted(adapter: Adapter, pristine: World, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    adapter.call("train", tmp_path, "ledger", run=probe, **pristine.values).ended(0)
    of_step = {line["step"]: line["sample_ids"] for line in jsonl(probe / "ledger.jsonl")}
    # batches of 4 of 12 samples: the samples of step 2 come back in the next epoch, not before step 4
    values = {**pristine.values, "poison_ids": of_step[2][0], "steps": 3, "save_every": 1}
    adapter.call("train", tmp_path, "poison", "ledger", run=tmp_path / "run", **values).ended(0)
    assert [line["loss"] is None for line in jsonl(tmp_path / "run/training_log.jsonl")] == [False, True, False]
    skipped = [event for event in jsonl(tmp_path / "run/events.jsonl") if event["event"] == "step_skipped"]
    assert [(event["step"], event["sample_ids"], "finite" in event["reason"]) for event in skipped] == [(2, of_step[2], True)]
    files = [json.loads((tmp_path / f"run/step_{k:08d}/manifest.json").read_text())["files"] for k in (1, 2, 3)]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"] != files[2]["model.safetensors"], "step_2 is there, and is step_1"


@pytest.mark.parametrize("keep", [9, 2])
def test_too_many_skipped_steps_end_with_6_and_the_last_good_checkpoint(
    adapter: Adapter, pristine: World, tmp_path: Path, keep: int
) -> None:
    """Also where the skipped steps were saved, and rotation has removed the good one meanwhile."""
    run = tmp_path / "run"
    adapter.call("train", tmp_path, run=run, **pristine.values).ended(0)
    every = ",".join(entry["latent_path"].rpartition("/")[2].removesuffix(".npy") for entry in pristine.entries())
    values = {**pristine.values, "poison_ids": every, "steps": 20, "max_skipped": 3, "save_every": 1, "keep": keep}
    good = json.loads((run / "step_00000004/manifest.json").read_text())["files"]
    outcome = adapter.call("resume", tmp_path, "poison", run=run, **values).ended(6)
    assert "step 8" in outcome.line
    assert sorted(path.name for path in run.glob("step_*"))[-1] == (run / "latest").read_text() == "step_00000004"
    kept = json.loads((run / "step_00000004/manifest.json").read_text())["files"]
    assert all(kept[f"{name}.safetensors"] == good[f"{name}.safetensors"] for name in TENSORS)
    assert [line["loss"] is None for line in jsonl(run / "training_log.jsonl")] == [False] * 4 + [True] * 4
    adapter.call("verify", tmp_path, checkpoint=run / "step_00000004").ended(0)


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_a_finished_run(adapter: Adapter, pristine: World, run: Path, verb: str) -> None:
    """`train` begins new runs only; `resume` of a finished one has nothing to do."""
    before = {path: path.read_bytes() for path in run.glob("step_*/*.safetensors")}
    outcome = adapter.call(verb, run.parent, run=run, **pristine.values).ended(2 if verb == "train" else 0)
    assert outcome.code == 0 or "training.resume=auto" in outcome.line
    assert {path: path.read_bytes() for path in run.glob("step_*/*.safetensors")} == before
