"""Every key of the schema is read by some code: a key that nothing reads would be accepted and mean nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import lgdlm
from lgdlm.config import MODELS
from lgdlm.models.build import DENOISERS
from lgdlm.schema import all_keys, groups

SOURCE = Path(lgdlm.__file__).parent
CLASSES = {kind.__name__: group for group, kind in groups().items()} | {kind.__name__: "model" for kind in MODELS.values()}


def group_of(node: ast.expr | None, named: dict[str, str]) -> str | None:
    """The group that an expression stands for: `config.training`, or a name bound to it."""
    if isinstance(node, ast.Attribute) and node.attr in groups():
        return node.attr
    return named.get(node.id) if isinstance(node, ast.Name) else None


def bindings(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name, group) for `training = config.training`, `p, data = config.prepare, config.data` and parameters typed `Training`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) in CLASSES:
            yield node.arg, CLASSES[ast.unparse(node.annotation)]
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]
                for name, value in pairs:
                    if isinstance(name, ast.Name) and (group := group_of(value, {})):
                        yield name.id, group


def keys_read() -> set[str]:
    """Dotted names of the keys that the package reads as attributes of their group.

    `models/build.py` hands `model`'s keys to the denoisers' constructors by the names of their parameters: there a parameter reads a key.
    """
    found = {f"model.{name}" for kind in DENOISERS.values() for name in signature(kind).parameters}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = dict(bindings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (group := group_of(node.value, named)):
                found.add(f"{group}.{node.attr}")
    return found


def test_every_key_is_read():
    forgotten = sorted(set(all_keys()) - keys_read())
    assert not forgotten, f"{len(forgotten)} keys that no code reads: {', '.join(forgotten)}"
