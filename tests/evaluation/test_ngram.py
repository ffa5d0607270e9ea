"""Baselines are distributions: they sum to one, whatever the context, and their nats follow from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgdlm.data.collate import Frame
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.ngram import KneserNey, baseline_nats, length_nats, unigram_nats, width_nats

VOCAB = 6
sequences = st.lists(st.lists(st.integers(0, VOCAB - 2), min_size=1, max_size=7).map(lambda ids: np.array(ids)), min_size=1, max_size=12)
context = st.lists(st.integers(0, VOCAB - 1), max_size=4)


@settings(max_examples=60, deadline=None)
@given(sequences, context, st.integers(1, 4))
def test_every_context_has_a_distribution_without_zeros(train, before, order):
    p = KneserNey(train, VOCAB, order).distribution(before)
    assert p.shape == (VOCAB + 1,)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(sequences, sequences, st.integers(1, 3))
def test_nats_are_the_chain_of_conditionals_ending_with_eos(train, texts, order):
    model = KneserNey(train, VOCAB, order)
    chain = [-sum(np.log(model.distribution(s[:i])[w]) for i, w in enumerate([*s, VOCAB])) for s in texts]
    np.testing.assert_allclose(model.nats(texts), chain, rtol=1e-9)


def test_bigram_equals_the_textbook_formula():
    """corpus: a b . / a c . / a b .   (a=0, b=1, c=2, EOS=3): counted by hand."""
    model = KneserNey([np.array([0, 1]), np.array([0, 2]), np.array([0, 1])], 3, 2)
    # bigrams: ^a 3, ab 2, ac 1, b. 2, c. 1: seen once 2, seen twice 2, so d = 2 / (2 + 4)
    # fronts: a 1, b 1, c 1, EOS 2: seen once 3, twice 1, so the lower d = 3 / 5; total 5, 4 kinds
    lower = lambda fronts: (fronts - 0.6) / 5 + 0.6 * 4 / 5 / 4  # noqa: E731
    d = 1 / 3
    expected = [d * 2 / 3 * lower(1), (2 - d) / 3 + d * 2 / 3 * lower(1), (1 - d) / 3 + d * 2 / 3 * lower(1), d * 2 / 3 * lower(2)]
    np.testing.assert_allclose(model.distribution([0]), expected)


def test_more_context_helps_where_the_text_has_some_and_the_order_is_unigram_bigram_trigram():
    rng = np.random.default_rng(0)

    def text():
        ids = [int(rng.integers(8)), int(rng.integers(8))]
        while rng.random() < 0.9:
            likely = ids[-1] + (1 if ids[-2] < 6 else 2)
            ids.append(likely % 8 if rng.random() < 0.9 else int(rng.integers(8)))
        return np.array(ids)

    train, held = ([text() for _ in range(n)] for n in (300, 50))
    nats = {name: value.sum() for name, value in baseline_nats(documents(train), documents(held), 8).items()}
    assert nats["Kneser-Ney trigram"] < 0.9 * nats["Kneser-Ney bigram"]
    assert nats["Kneser-Ney bigram"] < 0.9 * nats["unigram"]


def documents(tokens):
    names = [str(i) for i in range(len(tokens))]
    return Documents(names, names, tokens, np.ones((len(tokens), 1), np.float32))


def test_unigram_and_length_sum_to_one_and_the_length_is_added():
    train = documents([np.array([0, 0, 1]), np.array([2]), np.array([0])])
    singles = documents([np.array([i]) for i in range(5)])
    length = length_nats(train.lengths, singles.lengths)
    p = np.exp(-(unigram_nats(train, singles, 5) - length))
    np.testing.assert_allclose(p.sum(), 1)
    np.testing.assert_allclose(np.exp(-length_nats(train.lengths, np.array([1, 2, 3]))).sum(), 1)
    np.testing.assert_allclose(length[0], -np.log((2 + 1) / (3 + 3)))


def test_the_width_of_a_filled_row_is_paid_and_a_fixed_one_is_free():
    train, every = np.array([1, 2, 2, 9]), np.array([3, 7, 11])  # with their EOS: rows of 4, 4, 4, 12 and of 4, 8, 12
    frame = Frame(eos_id=0, multiple=4, max_length=12)
    np.testing.assert_allclose(np.exp(-width_nats(train, every, frame)), [4 / 7, 1 / 7, 2 / 7])
    assert not width_nats(train, every, Frame(eos_id=0, width=12)).any()


def test_keys_that_would_overflow_are_refused():
    with pytest.raises(ValueError, match="order"):
        KneserNey([np.array([1])], 65536, 4)
