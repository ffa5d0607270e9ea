"""cycle_vae from the command line: it runs, logs what it is documented to log, resumes bit for bit, and refuses what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_world import assembly, data_folder, digests, lines, log_of, train

from lgdlm.errors import InputError
from lgdlm.objectives.cycle_vae import CycleObjective

CYCLE = ("loss.loss_type=cycle_vae", "training.num_train_steps=6", "training.save_every_n_steps=3", "logging.eval_freq=6")
POLICIES = {
    "argmax": (),
    "gumbel_st, moments": ("loss.cycle_latent_sampling=gumbel_st", "loss.prior_type=moments"),
    "decoder_only, mmd, turns": ("loss.cycle_update=decoder_only", "loss.prior_type=mmd", "loss.cycle_prob=0.5"),
    "sampled, no stop, diffusion": (
        "loss.cycle_text_through=sampled", "loss.cycle_stop_grad_latent=false", "loss.prior_type=diffusion",
        "loss.cycle_latent_sampling=categorical",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("policy", POLICIES)
def test_it_resumes_bit_for_bit_under_every_policy(data: Path, tmp_path: Path, policy: str) -> None:
    words = (*CYCLE, *POLICIES[policy], "loss.cycle_text_ramp_steps=4", "loss.cycle_latent_warmup_steps=1", "loss.cycle_probe_every=2")
    words = (*words, "training.lr_schedule=constant")
    assert train(data, tmp_path / "whole", *words) == 0
    assert train(data, tmp_path / "parts", *words, "training.num_train_steps=3") == 0
    assert train(data, tmp_path / "parts", *words, "training.resume=auto") == 0
    assert digests(tmp_path / "parts/run/step_00000006") == digests(tmp_path / "whole/run/step_00000006")
    assert log_of(tmp_path / "parts/run")[-1] == log_of(tmp_path / "whole/run")[-1]


def test_the_log_holds_both_cycles_their_weights_and_the_probe(data: Path, tmp_path: Path) -> None:
    ramp = ("loss.cycle_text_warmup_steps=1", "loss.cycle_text_ramp_steps=4", "loss.cycle_latent_warmup_steps=2", "loss.cycle_every=1")
    assert train(data, tmp_path, *CYCLE, *ramp, "loss.cycle_probe_every=3", "loss.prior_type=moments") == 0
    log = lines(tmp_path / "run/training_log.jsonl")
    weights = [(row["cycle_vae/cycle_text_weight"], row["cycle_vae/cycle_latent_weight"]) for row in log]
    assert weights == [(0, 0), (0.025, 0), (0.05, 0.1), (pytest.approx(0.075), 0.1), (0.1, 0.1), (0.1, 0.1)]
    always = {"base_l2t_text_loss", "base_t2l_latent_loss", "text_accuracy", "latent_norm", "x0_pred_norm", "prior_loss", "nelbo"}
    assert all(f"cycle_vae/{name}" in row for name in always for row in log)
    assert ["cycle_vae/cycle_text_loss" in row for row in log] == [False, True, True, True, True, True]
    assert ["cycle_vae/cycle_latent_loss" in row for row in log] == [False, False, True, True, True, True]
    assert ["cycle_vae/cycle_text_loss_sampled" in row for row in log] == [False, False, True, False, False, True]


@pytest.mark.parametrize("denoiser", ["mmdit", "rwkv7"])
def test_it_is_one_mode_among_others(data: Path, tmp_path: Path, denoiser: str) -> None:
    own = ("model.n_heads=0", "model.head_size=8") if denoiser == "rwkv7" else ()
    words = (f"model={denoiser}", *own, "training.train_batch_size=4", "loss.cycle_text_t_mode=random")
    phases = '[{"type": "cycle_vae", "steps": 1}, {"type": "t2l", "steps": 1}]'
    parts = assembly(data, tmp_path, *words, "loss.loss_type=sequential", f"training.sequential_schedule={phases}")
    assert set(parts.train_step.objectives) == {"cycle_vae", "t2l"}
    for k in (1, 2):
        metrics = parts.train_step(parts.loader.step(k), k, 1.0)
        assert ("cycle_vae/cycle_latent_loss" in metrics) == (k == 1)
    weights = 'training.mode_weights={"cycle_vae": 2, "unconditional": 1}'
    parts = assembly(data, tmp_path, *words, "loss.loss_type=random", weights)
    assert {parts.train_step.schedule.at(k) for k in range(1, 30)} == {"cycle_vae", "unconditional"}


def test_every_key_of_the_cycles_reaches_the_objective(data: Path, tmp_path: Path) -> None:
    chosen = {
        "cycle_text_weight": 0.2, "cycle_text_warmup_steps": 3, "cycle_text_ramp_steps": 4, "cycle_text_through": "sampled",
        "cycle_text_t_mode": "random", "cycle_latent_weight": 0.3, "cycle_latent_warmup_steps": 5, "cycle_latent_ramp_steps": 6,
        "cycle_latent_sampling": "gumbel_st", "cycle_latent_t_min": 0.1, "cycle_latent_t_max": 0.6, "cycle_gumbel_temperature": 0.5,
        "cycle_stop_grad_latent": "false", "cycle_every": 7, "cycle_prob": 0.4, "cycle_probe_every": 9, "prior_weight": 0.7,
        "prior_type": "mmd", "length_loss_weight": 0.8, "l2t_text_t_mode": "full", "latent_t_mode": "full",
    }  # fmt: skip
    parts = assembly(data, tmp_path, *CYCLE, *(f"loss.{name}={value}" for name, value in chosen.items()))
    made = parts.train_step.objectives["cycle_vae"]
    assert isinstance(made, CycleObjective)
    text, latent = made.text, made.latent
    assert vars(made.text_weight) == {"weight": 0.2, "warmup": 3, "ramp": 4}
    assert vars(made.latent_weight) == {"weight": 0.3, "warmup": 5, "ramp": 6}
    assert vars(text) == {
        "through": "sampled", "t_mode": "random", "stop_gradient": False, "update": "shared", "text_t_mode": "full", "length_weight": 0.8,
    }  # fmt: skip
    assert vars(latent) == {"sampling": "gumbel_st", "t_min": 0.1, "t_max": 0.6, "temperature": 0.5}
    assert (made.turns.every, made.turns.chance, made.probe_every, made.prior_weight) == (7, 0.4, 9, 0.7)
    assert made.prior.__name__ == "mmd"
    assert type(made.decoder.mode.text).__name__ == type(made.encoder.mode.latent).__name__ == "Full"


EPSILON = "model.latent_parameterization=epsilon"
REFUSED = {
    "epsilon in the text cycle": ((EPSILON,), "latent_parameterization", "pure noise"),
    "epsilon in the prior": (
        (EPSILON, "loss.cycle_text_weight=0", "loss.prior_type=mmd"), "latent_parameterization", "pure noise",
    ),
    "epsilon beyond its time": (
        (EPSILON, "loss.cycle_text_weight=0", "loss.cycle_latent_t_max=1"), "cycle_latent_t_max", "recovers z up to",
    ),
    "epsilon with t2l at full noise": (
        (EPSILON, "loss.cycle_text_weight=0", "loss.latent_t_mode=full"), "latent_parameterization", "copy its input",
    ),
    "times the wrong way round": (("loss.cycle_latent_t_min=0.9", "loss.cycle_latent_t_max=0.5"), "cycle_latent_t_min", "above"),
    "decoder_only without a stop": (
        ("loss.cycle_update=decoder_only", "loss.cycle_stop_grad_latent=false"), "cycle_stop_grad_latent", "set one",
    ),
    "a prior that nothing trains": (("loss.prior_type=diffusion", "training.cfg_dropout_prob=0"), "prior_type", "nothing trains"),
    "pairs of single rows": (("loss.prior_type=moments", "data.bucket_rows=1"), "prior_type", "in pairs"),
    "a prefix that sees no text": (
        ("model=rwkv7", "model.n_heads=0", "model.head_size=8", "model.causality=causal", "model.latent_pred_from=prefix"),
        "latent_pred_from", "cannot see",
    ),
    "no latents": (("data.use_external_latents=false",), "use_external_latents", "learns from them"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_its_reason(data: Path, tmp_path: Path, name: str) -> None:
    words, field, reason = REFUSED[name]
    with pytest.raises(InputError) as caught:
        assembly(data, tmp_path, *CYCLE, *words)
    assert field in caught.value.field
    assert reason in caught.value.message


def test_epsilon_is_fine_where_its_latents_can_be_recovered(data: Path, tmp_path: Path) -> None:
    words = (EPSILON, "loss.cycle_text_weight=0")
    assert train(data, tmp_path, *CYCLE, *words) == 0
    log = lines(tmp_path / "run/training_log.jsonl")
    assert all(row["cycle_vae/cycle_latent_loss"] < 1e4 for row in log)
