"""The published language model: the same logits as two independent packages, however a text is cut, and its likelihood."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pretrained_world import SIZES, pth, random_weights, read_by_rwkv, tokens
from safetensors.torch import load_file

from lgdlm.models.language_model import language_model, nats
from lgdlm.models.pretrained import read_pretrained
from lgdlm.models.pretrained_layout import Sizes, sizes_of
from lgdlm.models.wkv import CHOICES

GOLDEN = Path(__file__).parents[1] / "golden" / "rwkv7_tiny.safetensors"


@pytest.mark.skipif(find_spec("rwkv") is None, reason="package rwkv is not installed; its stored answers are compared below")
def test_logits_of_the_rwkv_package(tmp_path: Path) -> None:
    path, ids = pth(tmp_path), tokens(23)
    theirs = read_by_rwkv(path, ids[0].tolist(), tmp_path / "logits.safetensors")
    ours = read_pretrained(path).model()(ids)[0][0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours.argmax(dim=1) == theirs.argmax(dim=1)).all()


@pytest.mark.skipif(find_spec("rwkv7_hf") is None, reason="package rwkv7-hf is not installed")
def test_logits_of_the_rwkv7_hf_package_from_the_same_file(tmp_path: Path) -> None:
    from rwkv7_hf.converter import convert, parse_args
    from rwkv7_hf.modeling_rwkv7 import RWKV7ForCausalLM

    path, ids = pth(tmp_path / "file"), tokens(23, B=2)
    convert(parse_args(["--input", str(path), "--output", str(tmp_path / "hf"), "--precision", "fp32"]))
    theirs = RWKV7ForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    with torch.no_grad():
        whole = theirs(ids).logits
    torch.testing.assert_close(read_pretrained(path).model()(ids)[0], whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(read_pretrained(tmp_path / "hf").model()(ids)[0], whole, atol=1e-4, rtol=0)


def test_stored_logits_of_the_rwkv_package() -> None:
    stored = load_file(GOLDEN)
    weights = {name: t for name, t in stored.items() if not name.startswith("golden.")}
    model = language_model(weights, sizes_of(weights))
    torch.testing.assert_close(model(stored["golden.tokens"].long()[None])[0][0], stored["golden.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", CHOICES)
@pytest.mark.parametrize("pieces", [[9, 28], [1] * 37, [32, 5]])
def test_a_text_whole_is_a_text_in_pieces(kernel: str, pieces: list[int]) -> None:
    weights = random_weights(unused=False)
    model = language_model(weights, SIZES, dtype=torch.float64, kernel=kernel)
    ids = tokens(37, B=2)
    whole, end = model(ids)
    parts, state = [], None
    for piece in ids.split(pieces, dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-10, rtol=0)
    for ours, theirs in zip(state.layers, end.layers, strict=True):
        torch.testing.assert_close(ours.wkv, theirs.wkv, atol=1e-10, rtol=0)


def test_likelihoods_of_all_texts_sum_to_one() -> None:
    sizes = Sizes(vocab_size=3, hidden_size=16, n_blocks=2, head_size=8, ffn_size=32, ranks={"w": 4, "a": 4, "v": 4, "g": 4})
    model = language_model(random_weights(sizes, unused=False), sizes, dtype=torch.float64)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    probability = (-nats(model, texts, end=0)).exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert probability.std() > 1e-4, "a model that knows nothing would pass as well"


def test_a_tied_head_is_the_embedding() -> None:
    weights = random_weights(unused=False)
    del weights["head.weight"]
    model = language_model(weights, sizes_of(weights))
    assert model.head.weight is model.emb.weight
    assert "head.weight" not in model.published()
    x, _ = model.stack(F.embedding(tokens(5), weights["emb.weight"]))
    torch.testing.assert_close(model(tokens(5))[0], model.ln_out(x) @ weights["emb.weight"].T)


def test_the_golden_file_names_every_tensor_of_the_model() -> None:
    stored = {name for name in load_file(GOLDEN) if not name.startswith("golden.")}
    weights = {name: t for name, t in load_file(GOLDEN).items() if name in stored}
    assert set(language_model(weights, sizes_of(weights)).published()) == stored
