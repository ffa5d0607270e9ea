"""The commands of the MMDiT package: training, then samples in the old files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from doors_world import DIM, documented, run, small

from lgdlm.training.restore import restore

TRAINED = {"mmdit": "unconditional", "decoder": "l2t", "cycles": "cycle_vae", "mmdit_stable": "l2t"}


@pytest.fixture(scope="module")
def trained(world):
    for command in documented("MMDiT, and samples of it"):
        code, _, err = run(small(command), world)
        assert code == 0, f"{command}\n{err[-2000:]}"
    return world


def results(world, name):
    return json.loads((world / "samples" / name / "results.json").read_text())


@pytest.mark.parametrize("name", TRAINED)
def test_a_configuration_trains_what_it_says(trained, name):
    config = restore(trained / "outputs" / name).config
    assert (config.model.denoiser, config.loss.loss_type) == ("mmdit", TRAINED[name])
    assert config.model.latent_parameterization == "v_param"


def test_texts_for_latents_lie_in_the_old_files(trained):
    found = results(trained, "l2t")
    assert found["settings"]["seq_len"] == 16
    assert len(found["samples"]) == 4
    assert (trained / "samples/l2t/generated_texts.txt").read_bytes().count(b"\n") == 4, "a line a text, whatever stands in it"
    names = sorted(p.stem for p in (trained / "preprocessed_data/qwen_32d/latents/validation").iterdir())
    assert [s["id"] for s in found["samples"]] == names[:4]


@pytest.mark.parametrize(("name", "count"), [("t2l", 2), ("prompt", 3), ("joint", 3)])
def test_latents_lie_in_the_old_files(trained, name, count):
    folder = trained / "samples" / name
    files = sorted(folder.glob("generated_latent_*.npy"))
    assert [file.name for file in files] == [f"generated_latent_{i:03d}.npy" for i in range(count)]
    latents = [np.load(file) for file in files]
    assert all(latent.shape == (DIM,) and latent.dtype == np.float32 and np.isfinite(latent).all() for latent in latents)
    assert len({latent.tobytes() for latent in latents}) == count, "each is a draw of its own"
    assert [s["latent"] for s in results(trained, name)["samples"]] == [file.name for file in files]


def test_both_clocks_take_the_larger_number_of_steps(trained):
    assert results(trained, "joint")["settings"]["num_steps"] == 20
    assert (trained / "samples/joint/generated_texts.txt").read_bytes().count(b"\n") == 3


def test_fewer_samples_leave_no_file_of_an_earlier_call(trained):
    command = "python latentDLM_mmdit/sample_t2l_fixed.py --checkpoint outputs/mmdit/checkpoint.pt --text_prompt one --output_dir"
    assert run(f"{command} samples/again --num_samples 3 --steps 2 --batch_size 1", trained)[0] == 0
    assert run(f"{command} samples/again --steps 2", trained)[0] == 0
    assert [p.name for p in (trained / "samples/again").glob("*.npy")] == ["generated_latent_000.npy"]


def test_a_text_beyond_the_length_is_refused(trained):
    command = "python latentDLM_mmdit/sample_t2l_fixed.py --checkpoint outputs/mmdit --text_file prompts.txt --max_length 4"
    code, _, err = run(command, trained)
    assert code == 2
    assert "at most 4 are taken" in err
