"""Every key of the earlier configurations with its documented default: it is ours too, or another is named here with its reason.

As words on a shipped configuration the documented defaults change nothing; the same keys as one old file say what the words say.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from documented import ROOT

from lgdlm.cli.compose import compose
from lgdlm.config import Config
from lgdlm.idle_keys import IGNORED, ONLY
from lgdlm.schema import as_dict

MMDIT = """
data: {load_tokens: true, max_samples: 2000000, max_val_samples: 1000, num_workers: 16, initial_scan_limit: 10000, local_files_only: true,
  use_preprocessed: true, val_ratio: 0.05}
model: {type: multimodal_mmdit, diffusion_process: mdlm, latent_diffusion_process: continuous, hidden_size: 1024, n_blocks: 24, n_heads: 24,
  cond_dim: 1024, max_seq_len: 2048, dropout: 0.1, num_residual_streams: 2, qk_rmsnorm: true, use_multimodal: true, latent_dim: 32,
  latent_beta_min: 1.0e-4, latent_beta_max: 0.02, cluster_size: 0, latent_timesteps: 1000, latent_beta_schedule: cosine,
  latent_parameterization: epsilon, p_uniform: 0.0, t_eps: 1.0e-4}
training: {seed: 42, train_batch_size: 4, eval_batch_size: 4, num_epochs: 10, num_train_steps: 1000000, dtype: bf16, compile_model: false,
  world_size: 1, lr_schedule: cosine, warmup_steps: 2000, resume: null, gradient_accumulation_steps: 2, mode_weights: [1, 1, 1]}
loss: {loss_type: l2t, loss_scale: 1.0, reduction: tokenmean, latent_loss_weight: 0.1, text_loss_weight: 1.0, use_cross_entropy: true,
  text_kl_weight: 0.0}
logging: {num_eval_batches: 20}
optimizer: {name: adamw, lr: 5.0e-5, weight_decay: 0.01, beta1: 0.9, beta2: 0.95, eps: 1.0e-8, grad_clip_norm: 0.5, use_fused: true}
tokenizer: {local_files_only: true, add_mask_token: true}
"""
CYCLE = """
loss: {loss_type: cycle_vae, cycle_text_weight: 0.1, cycle_latent_weight: 0.1, cycle_latent_sampling: argmax, cycle_latent_t_min: 0.0,
  cycle_latent_t_max: 0.98, cycle_stop_grad_latent: true}
tokenizer: {vocab_size: 8192, mask_token_id: 103, pad_token_id: 0}
model: {use_stub_if_no_mmdit: true}
"""
RWKV = """
data: {use_preprocessed: true, max_length: 512, num_workers: 4, max_samples: null, use_external_latents: true}
model: {type: rwkv_diffusion_rnn, rwkv_name: BlinkDL/rwkv7-g1, rwkv_revision: null, rwkv_local_path: null, rwkv_trust_remote_code: false,
  add_mask_token: true, pad_token_strategy: eos, freeze_backbone: true, train_lm_head: false, use_rwkv_lm_head: false, latent_prefix_len: 1,
  time_conditioning: film, dropout: 0, latent_dim: 32, latent_timesteps: 1000, latent_beta_schedule: cosine, latent_pred_from: text,
  latent_encoder_type: none, latent_prior_type: fixed_gaussian, hidden_size: null, n_blocks: null, n_heads: null, max_seq_len: 512,
  p_uniform: 0.0, t_eps: 1.0e-4, cluster_size: 0, checkpoint_path: null}
training: {seed: 42, num_epochs: 10, num_train_steps: null, train_batch_size: 4, eval_batch_size: 4, dtype: bf16, compile_model: false,
  lr_schedule: cosine, warmup_steps: 1000, resume: null, ddp_find_unused_parameters: true, save_every_n_steps: 2000,
  sequential_schedule: [{type: stage1_coupling, steps: 2000}, {type: l2t, steps: 4000}, {type: t2l, steps: 4000}],
  unfreeze_after_steps: null, unfreeze_patterns: [], stage_schedule: null}
