"""The commands of the RWKV package, one after another as a user runs them."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest
from doors_world import apart, documented, root, run, samples, small

from lgdlm.data.tokenizer import make_tokenizer
from lgdlm.doors.training import vocabulary_of
from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.naming import find_checkpoint
from lgdlm.training.restore import restore

TOKENIZE = "python rwkv_diffusion_rnn/preprocess_tokenize_text.py --json_path preprocessed_data/qwen_32d/train_data.json --output_dir "


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setenv("LGDLM_KERNEL", "chunked")


def test_every_documented_training_command_runs(world):
    for command in documented("RWKV-7, both stages"):
        code, _, err = run(small(command), world)
        assert code == 0, f"{command}\n{err[-2000:]}"
    assert {p.name for p in (world / "outputs").iterdir()} == {"stage1", "stage2", "l2t", "t2l", "phases", "blocks"}
    events = [json.loads(line) for line in (world / "outputs/stage1/events.jsonl").read_text().splitlines()]
    assert [e["checkpoint"] for e in events if e["event"] == "resumed"] == ["epoch_001"]
    stage2 = restore(world / "outputs/stage2")
    assert stage2.model.posterior is not None
    assert stage2.config.training.unfreeze_patterns == ["rwkv.*time_mix"]
    assert stage2.config.model.checkpoint_path == "outputs/stage1/checkpoint.pt"
    assert restore(world / "outputs/blocks").config.model.causality == "block_causal"
    phases = restore(world / "outputs/phases").config.training.sequential_schedule
    assert [(phase.type, phase.steps) for phase in phases] == [("stage1_coupling", 10000), ("l2t", 20000), ("t2l", 20000)]
    lines = [json.loads(line) for line in (world / "outputs/t2l/training_log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(np.isfinite(line["loss"]) for line in lines)
    for line in map(json.loads, (world / "outputs/stage1/training_log.jsonl").read_text().splitlines()):
        measured = ("text_loss", "latent_loss", "text_accuracy", "latent_norm", "latent_pred_norm")
        assert {"epoch", "step", "loss", "lr", "active_params_ratio", *(f"unconditional/{name}" for name in measured)} <= set(line)


def test_old_spellings_of_a_checkpoint_find_it(world):
    newest = find_checkpoint(world / "outputs/stage1")
    assert newest.name.startswith("epoch_")
    for old in ("checkpoint.pt", "latest/checkpoint.pt", "latest"):
        assert find_checkpoint(world / "outputs/stage1" / old) == newest
    assert find_checkpoint(newest / "model.pt") == newest
    assert verify_checkpoint(newest)["step"] == 2


def test_texts_become_tokens_of_the_world_vocabulary(tmp_path):
    """As the page writes it, after the first command, whose embedding model is not here."""
    folder = samples(root(tmp_path))
    for command in documented("Texts to latents, and texts to tokens")[1:]:
        code, _, err = run(command, folder)
        assert code == 0, err
    assert "--trust_remote_code is ignored" in err
    entries = json.loads((folder / "preprocessed_data/qwen_32d/train_data.json").read_text())
    tokenizer = make_tokenizer("rwkv")
    files = sorted((folder / "preprocessed_data/rwkv_tokens/train").iterdir())
    assert [file.stem for file in files] == [entry["latent_path"].rpartition("/")[2].removesuffix(".npy") for entry in entries]
    for file, entry in zip(files, entries, strict=True):
        arrays = np.load(file)
        assert tokenizer.decode(arrays["input_ids"].tolist()) == entry["text"]
        assert arrays["attention_mask"].all()


def test_a_long_text_is_cut_and_counted(tmp_path):
    folder = samples(root(tmp_path), train=5, validation=2)
    code, _, err = run(f"{TOKENIZE} tokens --tokenizer byte --max_length 12", folder)
    lengths = [len(np.load(file)["input_ids"]) for file in (folder / "tokens/train").iterdir()]
    assert code == 0
    assert max(lengths) == 12
    assert f"{sum(n == 12 for n in lengths)} longer than 12 tokens" in err
    assert run(f"{TOKENIZE} tokens --tokenizer rwkv", folder)[0] == 2, "tokens of two tokenizers do not lie in one folder"


@pytest.mark.parametrize("name", ["rwkv_tiny", "rwkv_mmdit"])
def test_tokens_of_the_earlier_system_bring_no_tokenizer(name, tmp_path):
    """Nothing is named, nothing is fetched: the packaged World vocabulary, and weights from scratch."""
    folder = samples(root(tmp_path))
    for split in ("train", "validation"):
        words = f"--json_path preprocessed_data/qwen_32d/{split}_data.json --output_dir preprocessed_data/rwkv_tokens"
        assert run(f"python rwkv_diffusion_rnn/preprocess_tokenize_text.py {words}", folder)[0] == 0
    shutil.rmtree(folder / "preprocessed_data/rwkv_tokens/tokenizer")
    command = f"python rwkv_diffusion_rnn/train_rwkv.py --config-name {name} model.rwkv_name=null logging.run_name=scratch"
    code, _, err = run(small(command), folder)
    assert code == 0, err
    found = restore(folder / "outputs/scratch")
    assert found.model.mask_id == make_tokenizer("rwkv").vocab_size
    assert found.config.tokenizer.path == "rwkv"


def test_the_vocabulary_is_taken_for_granted_where_nothing_says_it(tmp_path):
    told, untold, packed = (tmp_path / name for name in ("told", "untold", "packed"))
    for folder in (told / "tokenizer", untold, packed):
        folder.mkdir(parents=True)
    (told / "tokenizer/tokenizer_identity.json").write_text("{}")
    (packed / "manifest.json").write_text("{}")
    granted = ["tokenizer.path=rwkv"]
    assert vocabulary_of([f"data.token_dir={untold}", "data.latent_dir=x"]) == granted
    assert vocabulary_of([f"data.token_dir={told}", "data.latent_dir=x"]) == []
    assert vocabulary_of([f"data.token_dir={untold}", f"data.data_dir={packed}"]) == []
    assert vocabulary_of(["data.latent_dir=x"]) == []
    for name in ("tokenizer.path", "data.tokenizer_path"):
        assert vocabulary_of([f"data.token_dir={untold}", f"{name}=byte"]) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tokens --tokenizer bert-base-uncased", "nothing is fetched"),
        ("tokens --max_length 0", "at least 1"),
        ("tokens --max_len 3", "--max_length"),
        ("tokens stray", "key=value"),
        ("tokens training.seed=1", "flags only"),
        ("tokens --max_length many", "invalid int"),
        ("", "expected one argument"),
    ],
)
def test_a_wrong_flag_is_one_line(words, said, tmp_path):
    code, _, err = run(TOKENIZE + words, samples(root(tmp_path), train=2, validation=1))
    assert code == 2
    assert err.startswith("error: E_")
    assert said in err
    assert len(err.splitlines()) == 1


def test_weights_that_are_not_here_are_named_with_what_to_do(world, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    words = "model.rwkv_name=BlinkDL/rwkv7-g1 logging.run_name=published"
    code, _, err = run(small(f"python rwkv_diffusion_rnn/train_rwkv.py --config-name rwkv_mmdit {words}"), world)
    assert code == 2
    assert "E_OFFLINE" in err
    assert "model.rwkv_local_path" in err
    assert "model.rwkv_name=null" in err


@pytest.mark.nightly
def test_the_commands_run_in_processes_of_their_own(tmp_path):
    folder = samples(root(tmp_path), tokens=True)
    for command in documented("RWKV-7, both stages")[:3]:
        done = apart(small(command), folder)
        assert done.returncode == 0, done.stderr[-2000:]


def test_a_command_runs_in_a_process_of_its_own(tmp_path):
    """What `run` does in this process is what a shell does."""
    folder = samples(root(tmp_path), train=3, validation=2)
    done = apart(shlex.join(shlex.split(TOKENIZE)) + " tokens --tokenizer byte", folder)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "tokens/train").glob("*.npz"))) == 3
