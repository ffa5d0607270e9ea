"""Damaged and hostile data are refused by `check` and by `train`: one line, exit 2, the same problems, the sample named.

Whatever a file claims, neither command takes more memory than the file has; what would hang or blow up is met in `bad_*.py`.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from contract.bad_latents import LATENTS, Fixture
from contract.bad_lists import IDS, LISTS, PATHS, TEXTS
from contract.bad_tokens import TOKENS
from contract.harness import Adapter
from contract.sound import World

FIXTURES: dict[str, Fixture] = {
    f"{noun}: {name}": fixture
    for noun, table in (("latent", LATENTS), ("text", TEXTS), ("id", IDS), ("path", PATHS), ("list", LISTS), ("tokens", TOKENS))
    for name, fixture in table.items()
}
MEMORY = 160 << 20  # what a refusal may take: several copies of a line of 64 MB, and nothing of 32 GiB


@contextmanager
def bounded(heavy: bool) -> Iterator[None]:
    """Fails where the block takes more than MEMORY at once; measured where a fixture asks for it, since measuring is slow."""
    if not heavy:
        yield
        return
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def test_the_sound_world_is_sound(adapter: Adapter, pristine: World) -> None:
    assert "no problems" in adapter.call("check", pristine.folder, **pristine.values).ended(0).out


def test_there_are_enough_of_them() -> None:
    assert len(FIXTURES) >= 120


@pytest.mark.parametrize("name", FIXTURES)
def test_damage_is_refused_by_check_and_by_train_alike(adapter: Adapter, world: World, name: str) -> None:
    fixture = FIXTURES[name]
    fixture.damage(world)
    with bounded(fixture.heavy):
        checked = adapter.call("check", world.folder, **world.values).ended(2)
    guilty = [problem for problem in checked.problems if problem.startswith(f"E_{fixture.code} ")]
    assert any(fixture.names in problem for problem in guilty), checked.problems
    with bounded(fixture.heavy):
        trained = adapter.call("train", world.folder, run=world.folder / "run", **world.values).ended(2)
    assert sorted(trained.problems) == sorted(checked.problems)
    assert not (world.folder / "run").exists(), "a refused run leaves nothing"
