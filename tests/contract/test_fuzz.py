"""Random damage, seeded: whatever a file holds, it is read or it is refused; nothing else can happen.

One byte in many is changed, cut, repeated or replaced by one that means something to a parser. A defect of ours would be any other
exception.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from contract.bad_checkpoints import sealed
from contract.sound import DIM, LONGEST, World

from lgdlm.data.frame import Frame
from lgdlm.data.inspect import inspect_folder
from lgdlm.data.text import Text
from lgdlm.data.user_files import UserFiles
from lgdlm.errors import CheckpointError, InputError
from lgdlm.schema import from_yaml
from lgdlm.training.checkpoint import verify_checkpoint
from lgdlm.training.restore import rebuilt

TELLING = [
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"[",
    b"]",
    b",",
    b":",
    b"(",
    b"'",
    b"\\",
    b"\n",
    b"9",
    b"-",
    b"1e999",
    b"NaN",
    b"null",
    b"\\ud800",
    b"../",
    b"&a *a",
    b"!!",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes; those near the front, where headers are, are the likelier ones."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = max(1, len(found))
        at = min(int(rng.random() ** 2 * size), size - 1)
        match rng.randrange(5):
            case 0 if found:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at : at + 1] = rng.choice(TELLING)
            case 2:
                del found[at : at + rng.choice((1, 4, 64))]
            case 3:
                found[at:at] = found[at : at + rng.choice((1, 8, 200))]
            case _:
                found[at : at + 4] = rng.randbytes(4)
    return bytes(found)


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.nightly)])
def test_damaged_data_are_read_or_refused(world: World, count: int) -> None:
    rng = random.Random(count)
    files = [world.listing(), world.latent(), world.tokens()]
    refused = 0
    for _ in range(count):
        path = rng.choice(files)
        sound = path.read_bytes()
        path.write_bytes(mutated(sound, rng))
        options = {"token_dir": world.token_dir, "latent_dim": DIM, "vocab_size": 256, "frame": lambda manifest: Frame(max_length=LONGEST)}
        problems = inspect_folder(world.latent_dir, **options).problems  # type: ignore[arg-type]
        assert all(len(problem.line().encode()) <= 300 for problem in problems)
        refused += bool(problems)
        path.write_bytes(sound)
    assert count // 2 < refused, "the damage is real"


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.nightly)])
def test_damaged_checkpoints_with_right_hashes_are_read_or_refused(run: Path, tmp_path: Path, count: int) -> None:
    rng = random.Random(count)
    names = [
        "config.yaml",
        "state.json",
        "model.safetensors",
        "ema.safetensors",
        "tokenizer/vocabulary.json",
        "tokenizer/tokenizer_identity.json",
    ]
    refused = 0
    for i in range(count):
        checkpoint = Path(shutil.copytree(run / "step_00000004", tmp_path / f"{i}" / "step_00000004"))
        path = checkpoint / rng.choice(names)
        head = path.read_bytes()[:4000]  # headers and settings; numbers behind them may be anything
        path.write_bytes(mutated(head, rng) + path.read_bytes()[4000:])
        sealed(checkpoint)
        try:
            rebuilt(checkpoint, verify_checkpoint(checkpoint))
        except CheckpointError as problem:
            refused += str(checkpoint) in problem.where
        shutil.rmtree(checkpoint.parent)
    assert count // 2 < refused


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.nightly)])
def test_damaged_texts_are_read_or_refused(tmp_path: Path, count: int) -> None:
    rng = random.Random(count)
    lines = "".join(f'{{"id": "{i}", "text": "caf\\u00e9 {i} \u00e9", "score": {i / 3}}}\n' for i in range(6)).encode()
    for name, data in (("a.jsonl", lines), ("a.json", b"[" + lines.strip().replace(b"\n", b",") + b"]"), ("a.txt", lines)):
        for _ in range(count // 3):
            (tmp_path / name).write_bytes(mutated(data, rng))
            for item in UserFiles(tmp_path / name).read():
                if isinstance(item, Text):
                    item.text.encode("utf-8")


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.nightly)])
def test_damaged_configurations_are_read_or_refused(run: Path, count: int) -> None:
    rng = random.Random(count)
    sound = (run / "step_00000004/config.yaml").read_bytes()
    refused = 0
    for _ in range(count):
        try:
            from_yaml(mutated(sound, rng).decode("utf-8", "replace"), "config.yaml")
        except InputError as problem:
            refused += problem.where.startswith("config.yaml")
    assert count // 4 < refused < count
