"""Checks of whole columns say what a look at every string would say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documents import rows, write
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data import doubt
from lgdlm.data.distinct import DistinctIds, string_hashes
from lgdlm.data.doubt import SOLID, doubtful
from lgdlm.data.open_files import allow_open_files
from lgdlm.data.packed import PackedSplit
from lgdlm.data.text import flaw
from lgdlm.data.writing import Row
from lgdlm.errors import InputError


def column(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(values), np.uint8), np.cumsum([0, *map(len, values)]).astype(np.int64)


def unusable(value: bytes) -> bool:
    try:
        return flaw(value.decode("utf-8")) is not None
    except UnicodeDecodeError:
        return True


SPACES = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c).isspace()]
STRINGS = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "ignore")),
    st.text(st.sampled_from([*SPACES, "\0", "a"]), max_size=4).map(str.encode),
)


@given(st.lists(STRINGS, max_size=12), st.sampled_from([1, 8, 1 << 22]))
def test_nothing_unusable_is_beyond_doubt(values: list[bytes], part: int) -> None:
    before, doubt.PART_BYTES = doubt.PART_BYTES, part
    try:
        found = doubtful(*column(values))
    finally:
        doubt.PART_BYTES = before
    assert len(found) == len(values)
    assert all(doubted for value, doubted in zip(values, found.tolist(), strict=True) if unusable(value))


def test_ordinary_texts_are_beyond_doubt() -> None:
    texts = ["a", "zwei \u00e4\u00f6", "\u4e09\u3064\u306e\u732b", "\U0001f600 five", " indented", "caf\u00e9 ", "\u0416", "4"]
    assert not doubtful(*column([text.encode() for text in texts])).any()


def test_no_white_space_has_a_solid_byte() -> None:
    assert not any(SOLID[byte] for space in SPACES for byte in space.encode())


def test_a_text_that_is_too_long_is_looked_at() -> None:
    assert doubtful(*column([b"a" * (doubt.TEXT_BYTES + 1), b"b"])).tolist()[0]


@given(st.lists(st.binary(max_size=20), max_size=30))
def test_hashes_are_functions_of_the_bytes(values: list[bytes]) -> None:
    hashes = string_hashes(*column(values)).tolist()
    alone = [string_hashes(*column([value])).tolist()[0] for value in values]
    assert hashes == alone
    assert len(set(hashes)) == len(set(values))


@given(st.lists(st.binary(max_size=2), max_size=60), st.integers(1, 7))
def test_every_repeated_id_is_found_with_its_first_row(values: list[bytes], size: int) -> None:
    ids = DistinctIds(len(values))
    for start in range(0, len(values), size):
        ids.add(*column(values[start : start + size]))
    expected = [(i, values.index(value)) for i, value in enumerate(values) if values.index(value) < i]
    assert sorted(ids.repeated(lambda row: values[row])) == expected


def test_equal_hashes_of_different_ids_are_no_duplicates() -> None:
    ids = DistinctIds(2)
    ids.add(*column([b"one", b"two"]))
    ids._hashes[:] = 7
    assert list(ids.repeated(lambda row: [b"one", b"two"][row])) == []


def test_a_repeated_id_is_reported_across_shards(tmp_path: Path) -> None:
    made = rows(9)
    made[7] = Row(made[2].id, *made[7][1:])
    problems: list[InputError] = []
    PackedSplit(tmp_path, write(tmp_path, {"train": made}), "train").verify(problems.append)
    assert [(p.code, p.field, "sample 2" in p.message) for p in problems if p.code == "DUPLICATE_ID"] == [
        ("DUPLICATE_ID", made[2].id, True)
    ]


def test_more_shards_than_the_soft_limit_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    limits = {"now": (64, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, wanted: limits.update(now=wanted))
    allow_open_files(1000)
    assert 1000 < limits["now"][0] < 4096 == limits["now"][1]
    with pytest.raises(InputError, match="ulimit") as refused:
        allow_open_files(1_000_000)
    assert refused.value.code == "OPEN_FILES"
