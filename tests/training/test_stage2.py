"""Stage II as a run: chosen by either name, from a Stage I checkpoint or from nothing, with no latent file in sight."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from folders import per_sample
from training_world import DIM, assembly, data_folder, digests, lines, log_of, train

from lgdlm.cli.compose import compose
from lgdlm.config import Config
from lgdlm.errors import InputError
from lgdlm.models.posterior import POOLS
from lgdlm.models.prior import PRIOR_TYPES
from lgdlm.training.checkpoint import WEIGHTS, read_tensors
from lgdlm.training.restore import restore

STAGE2 = ("loss.loss_type=stage2_variational", "model.latent_encoder_type=mlp")
ALONE = (*STAGE2, "data.use_external_latents=false")
SHORT = ("training.num_train_steps=4", "logging.eval_freq=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def stage1(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stage1")
    assert train(data, out, "loss.loss_type=stage1_coupling", "training.num_train_steps=10") == 0
    return out / "run"


def bare(data: Path, folder: Path) -> Path:
    """The same texts prepared without an encoder."""
    from lgdlm.data.prepare import prepare

    prepare("file", folder, path=data.parent / "texts.jsonl", tokenizer="byte", encoder=None, latent_dim=None, validation=12)
    return folder


@pytest.mark.parametrize("prior", PRIOR_TYPES)
@pytest.mark.parametrize("encoder", POOLS)
def test_every_encoder_and_prior_trains_and_is_restored(data: Path, tmp_path: Path, encoder: str, prior: str) -> None:
    words = (f"model.latent_encoder_type={encoder}", f"model.latent_prior_type={prior}", "data.use_external_latents=false")
    assert train(data, tmp_path, "loss.loss_type=stage2_variational", *words, *SHORT) == 0
    last = log_of(tmp_path / "run")[-1]
    expected = {"reconstruction", "kl", "bound", "nelbo_alone", "active_units", *(f"kl_dimension_{d:02}" for d in range(DIM))}
    assert {name.removeprefix("validation/") for name in last if name.startswith("validation/")} == expected
    by_dimension = sum(last[f"validation/kl_dimension_{d:02}"] for d in range(DIM))
    assert by_dimension == pytest.approx(last["validation/kl"], rel=1e-4)
    model = restore(tmp_path / "run").model
    assert model.posterior is not None
    assert type(model.posterior.pool) is POOLS[encoder]


def test_no_latent_files_are_needed(data: Path, tmp_path: Path) -> None:
    """Packed data prepared without an encoder, and a per-sample folder whose latents are gone."""
    plain = bare(data, tmp_path / "plain")
    assert train(plain, tmp_path / "packed", *ALONE, *SHORT) == 0
    folder, tokens = per_sample(tmp_path / "samples")
    shutil.rmtree(folder / "latents")
    words = ("tokenizer.path=byte", "training.train_batch_size=2", "training.eval_batch_size=1")
    assert train(folder, tmp_path / "per_sample", *ALONE, *SHORT, *words, f"data.token_dir={tokens}") == 0


def test_latents_that_are_not_read_change_nothing(data: Path, tmp_path: Path) -> None:
    """The same texts with and without latents give the same weights."""
    plain = bare(data, tmp_path / "plain")
    for source, name in ((data, "with"), (plain, "without")):
        assert train(source, tmp_path / name, *ALONE, *SHORT) == 0
    assert digests(tmp_path / "with/run/step_00000004") == digests(tmp_path / "without/run/step_00000004")


def test_data_with_latents_are_checked_in_stage_1_terms_too(data: Path, tmp_path: Path) -> None:
    """Whether Stage I is forgotten can be read from the log of Stage II."""
    assert train(data, tmp_path, *STAGE2, *SHORT) == 0
    last = log_of(tmp_path / "run")[-1]
    assert {"validation/nelbo_given_z", "validation/latent_loss", "validation/nelbo_alone", "validation/bound"} <= set(last)


def test_a_stage_1_checkpoint_is_taken_whole(data: Path, stage1: Path, tmp_path: Path) -> None:
    parts = assembly(data, tmp_path, *ALONE, f"model.checkpoint_path={stage1}")
    saved = {**read_tensors(stage1 / "step_00000010", WEIGHTS), **read_tensors(stage1 / "step_00000010", "ema.safetensors")}
    own = dict(parts.model.state_dict())
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items()), "averaged weights, and the statistics of its latents"
    assert {name.partition(".")[0] for name in own.keys() - saved.keys() if name in dict(parts.model.named_parameters())} == {"posterior"}


def test_statistics_are_the_checkpoint_s_or_none(data: Path, stage1: Path, tmp_path: Path) -> None:
    fresh, behind = (assembly(data, tmp_path, *ALONE, *more).model for more in ((), (f"model.checkpoint_path={stage1}",)))
    assert fresh.latent_mean.tolist() == [0.0] * DIM
    assert fresh.latent_std.tolist() == [1.0] * DIM
    torch.testing.assert_close(behind.latent_std, restore(stage1).model.latent_std)
    assert not torch.equal(behind.latent_std, fresh.latent_std)


def test_means_may_begin_at_what_stage_1_reads(data: Path, stage1: Path, tmp_path: Path) -> None:
    """Before step 1 mu is E[z | y] to the bit; what pulls at mu moves its correction and leaves the reading's head alone."""
    parts = assembly(data, tmp_path, *ALONE, f"model.checkpoint_path={stage1}", "model.latent_encoder_start=reading")
    model, before = parts.model.eval(), restore(stage1).model.eval()
    batch = parts.loader.step(1).batches[0]
    pair = before.clean_text(batch.input_ids, batch.text_mask)
    with torch.no_grad():
        expected = before.x0_latent(before(pair), pair)
    mean = model.read(batch.input_ids, batch.text_mask)[0].mean
    assert torch.equal(mean, expected)
    assert float(expected.std()) > 0
    mean.square().sum().backward()
    assert model.posterior is not None
    pull = model.posterior.mean.weight.grad
    assert pull is not None
    assert pull.any()
    assert not any(p.grad is not None and p.grad.any() for p in model.denoiser.latent_head.parameters())


