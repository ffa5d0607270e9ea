"""Training that starts from pretrained weights, through the command line: sizes, vocabulary rows, freezing, resume, restore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from pretrained_world import random_weights
from training_world import assembly, data_folder, digests, events_of, train, words

from lgdlm.cli.__main__ import main
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.data.vocabulary import Vocabulary
from lgdlm.data.vocabulary_tokenizer import VocabularyTokenizer, byte_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.pretrained import Pretrained, read_pretrained
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.training.backbone import ORIGINS, adopted_weights, vocabulary_rows
from lgdlm.training.checkpoint import read_state
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


def test_a_causal_denoiser_of_a_real_run_starts_with_the_logits_of_the_published_model(world: tuple[Path, Path], tmp_path: Path) -> None:
    """What a fresh model is told about its data, the bias of its head for one, does not stand before a published head."""
    data, path = world
    causal = ("model.causality=causal", "model.latent_pred_from=text", f"model.rwkv_local_path={path}", "model.use_rwkv_lm_head=true")
    for name in ("plain", "own"):
        (tmp_path / name / "run").mkdir(parents=True)
    net, model = assembly(data, tmp_path / "plain", *RWKV, *causal).model.denoiser, read_pretrained(path).model()
    g = torch.Generator().manual_seed(0)
    text, clock = torch.randint(0, 256, (2, 13), generator=g), torch.full((2,), 0.4)
    pair = NoisyPair(text, clock, torch.randn(2, 1, 4, generator=g), clock, torch.ones(2, 13, dtype=torch.bool))
    with torch.no_grad():
        hidden, _ = model.stack(torch.cat([net.prefix(pair.latent), model.emb(text)], dim=1))
        expected = model.head(model.ln_out(hidden))[:, 1:]
        torch.testing.assert_close(net(pair).text_logits, expected, atol=1e-4, rtol=0)
    own = assembly(data, tmp_path / "own", *RWKV, f"model.rwkv_local_path={path}").model.denoiser
    assert own.text_head.decode.bias.std() > 0.1, "a head of its own begins with the shares of tokens"


@pytest.mark.parametrize("freeze", [True, False])
def test_resumed_is_uninterrupted_and_frozen_as_before(world: tuple[Path, Path], tmp_path: Path, freeze: bool) -> None:
    data, path = world
    chosen = (*RWKV, f"model.rwkv_local_path={path}", f"model.freeze_backbone={freeze}".lower())
    assert train(data, tmp_path / "a", *chosen) == 0
    assert train(data, tmp_path / "b", *chosen, "training.num_train_steps=3", "training.lr_schedule=constant") == 0
    constant = (*chosen, "training.lr_schedule=constant")
    assert train(data, tmp_path / "c", *constant) == 0
    assert train(data, tmp_path / "b", *constant, "training.resume=auto") == 0
    assert digests(tmp_path / "b/run/step_00000006") == digests(tmp_path / "c/run/step_00000006")
    origins = [read_state(tmp_path / place / "run/step_00000006")[ORIGINS] for place in "bc"]
    assert origins[0] == origins[1] == json.loads((tmp_path / "c/run/pretrained.json").read_text())["files"]
    moved = not torch.equal(
        restore(tmp_path / "a/run").model.denoiser.backbone.blocks[0].att.key.weight,
        read_pretrained(path).tensors["blocks.0.att.key.weight"],
    )
    assert moved is not freeze


def test_a_later_run_starts_warm_from_an_earlier_one_and_not_from_the_file(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = world
    chosen = (*RWKV, f"model.rwkv_local_path={path}", "model.freeze_backbone=false")
    assert train(data, tmp_path / "one", *chosen) == 0
    warm = assembly(data, tmp_path / "two", *chosen, f"model.checkpoint_path={tmp_path / 'one/run'}")
    assert warm.adopted is None
    first = restore(tmp_path / "one/run").model.denoiser
    assert torch.equal(warm.model.denoiser.backbone.blocks[0].att.key.weight, first.backbone.blocks[0].att.key.weight)


STAGE2 = ("data.use_external_latents=false", "loss.loss_type=stage2_variational", "model.latent_encoder_type=mlp")


def test_a_second_stage_that_names_no_weights_grew_out_of_them_too(world: tuple[Path, Path], tmp_path: Path) -> None:
    """Sizes, ends, freezing and the weights' name come from the checkpoint; what becomes of them is said by its own words."""
    data, path = world
    assert train(data, tmp_path / "one", *RWKV, f"model.rwkv_local_path={path}", "model.use_rwkv_lm_head=true") == 0
    second = (*RWKV, *STAGE2, f"model.checkpoint_path={tmp_path / 'one/run'}")
    model = assembly(data, tmp_path / "asked", *second).model
    net = model.denoiser
    assert net.embedding.scale == 1
    assert net.text_head.plain
    assert not any(p.requires_grad for p in (net.embedding.table.weight, *net.backbone.blocks[1].att.parameters()))
    assert all(p.requires_grad for p in (*model.posterior.parameters(), *net.backbone.blocks[1].att_back.parameters()))
    free = assembly(data, tmp_path / "free", *second, "model.freeze_backbone=false").model.denoiser
    assert all(p.requires_grad for p in free.backbone.parameters())
    assert train(data, tmp_path / "two", *second) == 0
    assert train(data, tmp_path / "two", *second, "training.num_train_steps=8", "training.resume=auto") == 0
    restored, given = restore(tmp_path / "two/run"), read_pretrained(path).tensors
    assert torch.equal(restored.model.denoiser.backbone.blocks[0].ffn.key.weight, given["blocks.0.ffn.key.weight"])
    found = adopted_weights(restored.config, restored.tokenizer, restored.folder)
    assert found is not None
    assert found.source == path


