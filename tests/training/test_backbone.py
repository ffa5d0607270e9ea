"""Training that starts from pretrained weights, through the command line: sizes, vocabulary rows, freezing, resume, restore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from pretrained_world import random_weights
from training_world import assembly, data_folder, digests, events_of, train

from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.data.vocabulary import Vocabulary
from lgdlm.data.vocabulary_tokenizer import VocabularyTokenizer, byte_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.pretrained import Pretrained, read_pretrained
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.training.backbone import vocabulary_rows
from lgdlm.training.restore import restore

SIZES = Sizes(vocab_size=256, hidden_size=32, n_blocks=2, head_size=16, ffn_size=48, ranks={"w": 4, "a": 4, "v": 4, "g": 4})
WORLD = Sizes(vocab_size=65536, hidden_size=16, n_blocks=1, head_size=16, ffn_size=16, ranks={"w": 2, "a": 2, "g": 2})
RWKV = ("model=rwkv7", "model.n_heads=0", "model.causality=bidirectional", "training.num_train_steps=6", "training.save_every_n_steps=3")


def pretrained(folder: Path, sizes: Sizes = SIZES) -> Path:
    """A file with the byte tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_weights(sizes), folder / "w.pth")
    byte_tokenizer().save(folder)
    return folder / "w.pth"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pretrained")
    return data_folder(folder / "data", rows=60), pretrained(folder / "weights")


def test_a_run_takes_its_sizes_from_the_weights_and_restores_without_them(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = world
    path = pretrained(tmp_path / "weights")
    assert train(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}", "model.use_rwkv_lm_head=true") == 0
    found = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]
    assert {name: found[name] for name in ("hidden_size", "n_blocks", "head_size", "ffn_ratio", "ranks", "published_ends")} == {
        "hidden_size": 32, "n_blocks": 2, "head_size": 16, "ffn_ratio": 1.5, "ranks": SIZES.ranks, "published_ends": True,
    }  # fmt: skip
    report = json.loads((tmp_path / "run/pretrained.json").read_text())
    assert set(report["used"]) | set(report["ignored"]) == set(random_weights(SIZES))
    (event,) = events_of(tmp_path / "run", "weights_adopted")
    assert event["parity_error"] == report["parity_error"] < 1e-4
    given = read_pretrained(path).tensors
    path.unlink()
    denoiser = restore(tmp_path / "run").model.denoiser
    assert torch.equal(denoiser.embedding.table.weight, given["emb.weight"]), "frozen: neither trained nor averaged away"
    assert torch.equal(denoiser.backbone.blocks[1].ffn.key.weight, given["blocks.1.ffn.key.weight"])
    assert not torch.equal(denoiser.backbone.blocks[1].att_back.key.weight, given["blocks.1.att.key.weight"])
    assert not torch.equal(denoiser.embedding.mask, given["emb.weight"].mean(dim=0))


@pytest.mark.parametrize("freeze", [True, False])
def test_resumed_is_uninterrupted_and_frozen_as_before(world: tuple[Path, Path], tmp_path: Path, freeze: bool) -> None:
    data, path = world
    words = (*RWKV, f"model.rwkv_local_path={path}", f"model.freeze_backbone={freeze}".lower())
    assert train(data, tmp_path / "a", *words) == 0
    assert train(data, tmp_path / "b", *words, "training.num_train_steps=3", "training.lr_schedule=constant") == 0
    constant = (*words, "training.lr_schedule=constant")
    assert train(data, tmp_path / "c", *constant) == 0
    assert train(data, tmp_path / "b", *constant, "training.resume=auto") == 0
    assert digests(tmp_path / "b/run/step_00000006") == digests(tmp_path / "c/run/step_00000006")
    moved = not torch.equal(
        restore(tmp_path / "a/run").model.denoiser.backbone.blocks[0].att.key.weight,
        read_pretrained(path).tensors["blocks.0.att.key.weight"],
    )
    assert moved is not freeze


def test_a_later_run_starts_warm_from_an_earlier_one_and_not_from_the_file(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = world
    words = (*RWKV, f"model.rwkv_local_path={path}", "model.freeze_backbone=false")
    assert train(data, tmp_path / "one", *words) == 0
    warm = assembly(data, tmp_path / "two", *words, f"model.checkpoint_path={tmp_path / 'one/run'}")
    assert warm.adopted is None
    first = restore(tmp_path / "one/run").model.denoiser
    assert torch.equal(warm.model.denoiser.backbone.blocks[0].att.key.weight, first.backbone.blocks[0].att.key.weight)


def test_words_that_contradict_the_weights(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = world
    with pytest.raises(InputError, match=r"model.token_init"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}", "model.token_init=encoder")
    with pytest.raises(InputError, match=r"rwkv_local_path"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={tmp_path / 'nothing.pth'}")
    assert train(data, tmp_path / "scratch", *RWKV, "model.head_size=16") == 0
    with pytest.raises(InputError, match=r"did not grow out of pretrained weights"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}", f"model.checkpoint_path={tmp_path / 'scratch/run'}")


def test_without_weights_nothing_is_frozen(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = world
    model = assembly(data, tmp_path, *RWKV, "model.head_size=16", "model.freeze_backbone=true").model
    assert all(p.requires_grad for p in model.parameters())


def some(count: int, where: Path) -> Pretrained:
    sizes = Sizes(**{**vars(WORLD), "vocab_size": count})
    return Pretrained(where, {"emb.weight": torch.arange(count * 2.0).view(count, 2)}, sizes, "published", {}, {})


def test_a_pruned_world_vocabulary_finds_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyrwkv_tokenizer", reason="the World vocabulary comes with it")
    from lgdlm.data.vocabulary_tokenizer import compact_tokenizer, world_tokenizer

    world = world_tokenizer()
    compact = compact_tokenizer(["the house of the rising sun", "the sun also rises"], size=300)
    weights = some(65536, tmp_path / "w.pth")
    assert vocabulary_rows(world, weights) is None
    rows = vocabulary_rows(compact, weights)
    for text in ("the rising house", "caf\u00e9"):
        ids = compact.encode(text)
        assert b"".join(world.token_bytes(int(rows[i])) for i in ids).decode() == text
    assert rows[0] == 0
    assert len(set(rows.tolist())) == 300
    gathered = weights.rows(rows)
    assert torch.equal(gathered.tensors["emb.weight"], weights.tensors["emb.weight"][rows])


def test_rows_of_the_tokenizer_beside_the_weights(tmp_path: Path) -> None:
    a, b = (VocabularyTokenizer("rwkv_compact", Vocabulary([b"", *tokens])) for tokens in ([b"x", b"y", b"xy"], [b"xy", b"x"]))
    a.save(tmp_path)
    assert vocabulary_rows(load_tokenizer(tmp_path), some(4, tmp_path / "w.pth")) is None
    assert vocabulary_rows(b, some(4, tmp_path)).tolist() == [0, 3, 1]
    assert vocabulary_rows(a, some(9, tmp_path)).tolist() == [0, 1, 2, 3], "rows that fill up a table belong to no id"
    with pytest.raises(InputError, match=r"TOKENIZER .*has 4 ids"):
        vocabulary_rows(a, some(3, tmp_path))
    with pytest.raises(InputError, match="TOKENIZER .*no token"):
        vocabulary_rows(VocabularyTokenizer("rwkv_compact", Vocabulary([b"", b"z"])), some(4, tmp_path))
    with pytest.raises(InputError, match="TOKENIZER .*no RWKV World"):
        vocabulary_rows(a, some(4, tmp_path / "elsewhere/w.pth"))