def test_stage_2_goes_on_from_stage_2(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, *ALONE, *SHORT) == 0
    again = assembly(data, tmp_path / "again", *ALONE, f"model.checkpoint_path={tmp_path / 'run'}").model
    for name, tensor in restore(tmp_path / "run").model.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], tensor), name


def test_resume_is_exact(data: Path, stage1: Path, tmp_path: Path) -> None:
    words = (*ALONE, f"model.checkpoint_path={stage1}", "model.latent_prior_type=diffusion", "loss.free_bits=0.1", "loss.geom_weight=0.1")
    words = (*words, "loss.kl_warmup_steps=6", "training.lr_schedule=constant", "training.save_every_n_steps=4")
    assert train(data, tmp_path / "whole", *words, "training.num_train_steps=8") == 0
    assert train(data, tmp_path / "cut", *words, "training.num_train_steps=4") == 0
    assert train(data, tmp_path / "cut", *words, "training.num_train_steps=8", "training.resume=auto") == 0
    assert digests(tmp_path / "whole/run/step_00000008") == digests(tmp_path / "cut/run/step_00000008")


@pytest.mark.parametrize("prior", PRIOR_TYPES)
def test_accumulation_is_one_large_batch(data: Path, tmp_path: Path, prior: str) -> None:
    options = (*ALONE, f"model.latent_prior_type={prior}", "loss.geom_weight=1", "loss.free_bits=0.1", "optimizer.eps=0.001")
    found = []
    for rows, micro in ((8, 1), (4, 2)):
        parts = assembly(data, tmp_path, *options, f"training.train_batch_size={rows}", f"training.gradient_accumulation_steps={micro}")
        metrics = [parts.train_step(parts.loader.step(k), k, 1.0) for k in range(1, 5)]
        found.append((metrics, {name: p.detach().clone() for name, p in parts.model.named_parameters()}))
    (metrics, weights), (theirs, others) = found
    for one, other in zip(metrics, theirs, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=0, msg=name)