loss: {loss_scale: 1.0, reduction: tokenmean, latent_loss_weight: 1.0, text_loss_weight: 1.0, kl_weight: 0.001, geom_weight: 0.0}
optimizer: {lr: 1.0e-4, weight_decay: 0.01, beta1: 0.9, beta2: 0.95, eps: 1.0e-8, grad_clip_norm: 1.0}
logging: {log_freq: 100, eval_freq: 1000, save_freq: 2000, num_eval_batches: 25, save_dir: outputs}
hydra: {job: {chdir: false}}
"""
# documented without a default, or with that of the user's own machine
OWN = """
data: {token_dir: tokens, latent_dir: a/latents, data_dir: a/latents, data_files: {train: a/latents/train_data.json,
  validation: a/latents/validation_data.json}, tokenizer_path: words, cache_dir: c}
training: {sequential_schedule: [{type: l2t, steps: 5}], save_every_n_steps: 7, loss_type: l2t, noise_schedule: sigmoid,
  unfreeze_after_steps: 5000, unfreeze_patterns: ["rwkv.*time_mix"]}
loss: {loss_type: l2t, latent_t_mode: full, cycle_text_warmup_steps: 1, cycle_text_ramp_steps: 2, cycle_latent_warmup_steps: 3,
  cycle_latent_ramp_steps: 4}
logging: {run_name: r, wandb_project: w, wandb_entity: e, wandb_dir: d, log_freq: 3, log_every: 3, eval_freq: 4, save_freq: 7,
  save_every: 7, save_dir: s, log_dir: s}
tokenizer: {path: words, cache_dir: c}
"""
DOCUMENTED = {"mmdit_stable": MMDIT, "mmdit_cycle_vae": CYCLE, "rwkv_mmdit": RWKV}
# (configuration, key): our value, and what docs/commands.md says of it
DIFFERENT = {
    ("mmdit_stable", "model.n_heads"): (16, "16 heads of 64 where the old file said 24"),
    ("mmdit_stable", "model.latent_parameterization"): ("v_param", "`v_param` where it said `epsilon`"),
    ("rwkv_mmdit", "model.rwkv_name"): (None, "without `model.rwkv_name` or `rwkv_local_path` it trains from scratch"),
    ("rwkv_mmdit", "model.freeze_backbone"): (None, "`model.freeze_backbone=true` is then refused"),
}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested groups by dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {name: leaf for key, value in values.items() for name, leaf in flat(value, f"{prefix}.{key}" if prefix else key).items()}


def words(values: dict[str, Any], without: tuple[str, ...] = ()) -> list[str]:
    """As a user types them; the network first, since it decides which keys there are."""
    typed = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items() if name not in without}
    return [f"{name}={typed[name]}" for name in sorted(typed, key=lambda name: name != "model.type")]


def value_of(config: Config, name: str) -> Any:
    group, _, key = name.partition(".")
    return as_dict(config)[group][key]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_defaults_are_ours(name):
    other = tuple(key for config, key in DIFFERENT if config == name)
    found = compose(words(flat(yaml.safe_load(DOCUMENTED[name])), other), name)
    assert flat(as_dict(found)) == flat(as_dict(compose([], name)))


@pytest.mark.parametrize(("name", "key"), DIFFERENT)
def test_another_default_is_named_and_the_old_value_stays_selectable(name, key):
    ours, said = DIFFERENT[name, key]
    old = flat(yaml.safe_load(DOCUMENTED[name]))[key]
    assert value_of(compose([], name), key) == ours != old
    assert value_of(compose([f"{key}={json.dumps(old)}"], name), key) == old
    assert said in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*DOCUMENTED, "own"])
def test_an_old_file_says_what_its_words_say(name, tmp_path, capsys):
    """`freeze_backbone: true` of a file means nothing without weights (tests/cli/test_compose.py); as a word it is asked for."""
    text = {**DOCUMENTED, "own": OWN}[name]
    file, values = tmp_path / "old.yaml", flat(yaml.safe_load(text))
    file.write_text(text + "denoiser_type: rwkv\n" * (name == "own"))
    of_file = compose([], str(file))
    noted = capsys.readouterr().err
    typed = words(values, ("model.freeze_backbone",))
    assert of_file == compose([*(["denoiser_type=rwkv"] if name == "own" else []), *typed])
    for key in values.keys() & (IGNORED.keys() | ONLY.keys()):
        assert f"note: {key} of {file} is ignored" in noted
    if name == "own":
        assert (of_file.data.latent_dir, of_file.tokenizer.path, of_file.logging.save_dir) == ("a/latents", "words", "s")
        assert (of_file.model.latent_beta_schedule, of_file.training.save_every_n_steps, of_file.logging.log_freq) == ("sigmoid", 7, 3)
