"""Configurations that mean nothing, or more than values, are refused with exit 2 and one line that names the key or the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.bad_configs import FILES, WORDS
from contract.harness import Outcome, called
from contract.test_bad_data import bounded


def refused(words: tuple[str, ...], folder: Path) -> Outcome:
    before = sorted(folder.rglob("*"))
    with bounded(heavy=True):
        outcome = called(["train", *words], folder).ended(2)
    assert sorted(folder.rglob("*")) == before, "nothing was begun"
    return outcome


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused(tmp_path: Path, name: str) -> None:
    content, named = FILES[name]
    path = tmp_path / "own.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    assert named in refused(("--config-name", str(path)), tmp_path).line


@pytest.mark.parametrize("name", WORDS)
def test_words_are_refused(tmp_path: Path, name: str) -> None:
    words, named = WORDS[name]
    assert named in refused(words, tmp_path).line