def test_stage_2_can_take_turns_with_stage_1(data: Path, tmp_path: Path) -> None:
    """As a phase behind Stage I, or drawn with shares: rehearsal against forgetting."""
    phases = 'training.sequential_schedule=[{"type": "stage1_coupling", "steps": 2}, {"type": "stage2_variational", "steps": 2}]'
    words = ("model.latent_encoder_type=mlp", "training.num_train_steps=4")
    assert train(data, tmp_path / "a", "loss.loss_type=sequential", phases, *words) == 0
    shares = "training.mode_weights={l2t: 1, t2l: 1, stage2_variational: 2}"
    assert train(data, tmp_path / "b", "loss.loss_type=random", shares, *words, "training.num_train_steps=8") == 0
    seen = [{name.partition("/")[0] for name in r if name.endswith("/latent_norm")} for r in lines(tmp_path / "a/run/training_log.jsonl")]
    assert seen == [{"unconditional"}] * 2 + [{"stage2_variational"}] * 2
    seen = [name.partition("/")[0] for r in lines(tmp_path / "b/run/training_log.jsonl") for name in r if name.endswith("/latent_norm")]
    assert set(seen) == {"l2t", "t2l", "stage2_variational"}


def composed(*words: str, name: str = "rwkv_mmdit") -> Config:
    return compose(list(words), name)


def test_the_stage_s_name_chooses_the_objective() -> None:
    """The documented command gives no loss_type beside it, and the configuration's own is Stage I's."""
    assert composed().loss.loss_type == "stage1_coupling"
    assert composed("training.stage_schedule=stage2_variational").loss.loss_type == "stage2_variational"
    assert composed("training.stage_schedule=stage1_coupling", "training.loss_type=l2t").loss.loss_type == "l2t"


def test_the_stage_s_name_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training: {stage_schedule: stage2_variational}\n", encoding="utf-8")
    assert composed(name=str(tmp_path / "mine.yaml")).loss.loss_type == "stage2_variational"


REFUSED = {
    "no encoder": (("loss.loss_type=stage2_variational",), "model.latent_encoder_type"),
    "an encoder that nothing trains": (("model.latent_encoder_type=mlp", "loss.loss_type=l2t"), "model.latent_encoder_type"),
    "two stages": ((*STAGE2, "training.stage_schedule=stage1_coupling"), "training.stage_schedule"),
    "a stage without its objective": (("loss.loss_type=l2t", "training.stage_schedule=stage2_variational"), "training.stage_schedule"),
    "Stage I without latents": (("loss.loss_type=l2t", "data.use_external_latents=false"), "data.use_external_latents"),
    "an untrained prior": ((*STAGE2, "model.latent_prior_type=diffusion", "loss.latent_loss_weight=0"), "loss.latent_loss_weight"),
    "no fours": ((*STAGE2, "loss.geom_weight=1", "training.train_batch_size=6"), "loss.geom_weight"),
    "nothing to correct": ((*ALONE, "model.latent_encoder_start=reading"), "model.checkpoint_path"),
    "a correction of Stage I by itself": (("model.latent_encoder_start=reading", "model.checkpoint_path=x"), "model.latent_encoder_start"),
    "a regression on nothing": ((*ALONE, "model.latent_skip=linear"), "model.latent_skip"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(data: Path, tmp_path: Path, case: str) -> None:
    words, field = REFUSED[case]
    with pytest.raises(InputError) as refused:
        assembly(data, tmp_path, *words)
    assert refused.value.field == field


def test_data_without_latents_say_how_to_do_without(data: Path, tmp_path: Path) -> None:
    plain = bare(data, tmp_path / "plain")
    with pytest.raises(InputError, match="data.use_external_latents=false"):
        assembly(plain, tmp_path, *STAGE2)
