"""Reading a matrix file strictly: every key known, every reference to something that is there.

Which keys `set` may name, and their values, is for the schema to say when a run's configuration is composed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgdlm.ablation.column import column_of
from lgdlm.ablation.matrix import Curve, Matrix, Pareto, Scale, Variant
from lgdlm.errors import InputError
from lgdlm.schema import nearest

CONFIGS = Path(__file__).parent.parent / "configs"
KEYS = ("question", "config", "set", "scales", "reference", "variants", "columns", "curves", "pareto", "equal_parameters")
REQUIRED = ("question", "config", "reference", "variants", "columns")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a variant: it names a folder


def shipped_matrices() -> list[str]:
    """Names of the matrices inside the package."""
    return sorted(path.stem for path in (CONFIGS / "matrix").glob("*.yaml"))


def shipped_scales() -> dict[str, Scale]:
    """The scales inside the package by name, the shortest first."""
    found = {path.stem: _scale(_read(path), path, path.stem) for path in (CONFIGS / "scale").glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: item[1].minutes))


def read_matrix(name: str) -> Matrix:
    """The shipped matrix `name`, or the one in the YAML file `name`. Raises InputError naming the file and the key."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in shipped_matrices():
        path = CONFIGS / "matrix" / f"{name}.yaml"
    else:
        message = f"no matrix {name!r}; {nearest(name, shipped_matrices())}, or a .yaml file"
        raise InputError("MATRIX", "command-line", "ablation.matrix", message)
    found = _read(path)
    for key in found:
        if key not in KEYS:
            raise _wrong(path, str(key), f"unknown key; {nearest(str(key), KEYS)}")
    for key in REQUIRED:
        if key not in found:
            raise _wrong(path, key, "is missing")
    for key in ("question", "config", "reference"):
        if not isinstance(found[key], str):
            raise _wrong(path, key, f"text is expected, got {found[key]!r}")
    columns = tuple(column_of(entry, path) for entry in _list(found["columns"], path, "columns"))
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise _wrong(path, "columns", f"at least one, each once, got {', '.join(names) or 'none'}")
    tolerance = found.get("equal_parameters")
    if tolerance is not None and not (isinstance(tolerance, float) and 0 <= tolerance < 1):
        raise _wrong(path, "equal_parameters", f"a share below 1 is expected, got {tolerance!r}")
    return Matrix(
        name=path.stem,
        question=" ".join(found["question"].split()),
        config=found["config"],
        set=_mapping(found.get("set", {}), path, "set"),
        scales=_scales(_mapping(found.get("scales", {}), path, "scales"), path),
        reference=found["reference"],
        variants=_variants(_mapping(found["variants"], path, "variants"), found["reference"], path),
        columns=columns,
        curves=tuple(_curve(entry, path) for entry in _list(found.get("curves", []), path, "curves")),
        pareto=tuple(_pareto(entry, names, path) for entry in _list(found.get("pareto", []), path, "pareto")),
        equal_parameters=tolerance,
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _wrong(path, "ablation.matrix", f"no such file; shipped: {', '.join(shipped_matrices())}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise _wrong(path, "yaml", f"is not valid YAML: {str(problem).splitlines()[0]}") from problem
    return _mapping(found, path, "yaml")


def _scales(own: Mapping[str, Any], path: Path) -> dict[str, Scale]:
    """The shipped scales, refined by the matrix's own; a matrix may name further ones."""
    scales = shipped_scales()
    for name, entry in own.items():
        below = scales.get(name)
        minutes = {"minutes": below.minutes} if below else {}
        refined = _scale({**minutes, **_mapping(entry, path, f"scales.{name}")}, path, f"scales.{name}")
        scales[name] = Scale(refined.minutes, {**(below.set if below else {}), **refined.set})
    return scales


def _scale(entry: Mapping[str, Any], path: Path, where: str) -> Scale:
    _only(entry, ("minutes", "set"), path, where)
    minutes = entry.get("minutes")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0:
        raise _wrong(path, f"{where}.minutes", f"the minutes of a run are expected, got {minutes!r}")
    return Scale(float(minutes), _mapping(entry.get("set", {}), path, f"{where}.set"))


def _variants(found: Mapping[str, Any], reference: str, path: Path) -> tuple[Variant, ...]:
    variants = []
    if reference not in found:
        raise _wrong(path, "reference", f"no variant {reference!r}; {nearest(reference, list(found))}")
    for name, entry in found.items():
        where = f"variants.{name}"
        if not NAME.fullmatch(name):
            raise _wrong(path, where, "a name of letters, digits, _ . + - is expected: it names a folder")
        fields = _mapping(entry, path, where)
        _only(fields, ("set", "against"), path, where)
        against = fields.get("against", reference)
        if against not in found:
            raise _wrong(path, f"{where}.against", f"no variant {against!r}; {nearest(str(against), list(found))}")
        variants.append(Variant(name, _mapping(fields.get("set", {}), path, f"{where}.set"), against))
    return tuple(variants)


def _curve(entry: Any, path: Path) -> Curve:
    fields = {"of": entry} if isinstance(entry, str) else _mapping(entry, path, "curves")
    _only(fields, ("of", "log10"), path, "curves")
    return Curve(str(fields.get("of", "")), bool(fields.get("log10", False)))


def _pareto(entry: Any, names: Sequence[str], path: Path) -> Pareto:
    fields = _mapping(entry, path, "pareto")
    _only(fields, ("x", "y"), path, "pareto")
    for axis in ("x", "y"):
        if fields.get(axis) not in names:
            raise _wrong(path, f"pareto.{axis}", f"a column is expected, got {fields.get(axis)!r}; {nearest(str(fields.get(axis)), names)}")
    return Pareto(fields["x"], fields["y"])


def _mapping(found: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise _wrong(path, where, f"a mapping is expected, got {type(found).__name__}")
    return {str(key): value for key, value in found.items()}


def _list(found: Any, path: Path, where: str) -> list[Any]:
    if not isinstance(found, list):
        raise _wrong(path, where, f"a list is expected, got {type(found).__name__}")
    return found


def _only(fields: Mapping[str, Any], known: Sequence[str], path: Path, where: str) -> None:
    for key in fields:
        if key not in known:
            raise _wrong(path, f"{where}.{key}", f"unknown key; {nearest(key, known)}")


def _wrong(path: Path, field: str, message: str) -> InputError:
    return InputError("MATRIX", path, field, message)
