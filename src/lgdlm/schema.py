"""Reading the configuration's fields: plain values in, a checked `Config` out, and back.

    from_dict(as_dict(config)) == config,      from_yaml(to_yaml(config)) == config

Every key is checked here and nowhere else: its name (an unknown one is refused with the nearest valid name), its type, its
choices and its bounds. A run's `config.yaml` and the command line go through the same door.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lgdlm.config import MODELS, Config, Model
from lgdlm.errors import InputError
from lgdlm.strict_yaml import parse_yaml


@dataclass(frozen=True)
class Key:
    """One key of the schema: its dotted name, type, default and what it may be."""

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...]
    at_least: float | None
    at_most: float | None

    @property
    def type_name(self) -> str:
        """`str | null` for `str | None`: the words of YAML."""
        name = self.type.__name__ if isinstance(self.type, type) and not typing.get_args(self.type) else str(self.type)
        return name.replace("lgdlm.config.", "").replace("None", "null")


def keys_of(kind: type) -> dict[str, Key]:
    """The keys of one group, by their names inside it."""
    hints = typing.get_type_hints(kind)
    found = {}
    for f in dataclasses.fields(kind):
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()  # type: ignore[misc,operator]
        m = f.metadata
        found[f.name] = Key(f.name, hints[f.name], default, m["help"], m["choices"], m["at_least"], m["at_most"])
    return found


@cache
def groups() -> dict[str, type]:
    """The groups of `Config` by name; `model` stands for the keys that every denoiser shares."""
    return {f.name: typing.get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}


@cache
def all_keys() -> dict[str, Key]:
    """Every key of every group and every denoiser, by dotted name."""
    found = {f"{group}.{name}": key for group, kind in groups().items() for name, key in keys_of(kind).items()}
    for kind in MODELS.values():
        found |= {f"model.{name}": key for name, key in keys_of(kind).items() if f"model.{name}" not in found}
    return found


def nearest(word: str, valid: Iterable[str]) -> str:
    """A remedy for a misspelt word: the same key in another group, else the nearest valid word, else the list."""
    valid = list(valid)
    tail = word.rpartition(".")[2]
    close = [v for v in valid if "." in v and v.rpartition(".")[2] == tail][:1] or difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(valid[:12])}{', ...' if len(valid) > 12 else ''}"


def unknown_key(name: str, where: object, valid: Iterable[str] | None = None) -> InputError:
    return InputError("CONFIG", where, name, f"unknown key; {nearest(name, all_keys() if valid is None else valid)}")


def other_denoiser(name: str, where: object) -> InputError:
    """A key of `model` that another denoiser has."""
    owners = [m for m, kind in MODELS.items() if name.partition(".")[2] in keys_of(kind)]
    return InputError("CONFIG", where, name, f"only model={' | '.join(owners)} has this key; leave it out or choose that denoiser")


def as_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any], where: object) -> Config:
    """The checked configuration; `where` names the file or `command-line` in errors. Keys left out take their defaults."""
    for name in values:
        if name not in groups():
            raise unknown_key(str(name), where, groups())
    built = {}
    for name, kind in groups().items():
        group = values.get(name, {})
        if not isinstance(group, Mapping):
            raise InputError("CONFIG", where, name, f"a group of keys is expected, got {group!r}")
        built[name] = _build(_model_kind(group, where) if kind is Model else kind, group, name, where)
    return Config(**built)


def _model_kind(group: Mapping[str, Any], where: object) -> type[Model]:
    name = group.get("denoiser", Config().model.denoiser)
    if name not in MODELS:
        raise InputError("CONFIG", where, "model.denoiser", f"{name!r} is no denoiser; {nearest(str(name), MODELS)}")
    return MODELS[name]


def _build(kind: type, values: Mapping[str, Any], prefix: str, where: object) -> Any:
    keys = keys_of(kind)
    for name in values:
        if name not in keys:
            full = f"{prefix}.{name}"
            if prefix == "model" and full in all_keys():
                raise other_denoiser(full, where)
            raise unknown_key(full, where, [f"{prefix}.{k}" for k in keys])
    return kind(**{name: _value(keys[name], v, f"{prefix}.{name}", where) for name, v in values.items()})


def _value(key: Key, value: Any, name: str, where: object) -> Any:
    value = _typed(key.type, value, name, where)
    if value == "" and type(None) in typing.get_args(key.type) and str(where) == "command-line":  # a file of before may hold one
        raise InputError("CONFIG", where, name, "is empty, as a variable of a script that was never set: null says that there is none")
    if key.choices and value is not None and value not in key.choices:
        close = nearest(str(value), key.choices)
        meant = f"; {close}" if close.startswith("did you mean") else ""
        raise InputError("CONFIG", where, name, f"{value!r} is not one of {', '.join(key.choices)}{meant}")
    for number in value.values() if isinstance(value, dict) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise InputError("CONFIG", where, name, f"a finite number is expected, got {number}")
    if isinstance(value, int | float):
        if key.at_least is not None and value < key.at_least:
            raise InputError("CONFIG", where, name, f"{value} is too small: at least {key.at_least} is expected")
        if key.at_most is not None and value > key.at_most:
            raise InputError("CONFIG", where, name, f"{value} is too large: at most {key.at_most} is expected")
    return value


def _typed(kind: Any, value: Any, name: str, where: object) -> Any:
    """The value as the field's type: an integer may stand for a float, nothing else is converted."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return None if value is None else _typed(next(a for a in arguments if a is not type(None)), value, name, where)
    origin = typing.get_origin(kind)
    if origin is list and isinstance(value, list | tuple):
        return [_typed(arguments[0], v, f"{name}[{i}]", where) for i, v in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _typed(arguments[1], v, f"{name}.{k}", where) for k, v in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, name, where)  # type: ignore[arg-type]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    expected = getattr(kind, "__name__", str(kind)) if origin is None else origin.__name__
    raise InputError("CONFIG", where, name, f"{expected} is expected, got {type(value).__name__} {value!r}")


def to_yaml(config: Config) -> str:
    """The resolved configuration as text (a run's `config.yaml`)."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, where: object) -> Config:
    """Reads what `to_yaml` wrote, checked like the command line; InputError names the key."""
    return from_dict(parse_yaml(text, where), where)
