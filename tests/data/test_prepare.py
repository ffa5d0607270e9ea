"""prepare and convert: the same request gives the same folder, a killed one goes on, and every text is accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import HashEncoder, prepare_bytes, vector
from folders import per_sample, sentences

from lgdlm.data.manifest import Manifest, read_manifest
from lgdlm.data.paired import open_dataset
from lgdlm.data.projection import load_projection
from lgdlm.data.split import content_key
from lgdlm.data.staging import Staging
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.errors import InputError, LockedError


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_text_is_kept_or_counted(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    manifest = prepare_bytes(texts, tmp_path / "out").manifest
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
    prepare_bytes(texts, out)
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
    prepare_bytes(texts, tmp_path / "out")
    train = np.stack([vector(text) for text in open_dataset(tmp_path / "out").texts])
    np.testing.assert_allclose(load_projection(tmp_path / "out/projection").mean, train.mean(0), atol=1e-6)


def test_the_same_request_is_a_no_op_and_another_is_refused(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    out = tmp_path / "out"
    assert prepare_bytes(texts, out).fresh
    before, work = files(out), len(hashing.encoded)
    again = prepare_bytes(texts, out)
    assert not again.fresh
    assert again.manifest == read_manifest(out)
    assert files(out) == before
    assert len(hashing.encoded) == work
    with pytest.raises(InputError, match="latent_dim, seed") as refused:
        prepare_bytes(texts, out, seed=4, latent_dim=6)
    assert refused.value.code == "EXISTS"
    assert files(out) == before
    assert prepare_bytes(texts, out, latent_dim=6, overwrite=True).manifest.latent_dim == 6
    (out / "train-00000.safetensors").unlink()
    with pytest.raises(InputError, match="lost files"):
        prepare_bytes(texts, out, latent_dim=6)


def test_other_texts_are_another_request(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    prepare_bytes(texts, tmp_path / "out")
    texts.write_text(texts.read_text() + "\none more sentence of a reasonable length")
    with pytest.raises(InputError, match="corpus"):
        prepare_bytes(texts, tmp_path / "out")


def test_a_killed_prepare_goes_on_and_ends_the_same(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    prepare_bytes(texts, tmp_path / "whole")
    work = len(hashing.encoded)
    hashing.encoded, hashing.dies_after = [], 100
    with pytest.raises(KeyboardInterrupt):
        prepare_bytes(texts, tmp_path / "killed")
    assert not (tmp_path / "killed/manifest.json").exists()
    with pytest.raises(InputError):
        open_dataset(tmp_path / "killed")
    done, hashing.encoded, hashing.dies_after = len(hashing.encoded), [], None
    assert done == 100
    prepare_bytes(texts, tmp_path / "killed")
    assert len(hashing.encoded) == work - done
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*"))  # neither cache nor staging stays


@pytest.mark.parametrize("step", ["unlink", "replace", "write", "_clear"])
def test_a_death_while_publishing_is_repaired_by_the_same_command(
    step: str, texts: Path, tmp_path: Path, hashing: HashEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_bytes(texts, tmp_path / "whole")
    prepare_bytes(texts, tmp_path / "out", seed=9)

    owner: Any = {"write": Manifest, "_clear": Staging}.get(step, Path)
    original = getattr(owner, step)

    def die(self: Any, *args: Any, **options: Any) -> Any:
        if step == "replace" and self.name != "train-00000.safetensors":  # after some were renamed, before others
            return original(self, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            prepare_bytes(texts, tmp_path / "out", overwrite=True)
    prepare_bytes(texts, tmp_path / "out", overwrite=True)
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
    manifest = prepare_bytes(folder, tmp_path / "out", **options).manifest
    assert manifest.dropped == {"in validation as well": 1}
    for split, expected in (("train", words[1:30]), ("validation", held)):
        data = open_dataset(tmp_path / "out", split)
        assert set(data.texts) == set(expected)
        np.testing.assert_array_equal(data.latents(np.arange(len(data)))[:, 0], [vector(text) for text in data.texts])


def test_foreign_files_are_never_overwritten(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    latent_dir, _ = per_sample(tmp_path)
    before = files(latent_dir)
    with pytest.raises(InputError) as refused:
        prepare_bytes(texts, latent_dir, layout="samples")
    assert refused.value.code == "EXISTS"
    assert files(latent_dir) == before


def test_one_process_writes_a_folder(texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    with Staging(tmp_path / "out"), pytest.raises(LockedError) as refused:
        prepare_bytes(texts, tmp_path / "out")
    assert refused.value.exit_code == 4
    assert prepare_bytes(texts, tmp_path / "out").fresh


def test_given_latents_keep_their_texts(tmp_path: Path) -> None:
    texts = sentences(60)
    lines = [json.dumps({"text": text, "id": f"t{i}"}) for i, text in enumerate(texts)]
    lines.insert(10, json.dumps({"text": texts[0], "id": "again"}))  # dropped, and its latent with it
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    given = np.stack([vector(json.loads(line)["text"]) for line in lines])
    np.save(tmp_path / "given.npy", given)
    out = tmp_path / "out"
    result = prepare_bytes(
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
        prepare_bytes(tmp_path / "in.jsonl", tmp_path / "b", latents=tmp_path / "given.npy", projection="identity", latent_dim=4)
    assert not (tmp_path / "b/manifest.json").exists()


def test_without_an_encoder_there_are_no_latents(texts: Path, tmp_path: Path) -> None:
    manifest = prepare_bytes(texts, tmp_path / "out", encoder=None).manifest
    assert manifest.latent_dim is manifest.encoder is manifest.projection is None
    assert open_dataset(tmp_path / "out", external_latents=False).latents([0]) is None


def test_a_limit_is_a_sample_with_the_same_validation(texts: Path, tmp_path: Path) -> None:
    options = {"encoder": None, "min_tokens": 1, "max_tokens": 99}
    prepare_bytes(texts, tmp_path / "all", **options)
    prepare_bytes(texts, tmp_path / "few", limit=90, **options)
    held = [open_dataset(tmp_path / name, "validation", external_latents=False) for name in ("all", "few")]
    assert list(held[0].ids) == list(held[1].ids)
    assert read_manifest(tmp_path / "few").rows == 90
    assert read_manifest(tmp_path / "few").dropped == {"beyond limit=90": 150}


def test_too_many_held_out_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        prepare_bytes(texts, tmp_path / "out", encoder=None, validation=1000)
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
    prepare_bytes(tmp_path / "t.txt", tmp_path / "out", tokenizer="rwkv_compact", encoder=None, min_tokens=25, max_tokens=30)
    held = set(open_dataset(tmp_path / "out", "validation", external_latents=False).texts)
    assert len(held) == 30
    assert not held & fitted[-1]
    assert len(fitted) > 1  # so few texts of that length that the reserve had to grow
