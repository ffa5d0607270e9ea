"""Shared by the tests of the contract: a sound world, a trained run, and a bound on how long anything may take."""

from __future__ import annotations

import copy
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
import torch
from contract.harness import Adapter
from contract.sound import World, sound_world
from omegaconf import DictConfig

from lgdlm.cli.compose import shipped_configs

ROOM = 3 << 30  # bytes that the tests of a file together may add to what is mapped
PATIENCE = 300  # seconds after which a test counts as hung: a FIFO that was opened, a bomb that went off


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """What hangs fails."""

    def hung(number: int, frame: object) -> None:
        raise TimeoutError(f"nothing happened for {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="module")
def room() -> Iterator[None]:
    """What takes memory without end fails with MemoryError, long before the machine feels it.

    For these tests alone, and the processes that they start: others of the same process may need more.
    """
    mapped = Path("/proc/self/statm")
    if not mapped.exists():  # only Linux says how much is mapped
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    torch.zeros(1)  # what torch reserves is reserved by now
    used = int(mapped.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


HELD: dict[tuple[str, ...], DictConfig] = {}


@pytest.fixture(autouse=True, scope="module")
def composed_once() -> Iterator[None]:
    """Composing a configuration takes longer than everything else here, and most tests compose the same one."""
    compose, held = hydra.compose, HELD

    def remembered(config_name: str, overrides: list[str]) -> DictConfig:
        key = (config_name, *overrides)
        if config_name not in shipped_configs():
            return compose(config_name, overrides=overrides)
        if key not in held:
            held[key] = compose(config_name, overrides=overrides)
        return copy.deepcopy(held[key])

    hydra.compose = remembered
    yield
    hydra.compose = compose


@pytest.fixture(scope="session")
def adapter() -> Adapter:
    return Adapter()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The sound world; not to be changed."""
    return sound_world(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def world(pristine: World, tmp_path: Path) -> World:
    """A copy of the sound world, to be damaged."""
    return pristine.copied(tmp_path / "world")


@pytest.fixture(scope="session")
def trained(adapter: Adapter, pristine: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2 and 4; not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    adapter.call("train", pristine.folder, run=run, **pristine.values).ended(0)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
