"""Results are strict: no number without a value, no value that is not finite, every metric with a direction."""

import json

import numpy as np
import pytest
from evaluation_world import BagEncoder, project

from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.latent_map import latent_map
from lgdlm.evaluation.meaning import Meaning, meaning_for
from lgdlm.evaluation.metric import METRICS, mean_of
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.text import meaning_statistics


def empty():
    return Results({}, {}, 0, {})


# sums a document of the metrics that are more than a ratio of two
WIDTHS = {"l2t_bleu": 10, "t2l_moments_sample": 5, "stage2_active_units": 7}
COSTS = ("nelbo_g", "nelbo_u", "nelbo_s", "perplexity", "bits", "length_nats", "t2l_mse", "t2l_r2", "l2t_length_error", "l2t_rank", "judge")
COSTS += ("stage2_reconstruction", "stage2_bound", "stage2_perplexity", "stage2_bits", "stage2_kl", "cycle_text", "cycle_latent", "ar_")
COSTS += ("embedding_drift", "embedding_squared_error", "rounding_nats")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_vectorised_function_of_sums(name):
    metric = METRICS[name]
    width = WIDTHS.get(name, 2)
    sums = np.random.default_rng(0).uniform(1, 2, size=(5, 3, width))
    values = metric.fn(sums)
    assert values.shape == (5, 3)
    np.testing.assert_allclose(values[2, 1], metric.fn(sums[2, 1]))
    assert metric.better in ("higher", "lower", "none")


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if name not in WIDTHS and metric.better != "none"])
def test_the_direction_is_right(name):
    """More of the first sum (nats, squared error, hits) moves the value the way the metric's direction says."""
    metric = METRICS[name]
    more, less = metric.fn(np.array([1.5, 2.0])), metric.fn(np.array([0.5, 2.0]))
    costs = name.startswith(COSTS)
    better = less if costs else more
    assert better == (max(more, less) if metric.better == "higher" else min(more, less))


def test_what_has_no_finite_value_is_left_out_with_a_reason():
    results = empty()
    results.add("l2t_distinct_2", np.array([[0.0, 0.0]]), Bootstrap(1, 10))
    assert results.numbers == []
    assert results.not_run == [{"what": "L2T distinct-2", "reason": "there was nothing to count"}]
    with pytest.raises(KeyError):
        results.number("l2t_distinct_2")
    results.add("l2t_token_f1", mean_of(np.ones(3)), Bootstrap(3, 10), {"good": mean_of(np.ones(2)), "none": np.zeros((1, 2))})
    assert results.number("l2t_token_f1")["baselines"] == {"good": 1.0}
    assert "none" in results.not_run[-1]["what"]
    json.dumps(results.to_dict(), allow_nan=False)


def test_an_interval_that_cannot_be_had_is_null_and_said_so():
    results = empty()
    statistics = np.array([[1.0, 1.0], [0.0, 0.0]])
    results.add("judge_perplexity_l2t", statistics, Bootstrap(2, 100))
    entry = results.number("judge_perplexity_l2t")
    assert entry["value"] == pytest.approx(np.e)
    assert entry["low"] is None
    assert "interval" in results.not_run[0]["what"]


def test_a_value_that_slipped_through_is_refused_by_the_file(tmp_path):
    results = empty()
    results.samples["t2l"] = [{"r2": float("nan")}]
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "results.json")
    assert not any(tmp_path.iterdir())


def test_a_blank_text_has_no_meaning_and_the_last_rank():
    meaning = Meaning(BagEncoder(), project)
    found = meaning.of(["w1 w2", "  ", "w3"])
    assert found.present.tolist() == [True, False, True]
    sources = meaning.of(["w1 w2", "w5", "w3"]).spaces["projected"]
    statistics = meaning_statistics(found.spaces["projected"], sources, found.present)
    np.testing.assert_allclose(statistics["cosine"][:, 0], [1, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(statistics["rank"][:, 0], [1, 3, 1])
    np.testing.assert_array_equal(statistics["r1"][:, 0], [1, 0, 1])
    nobody = meaning.of(["", " "])
    np.testing.assert_array_equal(meaning_statistics(nobody.spaces["encoder"], sources[:2], nobody.present)["rank"][:, 0], 2)


def test_the_latents_space_is_used_only_if_it_gives_the_latents_back():
    texts = [f"w{i} w{i + 1}" for i in range(12)]
    latents = project(BagEncoder().encode(texts))
    assert meaning_for(BagEncoder(), project, texts, latents)[1] is None
    assert meaning_for(BagEncoder(), project, texts, latents * 1.001)[0].projection is project
    for encoder, projection, reason in (
        (BagEncoder(seed=3), project, "give the stored latents"),
        (BagEncoder(), None, "no projection"),
        (BagEncoder(), lambda x: x[:, :3], "3 numbers"),
    ):
        meaning, why = meaning_for(encoder, projection, texts, latents)
        assert meaning.projection is None
        assert reason in why
    assert meaning_for(BagEncoder(), None, texts, BagEncoder().encode(texts))[1] is None, "latents may be the encoder's own"


def test_the_map_keeps_distances_along_its_plane_and_fixes_its_signs():
    rng = np.random.default_rng(0)
    latents = np.concatenate([rng.normal(size=(40, 2)) * [5, 3], 1e-3 * rng.normal(size=(40, 3))], axis=1)
    texts = [str(i) for i in range(40)]
    drawn = latent_map(latents, texts, {"joint": (latents[:2], ["a", "b"])})
    points = np.array([[p["x"], p["y"]] for p in drawn["points"]])
    flat = np.linalg.norm(latents[:40, None] - latents[None, :40], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(points[:40, None] - points[None, :40], axis=-1), flat, atol=1e-2)
    np.testing.assert_allclose(points[40:], points[:2])
    assert sum(drawn["explained"]) == pytest.approx(1, abs=1e-4)
    assert latent_map(-latents, texts, {})["explained"] == pytest.approx(drawn["explained"])
    with pytest.raises(ValueError, match="three points"):
        latent_map(latents[:2], texts[:2], {})
