"""Shared by the tests of data: a text file, and an encoder that needs no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import HashEncoder
from folders import sentences

from lgdlm.data import embedding_cache, encoder


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> HashEncoder:
    """`prepare` encodes with this one, fifty texts a chunk."""
    made = HashEncoder()
    monkeypatch.setattr(encoder, "load_encoder", lambda name, family=None: made)
    monkeypatch.setattr(embedding_cache.embed, "__defaults__", (50,))
    return made


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of 240 different sentences, one a line."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(240)), encoding="utf-8")
    return path
