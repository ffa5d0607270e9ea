"""The commands of the cycle package, and the preparation command on a small embedding model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from doors_world import documented, root, run, small

from lgdlm.cli.compose import compose
from lgdlm.data.encoder_family import FAMILIES
from lgdlm.data.paired import open_dataset
from lgdlm.doors.corpus_command import ENCODERS, located
from lgdlm.doors.cycle_commands import both_cycles
from lgdlm.doors.training import CONFIGS, DATA, train_words
from lgdlm.training.restore import restore

SMOKE = "python cycle_vae_impl/entrypoints/smoke_cycle_vae_forward.py --config cycle_vae_impl/configs/mmdit_cycle_vae.yaml"
SMALL = "model.hidden_size=64 model.n_blocks=1 model.n_heads=1 training.train_batch_size=8 training.dtype=fp32"


def test_every_documented_command_runs(world):
    first, second, *training = documented("Cycles")
    for command in (f"{first} {SMALL}", f"{second} {SMALL}", *(small(command) for command in training)):
        code, out, err = run(command, world)
        assert code == 0, f"{command}\n{err[-2000:]}"
        if "smoke" in command:
            metrics = json.loads(out)
            assert metrics["cycle_text_weight"] == metrics["cycle_latent_weight"] == 0.1
            assert metrics["cycle_text_loss"] > 0
            assert metrics["cycle_latent_loss"] > 0
    made_up = restore(world / "outputs/cycle_vae").config
    assert (made_up.training.seed, made_up.loss.cycle_text_weight) == (7, 0.2)
    assert made_up.data.latent_dir == "outputs/cycle_vae/synthetic/packed"
    assert restore(world / "outputs/cycle_vae_cluster").config.data.latent_dir == DATA["data.latent_dir"]


def test_the_pass_of_a_shipped_file_has_both_cycles_on():
    loss = compose([], "mmdit_cycle_vae").loss
    on, step = both_cycles(loss)
    assert step > loss.cycle_latent_warmup_steps + loss.cycle_latent_ramp_steps
    assert on.cycle_prob == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("loss.loss_type=l2t", 2, "has no cycles"),
        ("--device nowhere", 2, "cannot be used here"),
        ("model.n_heads=7", 2, "E_CONFIG"),
        ("model.latent_parameterization=epsilon", 2, "v_param"),
    ],
)
def test_a_pass_that_cannot_be_made_says_why(words, code, said, world):
    found, _, err = run(f"{SMOKE} {SMALL} {words}", world)
    assert (found, len(err.splitlines())) == (code, 1)
    assert said in err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["--config-name", "rwkv_mmdit"]),
        (["--config-name=mmdit"], ["--config-name", "mmdit"]),
        (["-cn", "mmdit", "training.seed=1"], ["--config-name", "mmdit", "training.seed=1"]),
        (["--config-name", "rwkv_block_causal.yaml"], ["--config-name", "rwkv_block_causal"]),
    ],
)
def test_hydras_flags_choose_the_configuration(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = train_words(given, "rwkv_mmdit")
    assert words[: 1 + len(expected)] == ["train", *expected]
    assert {f"{name}={value}" for name, value in DATA.items()} <= set(words)


def test_a_folder_of_files_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mine.yaml").write_text("training: {seed: 3}\n")
    assert train_words(["--config-path", "conf", "--config-name", "mine"], "mmdit")[2] == "conf/mine.yaml"


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_said_is_not_taken_for_granted(name):
    said = ["data.data_dir=a", "logging.log_dir=b", "logging.run_name=c"]
    assert train_words(["--config-name", name, *said], "mmdit") == ["train", "--config-name", name, *said]
    assert "logging.run_name=." in train_words(["--config-name", name, "logging.save_dir=b"], "mmdit")


@pytest.fixture
def cached_model(tmp_path, monkeypatch):
    """A cache of the hub that holds a tiny model under the name of the real one."""
    transformers = pytest.importorskip("transformers")
    import torch
    from huggingface_hub import constants

    snapshot = tmp_path / "hub/models--Qwen--Qwen3-Embedding-0.6B/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[PAD]", *["the", "a", "cat", "dog", "runs", "sleeps", "big", "small", "red", "blue", "house", "tree"]]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(snapshot)
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    transformers.Qwen3Model(transformers.Qwen3Config(vocab_size=len(words), head_dim=24, **sizes)).save_pretrained(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_texts_become_latents_and_tokens(cached_model, tmp_path):
    folder = root(tmp_path / "checkout" if (tmp_path / "checkout").mkdir() is None else tmp_path)
    command = documented("Texts to latents, and texts to tokens")[0]
    code, _, err = run(command, folder)
    assert code == 0, err
    assert "--batch-size 64 is ignored" in err
    data = folder / "preprocessed_data/qwen_32d"
    train, held = (open_dataset(data, split) for split in ("train", "validation"))
    assert (len(train), len(held)) == (57, 3)
    assert train.manifest.latent_dim == 32
    assert train.manifest.encoder["family"] == "qwen3-embedding"
    assert {"text", "latent_path"} <= json.loads((data / "train_data.json").read_text())[0].keys()
    assert "already prepared" in run(command, folder)[2]


@pytest.mark.parametrize("name", ["t5", "sonar", "e5", "qwen", "bge"])
def test_every_known_encoder_is_found_in_the_cache(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / f"models--{ENCODERS[name][0].replace('/', '--')}"
    (repository / "snapshots/0123").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder, family = located(name)
    assert Path(folder) == repository / "snapshots/0123"
    assert family in FAMILIES


def test_several_datasets_are_one(cached_model, tmp_path):
    (tmp_path / "checkout").mkdir()
    folder = root(tmp_path / "checkout")
    (folder / "more.txt").write_text("the big cat\nthe blue tree\na red house sleeps\n")
    command = "python preprocessed_data/prepare_data_multi_gpu.py --output-dir out --datasets texts.jsonl more.txt --latent-model qwen"
    code, _, err = run(f"{command} --max-samples 2 prepare.projection=matryoshka prepare.latent_dim=8", folder)
    assert code == 0, err
    train = open_dataset(folder / "out", "train")
    assert [name.partition("_")[0] for name in sorted(train.ids)] == ["more.txt", "more.txt", "texts.jsonl", "texts.jsonl"]
    assert np.isfinite(train.latents([0])).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--datasets texts.jsonl --latent-model sonar", "not in the local cache"),
        ("--datasets texts.jsonl --latent-model gpt", "folder of a model"),
        ("--datasets wikipedia --latent-model minilm", "nothing is fetched"),
        ("--datasets --latent-model e5", "--datasets"),
    ],
)
def test_what_is_not_here_is_refused(words, said, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "checkout").mkdir()
    code, _, err = run(f"python preprocessed_data/prepare_data_multi_gpu.py --output-dir out {words}", root(tmp_path / "checkout"))
    assert code == 2
    assert said in err
