"""The split is a function of content and seed."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data.split import content_key, hold_out, ranking


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
