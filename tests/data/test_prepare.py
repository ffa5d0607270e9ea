"""prepare and convert: the same request gives the same folder, a killed one goes on, and every text is accounted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import per_sample, sentences
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data import embedding_cache, encoder
from lgdlm.data.convert import convert
from lgdlm.data.inspect import inspect_folder
from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.paired import open_dataset
from lgdlm.data.prepare import prepare
from lgdlm.data.projection import load_projection
from lgdlm.data.split import content_key, hold_out, ranking
from lgdlm.data.staging import Staging
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.errors import InputError, LockedError

DIM = 12


class HashEncoder:
    """A deterministic encoder that counts its work and can be told to die."""

    dim, truncated = DIM, 0

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.dies_after: int | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.dies_after is not None and len(self.encoded) >= self.dies_after:
            raise KeyboardInterrupt
        self.encoded += texts
        return np.stack([vector(text) for text in texts])

    def identity(self) -> dict[str, Any]:
        return {"name": "hash", "dim": DIM}


def vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> HashEncoder:
    made = HashEncoder()
    monkeypatch.setattr(encoder, "load_encoder", lambda name, family=None: made)
    monkeypatch.setattr(embedding_cache.embed, "__defaults__", (50,))
    return made


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(240)), encoding="utf-8")
    return path


def run(path: Path, out: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "tokenizer": "byte",
        "encoder": "hash",
        "latent_dim": 5,
        "validation": 30,
        "seed": 3,
        "min_tokens": 12,
        "max_tokens": 40,
    }
    return prepare("file", out, path=path, **{**defaults, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_text_is_kept_or_counted(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    manifest = run(texts, tmp_path / "out").manifest
    lengths = [len(text.encode()) for text in sentences(240)]
    assert manifest.dropped == {
        "fewer than 12 tokens": sum(n < 12 for n in lengths),
        "more than 40 tokens": sum(n > 40 for n in lengths),
    }
    assert manifest.source["read"] == manifest.rows + sum(manifest.dropped.values()) == 240
    assert manifest.counts["validation"]["rows"] == 30
    assert min(manifest.dropped.values()) > 0


def test_what_is_stored_is_the_projection_of_the_encoding(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    out = tmp_path / "out"
    run(texts, out)
    projection, tokenizer = load_projection(out / "projection"), load_tokenizer(out / "tokenizer")
    seen = []
    for split in ("train", "validation"):
        data = open_dataset(out, split, latent_dim=5)
        expected = np.stack([vector(text) for text in data.texts])
        np.testing.assert_array_equal(data.latents(np.arange(len(data)))[:, 0], projection(expected))
        assert all(tokenizer.decode(data.tokens(i).tolist()) == data.text(i) for i in range(len(data)))
        if split == "validation":
            np.testing.assert_allclose(data.embeddings(np.arange(len(data))), expected, atol=2e-3)
        else:
            assert data.embeddings([0]) is None
        seen.append({content_key(text) for text in data.texts})
    assert not seen[0] & seen[1]
    train = open_dataset(out)
    everything = train.latents(np.arange(len(train)))[:, 0].astype(np.float64)
    np.testing.assert_allclose(train.manifest.latent_mean, everything.mean(0), atol=1e-12)
    np.testing.assert_allclose(train.manifest.latent_std, everything.std(0), rtol=1e-9)


def test_the_projection_sees_train_only(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    run(texts, tmp_path / "out")
    train = np.stack([vector(text) for text in open_dataset(tmp_path / "out").texts])
    np.testing.assert_allclose(load_projection(tmp_path / "out/projection").mean, train.mean(0), atol=1e-6)


def test_the_same_request_is_a_no_op_and_another_is_refused(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    out = tmp_path / "out"
    assert run(texts, out).fresh
    before, work = files(out), len(hashing.encoded)
    again = run(texts, out)
    assert not again.fresh
    assert again.manifest == read_manifest(out)
    assert files(out) == before
    assert len(hashing.encoded) == work
    with pytest.raises(InputError, match="latent_dim, seed") as refused:
        run(texts, out, seed=4, latent_dim=6)
    assert refused.value.code == "EXISTS"
    assert files(out) == before
    assert run(texts, out, latent_dim=6, overwrite=True).manifest.latent_dim == 6
    (out / "train-00000.safetensors").unlink()
    with pytest.raises(InputError, match="lost files"):
        run(texts, out, latent_dim=6)


def test_other_texts_are_another_request(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    run(texts, tmp_path / "out")
    texts.write_text(texts.read_text() + "\none more sentence of a reasonable length")
    with pytest.raises(InputError, match="corpus"):
        run(texts, tmp_path / "out")


def test_a_killed_prepare_goes_on_and_ends_the_same(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    run(texts, tmp_path / "whole")
    work = len(hashing.encoded)
    hashing.encoded, hashing.dies_after = [], 100
    with pytest.raises(KeyboardInterrupt):
        run(texts, tmp_path / "killed")
    assert not (tmp_path / "killed/manifest.json").exists()
    with pytest.raises(InputError):
        open_dataset(tmp_path / "killed")
    done, hashing.encoded, hashing.dies_after = len(hashing.encoded), [], None
    assert done == 100
    run(texts, tmp_path / "killed")
    assert len(hashing.encoded) == work - done
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*"))  # neither cache nor staging stays


@pytest.mark.parametrize("step", ["unlink", "replace", "write", "_clear"])
def test_a_death_while_publishing_is_repaired_by_the_same_command(
    step: str, texts: Path, tmp_path: Path, hashing: HashEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(texts, tmp_path / "whole")
    run(texts, tmp_path / "out", seed=9)

    owner: Any = {"write": Manifest, "_clear": Staging}.get(step, Path)
    original = getattr(owner, step)

    def die(self: Any, *args: Any, **options: Any) -> Any:
        if step == "replace" and self.name != "train-00000.safetensors":  # after some were renamed, before others
            return original(self, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            run(texts, tmp_path / "out", overwrite=True)
    run(texts, tmp_path / "out", overwrite=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_source_with_its_own_splits_keeps_them_apart(tmp_path: Path) -> None:
    folder, words = tmp_path / "in", sentences(40)
    (folder / "latent_shards").mkdir(parents=True)
    held = [*words[30:], words[0].upper()]  # one text of train, in capitals, stands in validation too
    np.save(folder / "latent_shards/shard_0000.npy", np.stack([vector(text) for text in words[:30]]))
    np.save(folder / "latent_shards/shard_0001.npy", np.stack([vector(text) for text in held]))
    for split, shard, texts in (("train", 0, words[:30]), ("validation", 1, held)):
        lines = [json.dumps({"text": text, "shard": shard, "idx": i, "id": f"{split}{i}"}) for i, text in enumerate(texts)]
        (folder / f"{split}_data.jsonl").write_text("\n".join(lines))
    options = {"projection": "identity", "latent_dim": None, "min_tokens": 1, "max_tokens": 99}
    manifest = run(folder, tmp_path / "out", **options).manifest
    assert manifest.dropped == {"in validation as well": 1}
    for split, expected in (("train", words[1:30]), ("validation", held)):
        data = open_dataset(tmp_path / "out", split)
        assert set(data.texts) == set(expected)
        np.testing.assert_array_equal(data.latents(np.arange(len(data)))[:, 0], [vector(text) for text in data.texts])


def test_foreign_files_are_never_overwritten(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    latent_dir, _ = per_sample(tmp_path)
    before = files(latent_dir)
    with pytest.raises(InputError) as refused:
        run(texts, latent_dir, layout="samples")
    assert refused.value.code == "EXISTS"
    assert files(latent_dir) == before


def test_one_process_writes_a_folder(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    with Staging(tmp_path / "out"), pytest.raises(LockedError) as refused:
        run(texts, tmp_path / "out")
    assert refused.value.exit_code == 4
    assert run(texts, tmp_path / "out").fresh


def test_given_latents_keep_their_texts(tmp_path: Path) -> None:
    texts = sentences(60)
    lines = [json.dumps({"text": text, "id": f"t{i}"}) for i, text in enumerate(texts)]
    lines.insert(10, json.dumps({"text": texts[0], "id": "again"}))  # dropped, and its latent with it
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    given = np.stack([vector(json.loads(line)["text"]) for line in lines])
    np.save(tmp_path / "given.npy", given)
    out = tmp_path / "out"
    result = run(
        tmp_path / "in.jsonl",
        out,
        latents=tmp_path / "given.npy",
        projection="identity",
        latent_dim=None,
        validation=0.2,
        min_tokens=1,
        max_tokens=99,
    )
    assert sum(result.manifest.dropped.values()) == 1
    assert result.manifest.counts["validation"]["rows"] == 12
    for split in ("train", "validation"):
        data = open_dataset(out, split)
        np.testing.assert_array_equal(data.latents(np.arange(len(data)))[:, 0], [vector(text) for text in data.texts])
    with pytest.raises(InputError, match="projection=pca"):
        run(tmp_path / "in.jsonl", tmp_path / "b", latents=tmp_path / "given.npy", projection="identity", latent_dim=4)
    assert not (tmp_path / "b/manifest.json").exists()


def test_without_an_encoder_there_are_no_latents(texts: Path, tmp_path: Path) -> None:
    manifest = run(texts, tmp_path / "out", encoder=None).manifest
    assert manifest.latent_dim is manifest.encoder is manifest.projection is None
    assert open_dataset(tmp_path / "out", external_latents=False).latents([0]) is None


def test_a_limit_is_a_sample_with_the_same_validation(texts: Path, tmp_path: Path) -> None:
    options = {"encoder": None, "min_tokens": 1, "max_tokens": 99}
    run(texts, tmp_path / "all", **options)
    run(texts, tmp_path / "few", limit=90, **options)
    held = [open_dataset(tmp_path / name, "validation", external_latents=False) for name in ("all", "few")]
    assert list(held[0].ids) == list(held[1].ids)
    assert read_manifest(tmp_path / "few").rows == 90
    assert read_manifest(tmp_path / "few").dropped == {"beyond limit=90": 150}


def test_too_many_held_out_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        run(texts, tmp_path / "out", encoder=None, validation=1000)
    assert refused.value.code in ("VALIDATION_SIZE", "EMPTY_CORPUS")


def test_a_compact_vocabulary_never_sees_a_held_out_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lgdlm.data import prepare as module
    from lgdlm.data.tokenizer import make_tokenizer

    fitted: list[set[str]] = []

    def spy(kind: str, *, texts: Sequence[str], size: int, path: object) -> Any:
        fitted.append(set(texts))
        return make_tokenizer("byte")

    monkeypatch.setattr(module, "make_tokenizer", spy)
    (tmp_path / "t.txt").write_text("\n".join(sentences(240)))
    run(tmp_path / "t.txt", tmp_path / "out", tokenizer="rwkv_compact", encoder=None, min_tokens=25, max_tokens=30)
    held = set(open_dataset(tmp_path / "out", "validation", external_latents=False).texts)
    assert len(held) == 30
    assert not held & fitted[-1]
    assert len(fitted) > 1  # so few texts of that length that the reserve had to grow


@pytest.mark.parametrize("first", ["packed", "samples"])
def test_layouts_convert_into_each_other_without_loss(first: str, texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    second = {"packed": "samples", "samples": "packed"}[first]
    run(texts, tmp_path / "a", layout=first)
    convert(tmp_path / "a", tmp_path / "b", layout=second)
    convert(tmp_path / "b", tmp_path / "c", layout=first)
    assert not convert(tmp_path / "b", tmp_path / "c", layout=first).fresh
    for split in ("train", "validation"):
        a, b, c = (open_dataset(tmp_path / name, split, latent_dim=5) for name in "abc")
        everything = np.arange(len(a))
        for other in (b, c):
            assert (list(a.ids), list(a.texts)) == (list(other.ids), list(other.texts))
            np.testing.assert_array_equal(a.gather(everything)[0], other.gather(everything)[0])
            np.testing.assert_array_equal(a.latents(everything), other.latents(everything))
            for name in ("latent_mean", "latent_std", "tokenizer", "projection", "encoder", "vocab_size", "dropped"):
                assert getattr(a.manifest, name) == getattr(other.manifest, name)
            if split == "validation":
                np.testing.assert_array_equal(a.embeddings(everything), other.embeddings(everything))
    for name in "abc":
        assert not inspect_folder(tmp_path / name, latent_dim=5).problems


def test_wide_latents_are_projected_by_convert(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path, {"train": 30, "validation": 8}, dim=9)
    result = convert(latent_dir, tmp_path / "out", token_dir=token_dir, vocab_size=256, projection="pca", latent_dim=3)
    assert (result.manifest.layout, result.manifest.latent_dim) == ("packed", 3)
    wide = open_dataset(latent_dir, "validation", token_dir=token_dir, vocab_size=256)
    narrow = open_dataset(tmp_path / "out", "validation", latent_dim=3)
    raw = wide.latents(np.arange(8))[:, 0]
    np.testing.assert_array_equal(narrow.latents(np.arange(8))[:, 0], load_projection(tmp_path / "out/projection")(raw))
    np.testing.assert_allclose(narrow.embeddings(np.arange(8)), raw, atol=2e-3)
    with pytest.raises(InputError, match="projected already"):
        convert(tmp_path / "out", tmp_path / "again", projection="pca", latent_dim=2)


def test_convert_never_writes_into_what_it_reads(tmp_path: Path) -> None:
    latent_dir, token_dir = per_sample(tmp_path)
    with pytest.raises(InputError) as refused:
        convert(latent_dir, latent_dir, token_dir=token_dir, vocab_size=256, overwrite=True)
    assert refused.value.code == "EXISTS"


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.integers(0, 5), st.integers(0, 30))
def test_identical_texts_never_straddle(texts: list[str], seed: int, count: int) -> None:
    keys = [content_key(text) for text in texts]
    held = hold_out(keys, ranking(keys, seed), count)
    assert held.sum() <= count
    assert not {key for key, out in zip(keys, held, strict=True) if out} & {key for key, out in zip(keys, held, strict=True) if not out}


@given(st.permutations([f"text {i}" for i in range(30)]), st.integers(0, 5), st.integers(0, 30))
def test_the_split_depends_on_content_and_seed_not_on_order(texts: list[str], seed: int, count: int) -> None:
    def held(order: Sequence[str]) -> set[str]:
        keys = [content_key(text) for text in order]
        return {text for text, out in zip(order, hold_out(keys, ranking(keys, seed), count), strict=True) if out}

    assert held(texts) == held(sorted(texts))
    assert len(held(texts)) == count


def test_the_normal_form_ignores_case_spaces_and_composition() -> None:
    assert len({content_key(text) for text in ("A caf\u00e9  sign", "a cafe\u0301 sign\n", " A CAF\u00c9 SIGN")}) == 1
    assert content_key("a b") != content_key("ab")