def test_a_checkpoint_says_by_itself_which_weights_it_grew_out_of(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = world
    path = pretrained(tmp_path / "weights")
    assert train(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}") == 0
    (tmp_path / "run/pretrained.json").unlink()
    restored = restore(tmp_path / "run")
    arguments = (restored.config, restored.tokenizer, restored.folder)
    assert adopted_weights(*arguments) is not None
    given = path.read_bytes()
    torch.save(random_weights(SIZES, seed=1), path)
    with pytest.raises(InputError, match="CHANGED_FILE"):
        adopted_weights(*arguments)
    path.write_bytes(given)
    state = json.loads((restored.folder / "state.json").read_text())
    del state[ORIGINS]
    (restored.folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="UNKNOWN_ORIGIN .*does not say"):
        adopted_weights(*arguments)


def test_words_that_contradict_the_weights(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = world
    with pytest.raises(InputError, match=r"model.token_init"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}", "model.token_init=encoder")
    with pytest.raises(InputError, match=r"rwkv_local_path"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={tmp_path / 'nothing.pth'}")
    assert train(data, tmp_path / "scratch", *RWKV, "model.head_size=16") == 0
    with pytest.raises(InputError, match=r"did not grow out of pretrained weights"):
        assembly(data, tmp_path, *RWKV, f"model.rwkv_local_path={path}", f"model.checkpoint_path={tmp_path / 'scratch/run'}")


def test_without_weights_nothing_is_frozen_and_nothing_is_asked_in_vain(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = world
    scratch = (*RWKV, "model.head_size=16")
    for word in ("model.freeze_backbone=null", "model.freeze_backbone=false", "model.rwkv_name=null"):
        assert all(p.requires_grad for p in assembly(data, tmp_path, *scratch, word).model.parameters())
    assert train(data, tmp_path / "scratch", *scratch) == 0
    for more in ((), (f"model.checkpoint_path={tmp_path / 'scratch/run'}",)):
        with pytest.raises(InputError, match=r"model.freeze_backbone: there are no pretrained weights"):
            assembly(data, tmp_path, *scratch, "model.freeze_backbone=true", *more)


def test_a_start_from_scratch_is_said(world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = world

    def said(out: Path, *more: str) -> str:
        assert main([word for word in words(data, out, *RWKV, "training.num_train_steps=1", *more) if word != "--quiet"]) == 0
        return capsys.readouterr().err

    assert "no pretrained weights are named (model.rwkv_local_path or model.rwkv_name)" in said(tmp_path, "model.head_size=16")
    assert "no pretrained weights" not in said(tmp_path / "warm", "model.head_size=16", f"model.checkpoint_path={tmp_path / 'run'}")
    assert "no pretrained weights" not in said(tmp_path / "given", f"model.rwkv_local_path={path}")


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
