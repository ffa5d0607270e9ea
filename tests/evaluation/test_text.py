"""Text metrics against their references and at their ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgdlm.evaluation.baselines import cosines, nearest, ranks
from lgdlm.evaluation.metric import METRICS, bleu, ratio
from lgdlm.evaluation.text import distinct, meaning_statistics, overlap_statistics, token_f1, token_statistics

words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", ",", "it's"]), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_bleu_from_summed_counts_is_sacrebleus_corpus_bleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, sources = zip(*pairs, strict=True)
    found = bleu(overlap_statistics(texts, sources)["bleu"].sum(axis=0))
    assert float(found) == pytest.approx(sacrebleu.corpus_bleu(list(texts), [list(sources)]).score, abs=1e-6)


def test_equal_texts_score_full_and_strangers_nothing():
    pytest.importorskip("sacrebleu")
    same = overlap_statistics(["a small black cat sat"], ["a small black cat sat"])
    other = overlap_statistics(["xyz qqq"], ["a small black cat"])
    assert METRICS["l2t_bleu"].fn(same["bleu"].sum(axis=0)) == pytest.approx(100)
    assert METRICS["l2t_chrf"].fn(same["chrf"].sum(axis=0)) == pytest.approx(100)
    assert METRICS["l2t_bleu"].fn(other["bleu"].sum(axis=0)) == 0
    assert METRICS["l2t_chrf"].fn(other["chrf"].sum(axis=0)) == 0


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_token_f1_is_symmetric_blind_to_order_and_one_only_for_equal_bags(a, b):
    assert 0 <= token_f1(a, b) <= 1
    assert token_f1(a, b) == token_f1(b, a[::-1])
    assert (token_f1(a, b) == 1) == (sorted(a) == sorted(b))


def test_token_f1_counts_repeats():
    assert token_f1([1, 1, 1, 2], [1, 2]) == pytest.approx(2 * 2 / 6)


def test_lengths_are_compared_exactly():
    found = token_statistics([np.arange(3), np.arange(5)], [np.arange(3), np.arange(1)])
    assert ratio(found["length_error"].sum(axis=0)) == 2
    assert ratio(found["length_exact"].sum(axis=0)) == 0.5


def test_distinct_counts_over_all_texts_together():
    assert distinct(["a b a", "A b"], 1) == (2, 5)
    assert distinct(["a b a", "A b"], 2) == (2, 3)
    assert distinct(["one"], 2) == (0, 0)


def test_meaning_is_full_for_the_source_itself_and_the_rank_counts_rivals():
    sources = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    itself = meaning_statistics(3 * sources, sources)
    np.testing.assert_allclose(itself["cosine"][:, 0], 1)
    np.testing.assert_array_equal(itself["r1"][:, 0], 1)
    np.testing.assert_array_equal(ranks(np.array([[0.0, 1.0], [1.0, 0.1], [0.9, 1.0]]), sources), [3, 3, 1])


def test_equal_vectors_are_no_hit():
    same = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(ranks(same, same), 4)


def test_nearest_is_the_largest_cosine_across_chunks(monkeypatch):
    monkeypatch.setattr("lgdlm.evaluation.baselines.CHUNK", 7)
    rng = np.random.default_rng(0)
    corpus, queries = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    scores = np.array([[q @ c / np.linalg.norm(q) / np.linalg.norm(c) for c in corpus] for q in queries])
    np.testing.assert_array_equal(nearest(corpus, queries), scores.argmax(axis=1))


def test_a_vector_of_zeros_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="zeros"):
        cosines(np.zeros((1, 3)), np.ones((1, 3)))
