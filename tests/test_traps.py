"""The page of traps is whole, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (\d+) \|(.*)$", (ROOT / "docs" / "traps.md").read_text(encoding="utf-8"), re.M)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:\w+/)*\w+\.py)`")


def test_every_trap_has_its_row() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 19))


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[number for number, _ in ROWS])
def test_a_row_names_tests_and_files_that_exist(number: str, row: str) -> None:
    named = TEST.findall(row)
    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {test}"
    for file in FILE.findall(row):
        assert (ROOT / "src" / "lgdlm" / file).is_file(), file
