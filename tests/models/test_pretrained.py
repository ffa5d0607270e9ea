"""Weights on disk: every layout and packaging gives the same tensors; what is not RWKV-7, not whole or not harmless is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from pretrained_world import SIZES, huggingface_config, pth, random_weights, tokens
from safetensors.torch import save_file

from lgdlm.errors import InputError
from lgdlm.models.language_model import shapes_of
from lgdlm.models.pretrained import read_pretrained
from lgdlm.models.pretrained_layout import Sizes, huggingface_name, huggingface_tensor, published_name


def huggingface(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> Path:
    """The folder of the other layout, written by this test."""
    folder.mkdir(parents=True)
    tensors = {huggingface_name(name): huggingface_tensor(name, t).contiguous() for name, t in weights.items()}
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv7", "norm_eps": 1e-5}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names, where = list(tensors), {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names[k::shards]}, folder / file)
        where |= dict.fromkeys(names[k::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype, name


# `RWKV7ForCausalLM.state_dict()` of flash-linear-attention, with its shapes; H wide, F in the channel mix, G heads of K, ranks w a v g.
# Layer 0 has `pre_norm` and no `v_lora`.
FLA_ENDS = """
model.embeddings.weight V,H | model.layers.0.pre_norm.weight H | model.layers.0.pre_norm.bias H
model.norm.weight H | model.norm.bias H | lm_head.weight V,H
"""
FLA_LAYER = """
attn_norm.weight H | attn_norm.bias H | ffn_norm.weight H | ffn_norm.bias H
attn.x_r 1,1,H | attn.x_w 1,1,H | attn.x_k 1,1,H | attn.x_v 1,1,H | attn.x_a 1,1,H | attn.x_g 1,1,H
attn.k_k H | attn.k_a H | attn.r_k G,K
attn.r_proj.weight H,H | attn.k_proj.weight H,H | attn.v_proj.weight H,H | attn.o_proj.weight H,H
attn.w_lora.lora.0.weight w,H | attn.w_lora.lora.2.weight H,w | attn.w_lora.lora.2.bias H
attn.a_lora.lora.0.weight a,H | attn.a_lora.lora.2.weight H,a | attn.a_lora.lora.2.bias H
attn.g_lora.lora.0.weight g,H | attn.g_lora.lora.2.weight H,g
attn.g_norm.weight H | attn.g_norm.bias H
ffn.x_k H | ffn.key.weight F,H | ffn.value.weight H,F
"""
FLA_BEHIND_LAYER_0 = "attn.v_lora.lora.0.weight v,H | attn.v_lora.lora.2.weight H,v | attn.v_lora.lora.2.bias H"


def of_fla(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The lists above for a model of these sizes."""
    numbers = {"V": sizes.vocab_size, "H": sizes.hidden_size, "F": sizes.ffn_size, "K": sizes.head_size, "1": 1, **sizes.ranks}
    numbers["G"] = sizes.hidden_size // sizes.head_size

    def read(text: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
        entries = (entry.split() for line in text.strip().splitlines() for entry in line.split(" | "))
        return {prefix + name: tuple(numbers[axis] for axis in shape.split(",")) for name, shape in entries}

    found = read(FLA_ENDS)
    for i in range(sizes.n_blocks):
        found |= read(FLA_LAYER, f"model.layers.{i}.") | (read(FLA_BEHIND_LAYER_0, f"model.layers.{i}.") if i else {})
    return found


def test_names_and_shapes_of_the_other_layout_are_those_of_its_package() -> None:
    weights = random_weights(unused=False)
    ours = {huggingface_name(name): tuple(huggingface_tensor(name, t).shape) for name, t in weights.items()}
    assert ours == of_fla(SIZES)
    assert {published_name(name) for name in of_fla(SIZES)} == set(shapes_of(SIZES))
    assert {published_name(name.removeprefix("model.")) for name in of_fla(SIZES)} == set(shapes_of(SIZES))
    assert [published_name(name) for name in ("model.layers.0.mlp.gate", "model.rotary", "layers.1.attn.w_lora.lora.1.bias")] == [None] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("unused", [True, False])
def test_a_file_of_the_training_code(tmp_path: Path, dtype: torch.dtype, unused: bool) -> None:
    found = read_pretrained(pth(tmp_path, dtype=dtype, unused=unused))
    assert found.sizes == SIZES
    assert_equal(found.tensors, random_weights(dtype=dtype, unused=False))
    assert sorted(found.ignored) == ([f"blocks.0.att.v{i}" for i in range(3)] if unused else [])
    assert not found.absent


@pytest.mark.parametrize("sizes", [
    Sizes(70, 48, 1, 16, 50, {"w": 4, "a": 5, "g": 7}),
    Sizes(33, 64, 4, 32, 256, {"w": 9, "a": 6, "g": 11, "v": 3}),
])  # fmt: skip
def test_every_size_is_read_from_the_shapes(tmp_path: Path, sizes: Sizes) -> None:
    assert read_pretrained(pth(tmp_path, sizes, unused=False)).sizes == sizes


@pytest.mark.parametrize("shards", [1, 3])
def test_the_other_layout_whole_and_sharded(tmp_path: Path, shards: int) -> None:
    weights = random_weights(unused=False)
    found = read_pretrained(huggingface(tmp_path / "hf", weights, shards))
    assert found.layout == "huggingface"
    assert found.sizes == SIZES
    assert_equal(found.tensors, weights)


def test_packagings_of_one_set_of_weights(tmp_path: Path) -> None:
    weights = random_weights(unused=False)
    ids, expected = tokens(12), read_pretrained(pth(tmp_path / "a")).model()(tokens(12))[0]
    save_file(weights, tmp_path / "b.safetensors")
    flat = {
        name: t.squeeze() if name.endswith(("x_r", "w0", "k_k", "x_k")) else t for name, t in weights.items()
    }  # some converters squeeze
    save_file(flat, tmp_path / "c.safetensors")
    torch.save(weights, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    old = {huggingface_name(name): huggingface_tensor(name, t).contiguous() for name, t in weights.items()}
    for i in range(SIZES.n_blocks):
        parts = [old.pop(f"model.layers.{i}.attn.x_{letter}") for letter in "rwkvag"]
        old[f"model.layers.{i}.attn.x_x"] = torch.stack(parts)
    save_file({name.removeprefix("model."): t for name, t in old.items()}, tmp_path / "e.safetensors")
    for path in (tmp_path / "a", *sorted(tmp_path.glob("[b-e].*"))):
        assert torch.equal(read_pretrained(path).model()(ids)[0], expected), path


def test_a_missing_head_is_the_embedding(tmp_path: Path) -> None:
    weights = random_weights(unused=False)
    tied = {name: t for name, t in weights.items() if name != "head.weight"}
    torch.save(tied, tmp_path / "tied.pth")
    found = read_pretrained(tmp_path / "tied.pth")
    assert found.sizes.tied
    assert found.absent == {"head.weight": "tied to emb.weight"}
    folder = huggingface(tmp_path / "hf", {**weights, "head.weight": weights["emb.weight"].clone()})
    huggingface_config(folder, tie_word_embeddings=True)
    assert read_pretrained(folder).sizes.tied
    folder = huggingface(tmp_path / "untied", tied)
    huggingface_config(folder, tie_word_embeddings=False)
    with pytest.raises(InputError, match="MISSING_WEIGHTS"):
        read_pretrained(folder)
    huggingface_config(huggingface(tmp_path / "differs", weights), tie_word_embeddings=True)
    with pytest.raises(InputError, match="differs from the embedding"):
        read_pretrained(tmp_path / "differs")


def test_norms_without_bias(tmp_path: Path) -> None:
    weights = random_weights(unused=False)
    zeroed = {name: torch.zeros_like(t) if name.endswith(".bias") and "ln_x" not in name else t for name, t in weights.items()}
    folder = huggingface(tmp_path / "hf", {name: t for name, t in zeroed.items() if t.any()})
    with pytest.raises(InputError, match="MISSING_WEIGHTS"):
        read_pretrained(folder)
    huggingface_config(folder, norm_bias=False)
    found = read_pretrained(folder)
    assert_equal(found.tensors, zeroed)
    assert set(found.absent) == {name for name, t in zeroed.items() if not t.any()}


def damaged(change: str) -> dict[str, torch.Tensor]:
    weights = random_weights(unused=False)
    if change == "gap":
        return {name: t for name, t in weights.items() if not name.startswith("blocks.1.")}
    if change == "older":
        return {**weights, "blocks.0.att.time_maa_x": torch.zeros(1)}
    if change == "shape":
        return {**weights, "blocks.1.att.key.weight": torch.zeros(128, 64)}
    if change == "turned":
        return {**weights, "blocks.2.att.w1": weights["blocks.2.att.w1"].T.contiguous()}
    if change == "nan":
        weights["blocks.2.ffn.value.weight"][3, 4] = float("nan")
        return weights
    if change == "integers":
        return {**weights, "head.weight": torch.zeros(97, 128, dtype=torch.int64)}
    if change == "inside":
        return {**weights, "blocks.0.ffn.s_emb.weight": torch.zeros(2)}
    if change == "other":
        return {"transformer.wte.weight": torch.zeros(3, 4)}
    return {name: t for name, t in weights.items() if name != change}


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ("gap", "MISSING_WEIGHTS", "blocks"), ("older", "UNKNOWN_WEIGHTS", "version"), ("shape", "BAD_WEIGHTS", "blocks.1.att.key.weight"),
        ("turned", "BAD_WEIGHTS", "blocks.2.att.w1"), ("nan", "BAD_WEIGHTS", "blocks.2.ffn.value.weight"),
        ("integers", "BAD_WEIGHTS", "head.weight"), ("inside", "UNKNOWN_WEIGHTS", "blocks.0.ffn.s_emb.weight"),
        ("other", "UNKNOWN_WEIGHTS", "layout"), ("blocks.0.ln0.weight", "MISSING_WEIGHTS", "blocks.0.ln0.weight"),
        ("blocks.1.att.r_k", "MISSING_WEIGHTS", "blocks.1.att.r_k"), ("ln_out.bias", "MISSING_WEIGHTS", "ln_out.bias"),
        ("blocks.0.att.r_k", "MISSING_WEIGHTS", "blocks.0.att.r_k"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_by_name(tmp_path: Path, change: str, code: str, field: str) -> None:
    torch.save(damaged(change), tmp_path / "w.pth")
    with pytest.raises(InputError) as refused:
        read_pretrained(tmp_path / "w.pth")
    assert (refused.value.code, refused.value.field) == (code, field)
    assert len(refused.value.line().encode()) <= 300


def test_what_stands_outside_the_stack_is_ignored_and_said(tmp_path: Path) -> None:
    torch.save({**random_weights(unused=False), "value_head.weight": torch.zeros(3)}, tmp_path / "w.pth")
    assert read_pretrained(tmp_path / "w.pth").ignored == {"value_head.weight": "not a part of RWKV-7"}


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/lgdlm_payload_ran"),)


@pytest.mark.parametrize("make", ["pickle", "object", "text", "empty", "nested", "cut", "folder"])
def test_files_that_are_no_weights(tmp_path: Path, make: str) -> None:
    path = tmp_path / "w.pth"
    if make == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif make == "object":
        torch.save({"emb.weight": Payload()}, path)
    elif make == "text":
        path.write_text("not weights")
    elif make == "empty":
        path.touch()
    elif make == "nested":
        torch.save({"model": random_weights()}, path)
    elif make == "cut":
        pth(tmp_path / "whole")
        path.write_bytes((tmp_path / "whole/rwkv7-tiny.pth").read_bytes()[:5000])
    else:
        path.mkdir()
    with pytest.raises(InputError) as refused:
        read_pretrained(path)
    assert refused.value.code in ("UNSAFE_WEIGHTS", "UNREADABLE", "UNKNOWN_WEIGHTS", "MISSING_FILE")
    assert not Path("/tmp/lgdlm_payload_ran").exists()


@pytest.mark.parametrize(
    "settings", [{"norm_eps": 1e-6}, {"hidden_act": "relu"}, {"norm_first": False}, {"attn": {"layers": [1], "num_heads": 2}}]
)
def test_settings_that_would_change_every_logit_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    folder = huggingface(tmp_path / "hf", random_weights(unused=False))
    huggingface_config(folder, **settings)
    with pytest.raises(InputError, match=f"BAD_WEIGHTS .* {next(iter(settings))}"):
        read_pretrained(folder)


def test_folders_and_shards_name_their_problem(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MISSING_FILE"):
        read_pretrained(tmp_path / "nowhere")
    pth(tmp_path)
    shutil.copy(tmp_path / "rwkv7-tiny.pth", tmp_path / "other.pth")
    with pytest.raises(InputError, match="SEVERAL_FILES"):
        read_pretrained(tmp_path)
    folder = huggingface(tmp_path / "hf", random_weights(unused=False), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"MISSING_FILE .*00002-of"):
        read_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InputError, match="UNREADABLE"):
        read_pretrained(folder)


def test_rows_of_a_smaller_vocabulary(tmp_path: Path) -> None:
    whole = read_pretrained(pth(tmp_path))
    index = torch.tensor([0, 5, 96, 5])
    some = whole.rows(index)
    assert some.sizes.vocab_size == 4
    ids = torch.tensor([[1, 2, 0, 3]])
    torch.testing.assert_close(some.model()(ids)[0], whole.model()(index[ids])[0][..., index])
