"""Checkpoints of earlier systems: read as tensors by `convert`, used where they fit, refused with a reason everywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pretrained_world import random_weights
from training_world import TINY, data_folder, events_of, train

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.data.vocabulary_tokenizer import byte_tokenizer
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.training.naming import find_checkpoint
from lgdlm.training.restore import restore
from lgdlm.training.weights import weights_of

STACK = Sizes(vocab_size=256, hidden_size=64, n_blocks=2, head_size=64, ffn_size=96, ranks={"w": 4, "a": 4, "v": 4, "g": 4})
MODEL = (*(word for word in TINY if word.startswith("model")), "training.train_batch_size=8")
RWKV = ("model=rwkv7", "model.latent_dim=4", "model.max_seq_len=48", "model.use_rwkv_lm_head=true", "training.train_batch_size=8")
PREFIXES = ["model.", "model.diffusion.", "module.model.", ""]


@pytest.fixture(autouse=True)
def _loud():
    yield
    progress._silent = False


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data and a short run on them."""
    folder = tmp_path_factory.mktemp("world")
    data = data_folder(folder / "data", rows=40)
    assert train(data, folder, "training.num_train_steps=3") == 0
    return folder, data


def as_old(path: Path, tensors: dict[str, torch.Tensor], prefix: str = "model.", **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    if prefix:
        table["schedule.alphas_cumprod"] = torch.ones(3)  # the earlier trainers kept their schedules beside the model
    content = {"model_state_dict": table, "optimizer_state_dict": {"state": {}}, "state": {"step": 12, "epoch": 1}, "config": {"seed": 1}}
    torch.save({**content, **more}, path)
    return path


def convert(*words: object) -> int:
    return main(["convert", "--quiet", *map(str, words)])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_model_of_ours_is_taken_whole(world, tmp_path, prefix):
    folder, data = world
    trained = weights_of(restore(folder / "run").model)
    old = as_old(tmp_path / "old/latest/checkpoint.pt", trained, prefix)
    assert convert(old, f"out={tmp_path / 'new'}", "layout=run", f"data.latent_dir={data}", *MODEL) == 0
    for averaged in (True, False):
        found = weights_of(restore(tmp_path / "new", averaged).model)
        assert found.keys() == trained.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())
    assert events_of(tmp_path / "new", "weights_converted")[0]["step"] == 12
    assert train(data, tmp_path, "training.num_train_steps=1", f"model.checkpoint_path={tmp_path}/new/checkpoint.pt") == 0


def test_a_folder_of_an_epoch_is_one(world, tmp_path):
    folder, data = world
    trained = weights_of(restore(folder / "run").model)
    epoch = tmp_path / "old/epoch_003"
    epoch.mkdir(parents=True)
    torch.save({f"model.{name}": tensor for name, tensor in trained.items()}, epoch / "model.pt")
    torch.save({}, epoch / "optimizer.pt")
    (epoch / "state.json").write_text(json.dumps({"step": 5}))
    (epoch / "config.yaml").write_text("training: {seed: 1}\n")
    assert convert(epoch, f"out={tmp_path / 'new'}", "layout=run", f"data.latent_dir={data}", *MODEL) == 0
    assert torch.equal(weights_of(restore(tmp_path / "new").model)["latent_mean"], trained["latent_mean"])


@pytest.mark.parametrize("prefix", ["model.rwkv.", "rwkv_model.", ""])
def test_a_stack_is_taken_out_of_what_is_around_it(world, tmp_path, prefix):
    _, data = world
    stack = random_weights(STACK)
    around = {"latent_encoder.weight": torch.randn(3, 3)} if prefix else {}
    old = as_old(tmp_path / "old/step_12.pt", {f"{prefix}{name}": t for name, t in stack.items()} | around, "")
    byte_tokenizer().save(old.parent)
    assert convert(old, f"out={tmp_path / 'weights'}", "layout=rwkv") == 0
    found = torch.load(tmp_path / "weights/model.pth", weights_only=True)
    assert found.keys() == random_weights(STACK, unused=False).keys()
    assert all(torch.equal(found[name], stack[name]) for name in found)
    assert convert(old, f"out={tmp_path / 'run'}", "layout=run", f"data.latent_dir={data}", *RWKV) == 0
    denoiser = restore(tmp_path / "run").model.denoiser
    assert torch.equal(denoiser.backbone.blocks[1].att.key.weight, stack["blocks.1.att.key.weight"])


def refused(capsys, code: int) -> str:
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 3
    assert last.startswith("error: E_")
    return last


def test_another_network_is_refused_by_its_names(world, tmp_path, capsys):
    _, data = world
    old = as_old(tmp_path / "checkpoint.pt", {"blocks.0.to_qkv.weight": torch.randn(2, 2)})
    for words in (["layout=run", f"data.latent_dir={data}", *MODEL], ["layout=rwkv"]):
        assert "blocks.0.to_qkv.weight" in refused(capsys, convert(old, f"out={tmp_path / 'new'}", *words))
        assert not (tmp_path / "new").exists()


def test_a_model_of_other_sizes_names_the_first_difference(world, tmp_path, capsys):
    folder, data = world
    trained = weights_of(restore(folder / "run").model)
    old = as_old(tmp_path / "checkpoint.pt", {name: t for name, t in trained.items() if "ffn" not in name})
    assert "missing" in refused(capsys, convert(old, f"out={tmp_path / 'new'}", "layout=run", f"data.latent_dir={data}", *MODEL))


@pytest.mark.parametrize("content", [{"model_state_dict": {"a": Path("x")}}, Path("x"), {"model_state_dict": {}}, {"a": 1}])
def test_what_holds_more_than_tensors_is_not_read(tmp_path, capsys, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    refused(capsys, convert(tmp_path / "checkpoint.pt", f"out={tmp_path / 'new'}", "layout=rwkv"))


def test_a_cut_file_is_not_read(tmp_path, capsys):
    old = as_old(tmp_path / "checkpoint.pt", {"a": torch.randn(100)})
    old.write_bytes(old.read_bytes()[:300])
    refused(capsys, convert(old, f"out={tmp_path / 'new'}", "layout=rwkv"))


@pytest.mark.parametrize("place", ["latest/checkpoint.pt", "latest", "epoch_001"])
def test_elsewhere_the_line_says_how_to_convert(world, tmp_path, capsys, place):
    _, data = world
    as_old(tmp_path / "old/latest/checkpoint.pt", {"a": torch.zeros(1)})
    as_old(tmp_path / "old/epoch_001/model.pt", {"a": torch.zeros(1)})
    said = refused(capsys, train(data, tmp_path, f"model.checkpoint_path={tmp_path}/old/{place}"))
    assert "lgdlm convert" in said
    assert "lgdlm convert" in refused(capsys, main(["sample", f"{tmp_path}/old/{place}", "mode=joint"]))


def test_the_old_spelling_means_the_run(world):
    folder, _ = world
    newest = find_checkpoint(folder / "run")
    for spelling in ("checkpoint.pt", "latest/checkpoint.pt", "latest", "step_3.pt", f"{newest.name}/model.pt"):
        assert find_checkpoint(folder / "run" / spelling) == newest
