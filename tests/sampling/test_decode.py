"""Texts end at their first EOS."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.sampling import decode
from lgdlm.sampling.decode import before_end


class Letters:
    eos_id = 0

    def decode(self, ids) -> str:
        assert 0 not in ids
        return "".join(chr(96 + i) for i in ids)


def test_texts_are_cut_before_their_first_eos_and_their_padding():
    tokens = torch.tensor([[1, 2, 0, 3, 0], [0, 1, 1, 1, 1], [1, 2, 3, 4, 5], [0, 0, 7, 8, 0]])
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]).bool()
    assert decode(tokens, seen, Letters()) == ["ab", "", "ab", "gh"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_end_is_the_first_one(row):
    tokens = torch.tensor([row])
    end = row.index(0) if 0 in row else len(row)
    assert before_end(tokens, 0).sum() == end
    assert before_end(tokens, 0, keep_end=True).sum() == min(end + 1, len(row))
