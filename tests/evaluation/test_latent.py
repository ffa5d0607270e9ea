"""T2L statistics at their ends, and the ridge baseline against a dense solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgdlm.data.bag_ridge import PENALTIES, SCALINGS, BagRidge, fit_ridge
from lgdlm.evaluation.latent import latent_statistics
from lgdlm.evaluation.metric import explained, ratio

MEAN, STD = np.array([1.0, -2.0]), np.array([0.5, 3.0])


def measured(found, true):
    sums = {name: s.sum(axis=0) for name, s in latent_statistics(found, true, MEAN, STD).items()}
    return explained(sums["r2"]), ratio(sums["cosine"]), ratio(sums["mse"])


def test_the_truth_explains_everything_and_the_training_mean_nothing():
    true = MEAN + STD * np.random.default_rng(0).normal(size=(40, 2))
    r2, cosine, mse = measured(true, true)
    assert (r2, cosine, mse) == (1, pytest.approx(1), 0)
    assert measured(np.tile(MEAN, (40, 1)), true)[0] == 0
    assert measured(2 * true, true)[1] == pytest.approx(1), "cosine forgets the magnitude"
    assert measured(2 * true, true)[0] < 1, "R2 does not"


def test_dimensions_count_alike_after_standardisation():
    true = np.tile(MEAN + STD, (10, 1))
    off = measured(true + [STD[0], 0], true)[2], measured(true + [0, STD[1]], true)[2]
    assert off == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_prediction_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="document 1"):
        latent_statistics(np.array([[0.0, 1], [np.nan, 1]]), np.ones((2, 2)), MEAN, STD)


def bags(tokens, vocab):
    return np.stack([np.bincount(ids, minlength=vocab) for ids in tokens]).astype(np.float64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from(SCALINGS))
def test_conjugate_gradients_find_the_dense_ridge(seed, alpha, scaling):
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 9, size=rng.integers(1, 12)) for _ in range(40)]
    latents = rng.normal(size=(40, 3)).astype(np.float32)
    x = bags(tokens, 11)
    x = x if scaling == "counts" else x / np.sqrt(x.sum(axis=1, keepdims=True))
    centred, targets = x - x.mean(axis=0), latents - latents.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(11), centred.T @ targets)
    model = BagRidge(tokens, latents, 11, alpha, scaling=scaling)
    np.testing.assert_allclose(model.weights.numpy(), weights, atol=2e-3)
    np.testing.assert_allclose(model.predict(tokens), centred @ weights + latents.mean(axis=0), atol=2e-3)


def test_a_linear_world_is_recovered_and_the_penalty_is_chosen_on_training_texts():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(20, 4))

    def draw(count):
        tokens = [rng.integers(0, 20, size=rng.integers(3, 15)) for _ in range(count)]
        return tokens, (bags(tokens, 20) @ truth + 5).astype(np.float32)

    (tokens, latents), (held, expected) = draw(400), draw(50)
    exact = fit_ridge(tokens, latents, 20, seed=0)
    assert np.abs(exact.predict(held) - expected).max() < 0.1
    assert exact.alpha == min(PENALTIES)
    noise = fit_ridge(tokens, rng.normal(size=latents.shape).astype(np.float32), 20, seed=0)
    assert noise.alpha == max(PENALTIES), "nothing to learn: the strongest penalty wins"


def test_tokens_never_seen_change_nothing_but_their_absence():
    tokens = [np.array([0, 1]), np.array([1, 2])] * 10
    model = BagRidge(tokens, np.array([[0.0], [1.0]] * 10, np.float32), 5, 1.0)
    np.testing.assert_allclose(model.predict([np.array([0, 1, 4, 4])]), model.predict([np.array([0, 1])]), atol=1e-6)
