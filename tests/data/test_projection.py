"""A projection keeps what it says it keeps, and is the same after a save."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lgdlm.data import projection as module
from lgdlm.data.projection import PROJECTIONS, fit_projection, load_projection
from lgdlm.errors import InputError


def vectors(n: int = 200, width: int = 12, seed: int = 0) -> np.ndarray:
    """Correlated, of unequal variance, away from the origin."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.geomspace(3, 0.1, width) + rng.normal(size=width)).astype(
        np.float32
    )


def fitted(kind: str, x: np.ndarray):
    return fit_projection(kind, x, x.shape[1] if kind == "identity" else 5)


def test_pca_equals_the_singular_value_decomposition():
    x = vectors()
    projection = fit_projection("pca", x, 5)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(projection.components @ directions[:5].T), np.eye(5), atol=1e-9)
    assert np.isclose(projection.explained_variance, (singular[:5] ** 2).sum() / (singular**2).sum(), rtol=1e-12)
    z = projection(x)
    assert z.dtype == np.float32
    assert np.allclose(z.mean(0), 0, atol=1e-5)
    assert np.allclose(np.cov(z.T, bias=True), np.diag(singular[:5] ** 2 / len(x)), atol=1e-4)  # uncorrelated and not whitened


def test_pca_of_all_dimensions_keeps_distances():
    x = vectors()
    z = fit_projection("pca", x, 12)(x)
    assert np.allclose(np.linalg.norm(x[:9, None] - x[None, :9], axis=-1), np.linalg.norm(z[:9, None] - z[None, :9], axis=-1), atol=1e-4)


def test_components_have_one_sign_and_smaller_fits_are_prefixes():
    x = vectors()
    large, small = fit_projection("pca", x, 8), fit_projection("pca", x[::-1], 3)
    assert np.allclose(large.components[:3], small.components, atol=1e-9)


def test_blocks_of_rows_do_not_matter(monkeypatch):
    x = vectors()
    whole, z = fit_projection("pca", x, 5), fit_projection("pca", x, 5)(x)
    monkeypatch.setattr(module, "ROWS", 7)
    assert np.allclose(fit_projection("pca", x, 5).components, whole.components, atol=1e-12)
    assert np.array_equal(whole(x), z)


def test_matryoshka_is_the_prefix_made_a_unit_vector():
    x = vectors()
    projection = fit_projection("matryoshka", x, 5)
    assert np.allclose(projection(x), x[:, :5] / np.linalg.norm(x[:, :5], axis=1, keepdims=True), atol=1e-6)
    assert np.isclose(projection.explained_variance, x[:, :5].var(0).sum() / x.var(0).sum(), rtol=1e-5)


def test_identity_changes_nothing():
    x = vectors()
    assert np.array_equal(fit_projection("identity", x, 12)(x), x)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_a_row_is_projected_on_its_own_and_saved_is_the_same(kind, tmp_path):
    x = vectors()
    projection = fitted(kind, x)
    projection.save(tmp_path / "p")
    loaded = load_projection(tmp_path / "p")
    assert loaded.identity() == projection.identity() == json.loads(json.dumps(projection.identity(), allow_nan=False))
    assert np.array_equal(loaded(x), projection(x))
    assert np.allclose(projection(x[3:4]), projection(x)[3:4], atol=1e-6)
    assert (loaded.input_dim, loaded.dim) == (12, projection(x).shape[1])
    assert 0 < loaded.explained_variance <= 1


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_more_dimensions_than_the_encoder_has_are_refused(kind):
    for dim in (13, 0):
        with pytest.raises(InputError) as caught:
            fit_projection(kind, vectors(), dim)
        assert caught.value.code == "LATENT_DIM"


def test_what_cannot_be_projected_is_refused():
    x = vectors()
    for kind, dim, rows, code in (
        ("identity", 5, x, "LATENT_DIM"),
        ("pca", 5, x[:5], "LATENT_DIM"),  # five texts span four directions
        ("pca", 1, x[:1], "LATENT_DIM"),
        ("pcb", 5, x, "UNKNOWN_VALUE"),
        ("pca", 5, np.where(np.arange(12) == 3, np.nan, x), "NAN_LATENT"),
    ):
        with pytest.raises(InputError) as caught:
            fit_projection(kind, rows, dim)
        assert caught.value.code == code
    projection = fit_projection("matryoshka", x, 5)
    for rows, code in ((x[:, :11], "LATENT_DIM"), (np.zeros((2, 12), np.float32), "NAN_LATENT"), (x * np.inf, "NAN_LATENT")):
        with pytest.raises(InputError) as caught:
            projection(rows)
        assert caught.value.code == code


def test_a_damaged_folder_is_refused(tmp_path):
    fit_projection("pca", vectors(), 5).save(tmp_path)
    tensors, facts = tmp_path / "projection.safetensors", tmp_path / "projection.json"
    whole = tensors.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], b""):
        tensors.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            load_projection(tmp_path)
        assert caught.value.code == "BAD_PROJECTION"
    tensors.write_bytes(whole)
    facts.write_text(facts.read_text().replace('"dim": 5', '"dim": 4'))
    with pytest.raises(InputError):
        load_projection(tmp_path)
    facts.unlink()
    with pytest.raises(InputError) as caught:
        load_projection(tmp_path)
    assert caught.value.code == "MISSING_FILE"
