"""Roots of a checkout with data in them, one a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from doors_world import root, samples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and byte tokens, so that networks are small."""
    return samples(root(tmp_path_factory.mktemp("checkout")), tokens=True)
