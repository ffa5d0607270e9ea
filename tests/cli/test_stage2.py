"""A run of Stage II through the commands: texts from its prior, latents from its posterior, measured with its own latents or the data's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_world import DIM, data_folder, train

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main

QUICK = ("num_samples=8", "num_steps=2", "latent_steps=2", "bootstrap=0", "likelihood_draws=2", "evaluation.judge=false")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data, a run of Stage I, and one of Stage II behind it that reads no latents."""
    folder = tmp_path_factory.mktemp("stage2")
    data = data_folder(folder / "data")
    short = ("training.num_train_steps=4",)
    assert train(data, folder / "one", "loss.loss_type=unconditional", *short) == 0
    words = ("training.stage_schedule=stage2_variational", "model.latent_encoder_type=mlp", "data.use_external_latents=false")
    assert (
        train(data, folder / "two", *words, f"model.checkpoint_path={folder / 'one/run'}", "model.latent_prior_type=diffusion", *short) == 0
    )
    return {"data": data, "stage1": folder / "one/run", "stage2": folder / "two/run"}


def lgdlm(*words: str) -> int:
    try:
        return main([words[0], "--quiet", *words[1:]])
    finally:
        progress._silent = False


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_from_the_prior_come_with_their_latents(world: dict[str, Path], tmp_path: Path) -> None:
    sample = ("sample", str(world["stage2"]), "mode=prior", "num_steps=2", "num_samples=5")
    assert lgdlm(*sample, f"out={tmp_path / 'a.jsonl'}") == 0
    assert lgdlm(*sample, f"out={tmp_path / 'b.jsonl'}", "sampling.batch_size=2") == 0
    found = records(tmp_path / "a.jsonl")
    assert [record["id"] for record in found] == list("01234")
    assert all(isinstance(record["text"], str) and len(record["latent"]) == DIM for record in found)
    for one, other in zip(found, records(tmp_path / "b.jsonl"), strict=True):
        assert one["text"] == other["text"], "whatever is drawn beside it"
        np.testing.assert_allclose(one["latent"], other["latent"], atol=1e-4)


def test_a_text_s_own_latent_can_be_written_out_again(world: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the cat runs\na big dog\n", encoding="utf-8")
    encode = ("sample", str(world["stage2"]), "mode=encode", f"prompts={tmp_path / 'texts.txt'}")
    assert lgdlm(*encode, f"out={tmp_path / 'z.jsonl'}") == 0
    found = records(tmp_path / "z.jsonl")
    assert len(found) == 2
    assert found[0]["latent"] != found[1]["latent"]
    np.save(tmp_path / "z.npy", np.array([record["latent"] for record in found], np.float32))
    assert lgdlm("sample", str(world["stage2"]), f"input={tmp_path / 'z.npy'}", "num_steps=2", f"out={tmp_path / 'y.jsonl'}") == 0
    assert len(records(tmp_path / "y.jsonl")) == 2


@pytest.mark.parametrize(("mode", "code"), [("prior", "E_NO_PRIOR"), ("encode", "E_NO_POSTERIOR")])
def test_stage_1_is_told_what_it_lacks(world: dict[str, Path], capsys: pytest.CaptureFixture[str], mode: str, code: str) -> None:
    assert lgdlm("sample", str(world["stage1"]), f"mode={mode}", "prompt=a cat", "num_steps=2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {code} ")


def measured(world: dict[str, Path], run: str, out: Path, *words: str) -> dict[str, Any]:
    assert lgdlm("evaluate", str(world[run]), *QUICK, f"out={out}", *words) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    return {**{entry["name"]: entry["value"] for entry in results["numbers"]}, "model": results["model"]}


def test_stage_1_s_numbers_are_to_be_had_before_and_after(world: dict[str, Path], tmp_path: Path) -> None:
    """On the data's latents, which are named; without a name the run is measured with its own."""
    before = measured(world, "stage1", tmp_path / "before.json")
    after = measured(world, "stage2", tmp_path / "after.json", f"data.latent_dir={world['data']}")
    own = measured(world, "stage2", tmp_path / "own.json")
    stage2 = {name for name in own if name.startswith(("stage2_", "prior_"))}
    assert set(before) == set(after) - stage2
    assert len(stage2) == 10
    assert set(own) >= stage2
    assert own["nelbo_unconditional"] == pytest.approx(after["nelbo_unconditional"]), "no latent enters that"
    assert own["stage2_bound"] == pytest.approx(after["stage2_bound"]), "nor this"
    assert own["t2l_mse_one_step"] != after["t2l_mse_one_step"]
    unread = measured(world, "stage2", tmp_path / "unread.json", f"data.latent_dir={world['data']}", "data.use_external_latents=false")
    assert unread == own
    assert len(own["model"]["kl_by_dimension"]) == DIM


def test_the_page_of_a_run_shows_them(world: dict[str, Path], tmp_path: Path) -> None:
    measured(world, "stage2", world["stage2"] / "results.json")
    assert lgdlm("report", str(world["stage2"])) == 0
    (page,) = world["stage2"].glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "The latent it learned itself" in text
    assert "Active dimensions of the latent" in text
