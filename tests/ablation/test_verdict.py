"""Verdicts on planted differences."""

import numpy as np
import pytest

from lgdlm.ablation.verdict import compare, sentence


def by_seed(values):
    return dict(enumerate(values, start=1))


@pytest.mark.parametrize(("better", "verdict"), [("lower", "better"), ("higher", "worse")])
def test_a_constant_gain_is_seen_through_the_noise_that_seeds_share(better, verdict):
    shared = np.array([5.0, 7.0, 3.0])
    found = compare(by_seed(shared - 0.1 + np.array([0.001, 0, -0.001])), by_seed(shared), better)
    assert found.verdict == verdict
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.difference.low < -0.1 < found.difference.high < 0


def test_noise_of_its_own_hides_the_same_gain():
    found = compare(by_seed([4.9, 6.4, 3.3]), by_seed([5.0, 7.0, 3.0]), "lower")
    assert found.verdict == "no difference shown"
    assert found.difference.low < 0 < found.difference.high


def test_only_seeds_that_both_finished_are_paired():
    found = compare({1: 1.0, 2: 2.0, 4: 9.0}, {2: 3.0, 3: 0.0, 4: 10.0}, "lower")
    assert (found.difference.mean, found.difference.n, found.verdict) == (-1.0, 2, "better")


@pytest.mark.parametrize(("ours", "theirs", "mean"), [({1: 1.0}, {1: 2.0}, -1.0), ({1: 1.0}, {2: 2.0}, None), ({}, {1: 2.0}, None)])
def test_fewer_than_two_pairs_are_not_judged(ours, theirs, mean):
    found = compare(ours, theirs, "lower")
    assert found.verdict == "not compared"
    assert (found.difference and found.difference.mean) == mean


def test_no_difference_at_all_is_no_difference_shown():
    assert compare({1: 2.0, 2: 3.0}, {1: 2.0, 2: 3.0}, "higher").verdict == "no difference shown"


def test_one_difference_in_twenty_is_found_where_there_is_none():
    rng = np.random.default_rng(0)
    verdicts = [compare(by_seed(rng.normal(size=3)), by_seed(rng.normal(size=3)), "lower").verdict for _ in range(2000)]
    assert 0.035 < np.mean([verdict != "no difference shown" for verdict in verdicts]) < 0.065


def test_a_row_says_everything_in_one_sentence():
    judged = [("NELBO", "better"), ("T2L R2", "worse"), ("BLEU", "no difference shown"), ("chrF", "not compared"), ("F1", "better")]
    assert sentence("gated", "concat", ["diverged", "diverged"], 3, judged) == (
        "gated against concat: 2 of 3 runs failed (diverged); better in NELBO and F1; worse in T2L R2; no difference shown for BLEU; "
        "not compared for chrF."
    )
    assert sentence("concat", "concat", [], 3, []) == "concat: the others are compared with it."
