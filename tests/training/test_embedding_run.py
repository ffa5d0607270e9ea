"""Embedding diffusion from the command line: trained in every mode, resumed bit for bit, sampled and evaluated; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_world import DIM, data_folder, digests, lines, log_of, train

from lgdlm.cli.__main__ import main

EMBEDDED = (
    "model.text_process=embedding", "model.embedding_dim=8", "loss.text_weighting=uniform", "loss.auxiliary_ce_weight=0.5",
    "model.self_conditioning_prob=0.5", "training.num_train_steps=6", "training.save_every_n_steps=3", "logging.eval_freq=6",
    "training.lr_schedule=constant",
)  # fmt: skip
MODES = {
    "random": ("loss.loss_type=random",),
    "uncond": ("loss.loss_type=unconditional", "loss.text_weighting=epsilon"),
    "l2t, eos": ("loss.loss_type=l2t", "model.length=eos"),
    "t2l": ("loss.loss_type=t2l",),
    "cycle": ("loss.loss_type=cycle_vae", "loss.cycle_latent_sampling=gumbel_st", "loss.prior_type=diffusion"),
    "mmdit": ("model=mmdit", "loss.loss_type=random"),
    "rwkv7": ("model=rwkv7", "model.n_heads=0", "model.head_size=8", "loss.loss_type=random"),
    "blocks": (
        "model=rwkv7", "model.n_heads=0", "model.head_size=8", "model.causality=block_causal", "model.block_size=16",
        "model.text_beta_schedule=sigmoid", "loss.loss_type=random", "model.length=eos",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert train(data, out, *EMBEDDED) == 0
    return out / "run"


@pytest.mark.parametrize("mode", MODES)
def test_it_resumes_bit_for_bit_in_every_mode(data: Path, tmp_path: Path, mode: str) -> None:
    words = (*EMBEDDED, *MODES[mode])
    assert train(data, tmp_path / "whole", *words) == 0
    assert train(data, tmp_path / "parts", *words, "training.num_train_steps=3") == 0
    assert train(data, tmp_path / "parts", *words, "training.resume=auto") == 0
    assert digests(tmp_path / "parts/run/step_00000006") == digests(tmp_path / "whole/run/step_00000006")
    assert log_of(tmp_path / "parts/run")[-1] == log_of(tmp_path / "whole/run")[-1]


def test_the_log_holds_what_it_means_and_no_bound(trained: Path) -> None:
    log = lines(trained / "training_log.jsonl")
    names = {name for row in log for name in row}
    assert not [name for name in names if "nelbo" in name]
    of_text = ("text_squared_error", "text_cross_entropy", "text_accuracy")
    assert {f"validation/{name}_{side}" for name in of_text for side in ("given_z", "alone")} <= names
    assert "validation/latent_loss" in names


@pytest.mark.parametrize("mode", ["l2t", "t2l", "joint", "infill", "edit", "interpolate"])
def test_every_sampler_of_the_command_line_runs_on_it(trained: Path, tmp_path: Path, mode: str) -> None:
    latents, out = tmp_path / "z.npy", tmp_path / "out.jsonl"
    np.save(latents, np.random.default_rng(0).standard_normal((1 if mode == "edit" else 2, DIM)).astype(np.float32))
    given = {
        "l2t": (f"input={latents}", "sampling.rounding=nearest"),
        "t2l": ("prompt=a small river",),
        "joint": ("num_samples=2", "sampling.text_sampler=ddpm"),
        "infill": ("prompt=a [MASK] river",),
        "edit": ("prompt=a small river", f"input={latents}", "sampling.rounding=every_step"),
        "interpolate": (f"input={latents}", "num_samples=2"),
    }[mode]
    words = ["sample", str(trained), f"mode={mode}", "num_steps=2", "guidance_scale=1.5", f"out={out}", *given]
    assert main([*words, "--quiet"]) == 0
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_an_evaluation_reports_drift_and_rounding_and_says_what_it_leaves_out(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    words = [
        "evaluation.num_samples=8",
        "evaluation.num_steps=2",
        "evaluation.bootstrap=10",
        "evaluation.judge=false",
        "evaluation.best_of=2",
    ]
    assert main(["evaluate", str(trained), f"out={out}", *words, "evaluation.latent_steps=2", "--quiet"]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    values = {entry["name"]: entry for entry in found["numbers"]}
    assert not [name for name in values if "nelbo" in name or "perplexity_given" in name or "bits" in name]
    left_out = {entry["what"]: entry["reason"] for entry in found["not_run"]}
    assert "no bound" in left_out["NELBO, perplexity and bits per byte"]
    assert {"embedding_drift", "rounding_accuracy", "rounding_nats", "length_nats_given_latent", "t2l_mse_sample", "l2t_token_f1"} <= set(
        values
    )
    curve = found["model"]["drift_over_t"]
    assert [point["t"] for point in curve] == [k / 8 for k in range(1, 9)]
    assert values["embedding_drift_t50"]["value"] == pytest.approx(curve[3]["embedding_drift"], abs=1e-5)
    mean = sum(point["rounding_accuracy"] for point in curve) / 8
    assert values["rounding_accuracy"]["value"] == pytest.approx(mean, abs=1e-5)
    alone = values["rounding_accuracy_t25"]["baselines"]["nearest to x_t, no network"]
    assert alone > values["rounding_accuracy_t100"]["baselines"]["nearest to x_t, no network"]
    assert found["model"]["text_process"] == "embedding"


REFUSED = {
    "the bound's weight": ("loss.text_weighting=elbo",),
    "no loss": ("loss.auxiliary_ce_weight=0", "loss.embedding_mse_weight=0"),
    "a reading of visible tokens": ("model.latent_skip=linear",),
    "a bound": ("loss.loss_type=stage2_variational", "model.latent_encoder_type=mlp"),
    "an untied head": ("model.tie_embeddings=false",),
    "masks with estimates": ("model.text_process=masked",),
    "masks with a schedule": ("model.text_process=masked", "model.self_conditioning_prob=0", "model.text_beta_schedule=linear"),
    "masks with squared errors": ("model.text_process=masked", "model.self_conditioning_prob=0", "loss.embedding_mse_weight=2"),
    "no curriculum": ("training.noise_levels=[{step: 0, low: 0.9, high: 0.1}]",),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(data: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, tmp_path / "out", *EMBEDDED, *REFUSED[case]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: E_CONFIG")
    assert not (tmp_path / "out").exists()
