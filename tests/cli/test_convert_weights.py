"""`lgdlm convert` for RWKV-7 weights: bit for bit there and back, read by the packages they are written for, refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pretrained_world import random_weights, read_by_rwkv, tokens
from training_world import data_folder, train

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.data.vocabulary_tokenizer import byte_tokenizer
from lgdlm.models.pretrained import read_pretrained
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.training.restore import restore

SIZES = Sizes(vocab_size=256, hidden_size=64, n_blocks=2, head_size=64, ffn_size=96, ranks={"w": 4, "a": 4, "v": 4, "g": 4})
MODEL = (
    "model=rwkv7",
    "training.train_batch_size=8",
    "training.warmup_steps=5",
    "training.dtype=fp32",
    "model.max_seq_len=48",
    "model.latent_dim=4",
    "model.use_rwkv_lm_head=true",
    "training.num_threads=1",
)


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    yield
    progress._silent = False


def pretrained(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_weights(SIZES, dtype=dtype), folder / "w.pth")
    byte_tokenizer().save(folder)
    return folder / "w.pth"


def convert(*words: object) -> int:
    return main(["convert", "--quiet", *map(str, words)])


def assert_same_bits(found: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    expected = random_weights(SIZES, dtype=dtype, unused=False)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == dtype for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_layout_to_layout_and_back(tmp_path: Path, dtype: torch.dtype) -> None:
    path = pretrained(tmp_path / "file", dtype)
    assert convert(path, f"out={tmp_path / 'hf'}", "layout=hf") == 0
    assert convert(tmp_path / "hf", f"out={tmp_path / 'rwkv'}", "layout=rwkv") == 0
    assert_same_bits(torch.load(tmp_path / "rwkv/model.pth", weights_only=True), dtype)
    assert (tmp_path / "rwkv/tokenizer_identity.json").is_file()


def test_an_export_replaces_one_to_the_other_layout(tmp_path: Path) -> None:
    path, out = pretrained(tmp_path / "file"), tmp_path / "out"
    files = {"hf": {"model.safetensors", "config.json"}, "rwkv": {"model.pth"}}
    for layout in ("hf", "rwkv", "hf"):
        assert convert(path, f"out={out}", f"layout={layout}", "prepare.overwrite=true") == 0
        assert {p.name for p in out.iterdir()} - {"tokenizer_identity.json", "vocabulary.json"} == files[layout]
        assert_same_bits(read_pretrained(out).tensors, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["rwkv", "hf"])
def test_into_a_run_and_out_again(tmp_path: Path, dtype: torch.dtype, layout: str) -> None:
    path, data = pretrained(tmp_path / "file", dtype), data_folder(tmp_path / "data", rows=40)
    assert convert(path, f"out={tmp_path / 'run'}", "layout=run", f"data.latent_dir={data}", *MODEL) == 0
    restored = restore(tmp_path / "run")
    assert restored.config.model.hidden_size == 64
    name = {torch.float32: "keep", torch.bfloat16: "bf16"}[dtype]
    assert convert(tmp_path / "run", f"out={tmp_path / 'out'}", f"layout={layout}", f"weights_dtype={name}") == 0
    assert_same_bits(read_pretrained(tmp_path / "out").tensors, dtype)


def test_a_converted_run_goes_on_as_one_that_was_never_converted(tmp_path: Path) -> None:
    path, data = pretrained(tmp_path / "file"), data_folder(tmp_path / "data", rows=40)
    assert convert(path, f"out={tmp_path / 'run'}", "layout=run", f"data.latent_dir={data}", *MODEL) == 0
    words = ("model=rwkv7", "model.n_heads=0", "model.use_rwkv_lm_head=true", f"model.rwkv_local_path={path}", "training.num_train_steps=3")
    assert train(data, tmp_path, *words, "training.resume=auto") == 0
    assert train(data, tmp_path / "other", *words) == 0
    ours, theirs = (restore(folder / "run").model.state_dict() for folder in (tmp_path, tmp_path / "other"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_what_is_left_behind_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_folder(tmp_path / "data", rows=40)
    assert train(data, tmp_path, "model=rwkv7", "model.n_heads=0", "model.head_size=16", "training.num_train_steps=2") == 0
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "run"), f"out={tmp_path / 'out'}", "layout=rwkv"]) == 0
    said = "".join(capsys.readouterr())
    for part in ("left behind", "att_back", "fuse", "conditioning", "clock", "prefix"):
        assert part in said
    found = read_pretrained(tmp_path / "out")
    denoiser = restore(tmp_path / "run").model.denoiser
    assert torch.equal(found.tensors["emb.weight"], denoiser.embedding.table.weight * 4.0)


@pytest.mark.skipif(find_spec("rwkv") is None, reason="package rwkv is not installed")
def test_the_rwkv_package_reads_what_we_write(tmp_path: Path) -> None:
    convert(pretrained(tmp_path / "file"), f"out={tmp_path / 'rwkv'}", "layout=rwkv")
    ids = tokens(17, sizes=SIZES)
    theirs = read_by_rwkv(tmp_path / "rwkv/model.pth", ids[0].tolist(), tmp_path / "logits.safetensors")
    torch.testing.assert_close(read_pretrained(tmp_path / "file/w.pth").model()(ids)[0][0], theirs, atol=1e-4, rtol=0)


@pytest.mark.skipif(find_spec("rwkv7_hf") is None, reason="package rwkv7-hf is not installed")
def test_the_rwkv7_hf_package_reads_what_we_write(tmp_path: Path) -> None:
    from rwkv7_hf.modeling_rwkv7 import RWKV7ForCausalLM

    convert(pretrained(tmp_path / "file"), f"out={tmp_path / 'hf'}", "layout=hf")
    theirs, loading = RWKV7ForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    ids = tokens(17, B=2, sizes=SIZES)
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
    torch.testing.assert_close(read_pretrained(tmp_path / "file/w.pth").model()(ids)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["layout=packed"], "E_CONFIG"), (["layout=run", "model=rwkv7"], "E_CONFIG"), (["layout=run", "data.latent_dir=data"], "E_CONFIG"),
        (["layout=gguf"], "E_CONFIG"), (["layout=hf", "out=full"], "E_EXISTS"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pretrained(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept.txt").write_text("mine")
    assert convert(path, *([] if "out=full" in words else ["out=new"]), *words) == 2
    assert code in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["kept.txt"]


def test_numbers_beyond_half_precision_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(SIZES, unused=False)
    weights["blocks.1.ffn.value.weight"][0, 0] = 1e6
    torch.save(weights, tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", f"out={tmp_path / 'out'}", "layout=rwkv", "weights_dtype=fp16") == 2
    assert "blocks.1.ffn.value.weight" in capsys.readouterr().err


def test_another_network_has_no_rwkv_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_folder(tmp_path / "data", rows=40)
    assert train(data, tmp_path, "training.num_train_steps=1") == 0
    assert convert(tmp_path / "run", f"out={tmp_path / 'out'}", "layout=rwkv") == 2
    assert "only model=rwkv7" in capsys.readouterr().err
