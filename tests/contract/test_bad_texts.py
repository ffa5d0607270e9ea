"""Texts, prompts and latents that a user hands to `prepare` and `sample`: what is wrong is named, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from contract.bad_latents import LATENTS as DAMAGED
from contract.bad_latents import Fixture
from contract.harness import Adapter
from contract.sound import DIM, World
from contract.test_bad_data import bounded

GOOD = '{"id": "a", "text": "fine"}\n'


def line(text: str) -> bytes:
    """A sound line, and one that holds `text` as it is spelled."""
    return (GOOD + '{"id": "b", "text": "' + text + '"}\n').encode("utf-8", "surrogatepass")


JSONL: dict[str, tuple[bytes, str, str]] = {
    "an empty text": (line(""), "EMPTY_TEXT", ".jsonl:2"),
    "spaces": (line("\\u2003 "), "EMPTY_TEXT", ".jsonl:2"),
    "a zero character": (line("a\\u0000b"), "BAD_TEXT", ".jsonl:2"),
    "half a surrogate": (line("\\ud800"), "BAD_TEXT", ".jsonl:2"),
    "a surrogate in bytes": (line("\ud800"), "BAD_UTF8", "offset"),
    "Latin-1": (line("MARK").replace(b"MARK", b"\xe9"), "BAD_UTF8", f"offset {len(GOOD) + 21}"),
    "10 MB in one line": (line("word " * 2_000_000), "TEXT_SIZE", ".jsonl:2"),
    "70 MB in one line": (GOOD.encode() + b'{"text": "' + b"w" * 70_000_000, "TOO_LARGE", ".jsonl:2"),
    "a number for a text": (GOOD.encode() + b'{"text": 1}', "WRONG_TYPE", ".jsonl:2"),
    "no text": (GOOD.encode() + b'{"id": "b"}', "MISSING_KEY", ".jsonl:2"),
    "an id twice": ((GOOD + GOOD.replace("fine", "other")).encode(), "DUPLICATE_ID", ".jsonl:2"),
    "an id of true": (GOOD.encode() + b'{"id": true, "text": "x"}', "WRONG_TYPE", ".jsonl:2"),
    "an empty id": (GOOD.encode() + b'{"id": "", "text": "x"}', "WRONG_TYPE", ".jsonl:2"),
    "an id with a zero character": (GOOD.encode() + b'{"id": "a\\u0000", "text": "x"}', "BAD_TEXT", ".jsonl:2"),
    "a key twice": (GOOD.encode() + b'{"text": "x", "text": "y"}', "BAD_JSON", ".jsonl:2"),
    "NaN": (GOOD.encode() + b'{"text": "x", "score": NaN}', "BAD_JSON", ".jsonl:2"),
    "cut": (GOOD.encode() + b'{"text": "x', "BAD_JSON", ".jsonl:2"),
    "two objects in a line": (GOOD.encode().strip() * 2, "BAD_JSON", ".jsonl:1"),
    "a list": (GOOD.encode() + b'["x"]', "BAD_JSON", ".jsonl:2"),
    "brackets": (GOOD.encode() + b"[" * 100_000, "BAD_JSON", ".jsonl:2"),
    "nothing": (b"", "EMPTY", ".jsonl"),
    "blank lines": (b"\n\n \n", "EMPTY", ".jsonl"),
}


def read_by(verb: str, adapter: Adapter, folder: Path, path: Path, checkpoint: Path) -> tuple[int, str, list[str]]:
    """Exit code, kind and problems of the verb that reads `path`; nothing may appear at its `out`."""
    out = folder / "out"
    given = {"text": path} if verb == "prepare" else {"prompts": path, "checkpoint": checkpoint}
    outcome = adapter.call(verb, folder, out=out, **given)
    assert not (out / "manifest.json").exists() if out.is_dir() else not out.exists()
    return outcome.code, outcome.kind, outcome.problems


@pytest.mark.parametrize("name", JSONL)
def test_prepare_and_sample_refuse_a_text(adapter: Adapter, trained: Path, tmp_path: Path, name: str) -> None:
    content, kind, named = JSONL[name]
    (tmp_path / "t.jsonl").write_bytes(content)
    for verb in ("prepare", "sample-t2l"):
        with bounded("MB" in name):
            code, found, problems = read_by(verb, adapter, tmp_path, tmp_path / "t.jsonl", trained / "step_00000004")
        assert code == 2
        assert found.startswith(kind)
        assert any(named in problem for problem in problems), problems


def test_all_problems_of_a_file_are_listed(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "x", "text": ""}\n{"id": "y", "text": "fine"}\n{"id": "y", "text": "other"}\n{')
    problems = adapter.call("prepare", tmp_path, text=tmp_path / "t.jsonl", out=tmp_path / "out").ended(2).problems
    assert [problem.split()[0] for problem in problems] == ["E_EMPTY_TEXT", "E_DUPLICATE_ID", "E_BAD_JSON"]


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda path: None, "MISSING_FILE"),
    "a FIFO": (os.mkfifo, "NOT_A_FILE"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "NOT_A_FILE"),
    "an empty folder": (Path.mkdir, "UNKNOWN_FORMAT"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_refused(adapter: Adapter, trained: Path, tmp_path: Path, name: str) -> None:
    make, kind = PLACES[name]
    make(tmp_path / "t.jsonl")
    for verb in ("prepare", "sample-t2l"):
        assert read_by(verb, adapter, tmp_path, tmp_path / "t.jsonl", trained / "step_00000004")[:2] == (2, kind)


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(adapter: Adapter, trained: Path, tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "text": "x" * length} for i, length in enumerate((48, 49, 3, 50))]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, kind, problems = read_by("sample-t2l", adapter, tmp_path, tmp_path / "p.jsonl", trained / "step_00000004")
    assert (code, kind) == (2, "TOO_LONG")
    assert [problem.split()[2].rstrip(":") for problem in problems] == ["p1", "p3"]


OTHERWISE = {"two rows", "three axes", "a missing file", "several at once", "a link through a folder outside"}  # a folder of latents may
OF_ONE_FILE = [name for name, fixture in DAMAGED.items() if fixture.names == "train_003" and name not in OTHERWISE]


@pytest.mark.parametrize("name", OF_ONE_FILE)
def test_sample_refuses_the_latents_that_training_refuses(adapter: Adapter, trained: Path, tmp_path: Path, name: str) -> None:
    """The same damages to a folder that holds nothing but latents."""
    fixture: Fixture = DAMAGED[name]
    world = World(tmp_path)
    world.latent().parent.mkdir(parents=True)
    for i in (1, 3):
        np.save(world.latent(i), np.arange(DIM, dtype=np.float32))
    fixture.damage(world)
    given = {"latents": world.latent().parent, "checkpoint": trained / "step_00000004", "out": tmp_path / "out.jsonl"}
    with bounded(fixture.heavy):
        outcome = adapter.call("sample-l2t", tmp_path, **given).ended(2)
    assert "train_003" in outcome.line
    assert not (tmp_path / "out.jsonl").exists()
