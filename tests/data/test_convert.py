"""Layouts convert into each other without loss; wide latents become narrow ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documents import HashEncoder, prepare_bytes
from folders import per_sample

from lgdlm.data.convert import convert
from lgdlm.data.inspect import inspect_folder
from lgdlm.data.paired import open_dataset
from lgdlm.data.projection import load_projection
from lgdlm.errors import InputError


@pytest.mark.parametrize("first", ["packed", "samples"])
def test_layouts_convert_into_each_other_without_loss(first: str, texts: Path, tmp_path: Path, hashing: HashEncoder) -> None:
    second = {"packed": "samples", "samples": "packed"}[first]
    prepare_bytes(texts, tmp_path / "a", layout=first)
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
