"""From YAML and `key=value` words to one checked `Config`.

    schema (dataclasses) < shipped or own YAML < words of the command line

The dataclasses stand in Hydra's ConfigStore, so a key that no schema has cannot be composed. Only this file knows Hydra and
OmegaConf; there is no Hydra run directory and no Hydra logging.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

from lgdlm.cli.progress import say
from lgdlm.compat import rewrite_file, rewrite_words
from lgdlm.config import MODELS, Config, Model
from lgdlm.errors import InputError
from lgdlm.idle_keys import idle, idle_in
from lgdlm.schema import all_keys, from_dict, groups, nearest, other_denoiser, unknown_key
from lgdlm.strict_yaml import read_yaml

COMMAND_LINE = "command-line"
OWN_FILE = "own_file"
SWITCHES: dict[Any, tuple[str, ...]] = {bool: ("true", "false"), bool | None: ("true", "false", "null")}
NUMBER_LENGTH = 200  # Python itself refuses to read an integer of 4,301 digits


def compose(words: list[str], config_name: str = "default") -> Config:
    """The configuration of `config_name` (a shipped name, or the path of a YAML file) with `words` (`key=value`) on top.

    Raises InputError (CONFIG): an unknown key, group, name or value; two spellings that disagree; YAML that does not parse.
    """
    for word in words:
        name, _, value = word.partition("=")
        if (why := idle(name, value, COMMAND_LINE)) is not None:
            say(f"note: {word} is ignored: {why}")
    for_hydra, texts = rewrite_words(words)
    for name in texts:
        _check_word(name, "")
    for word in for_hydra:
        name, _, value = word.partition("=")
        _check_word(name, value)
        _plain_values(value, name, COMMAND_LINE)
    values = _composed(for_hydra, texts, config_name)
    try:
        return from_dict(values, COMMAND_LINE)
    except InputError as problem:
        if any(word.partition("=")[0] == problem.field for word in words):
            raise
        raise InputError(problem.code, config_name, problem.field, problem.message) from None


def shipped_configs() -> list[str]:
    """Names of the configurations inside the package."""
    folder = Path(__file__).parent.parent / "configs"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _check_word(name: str, value: str) -> None:
    """Refuses a key that no schema has and a denoiser that no table has, before Hydra sees them."""
    known = all_keys()
    if name == "model" and value not in MODELS:
        raise InputError("CONFIG", COMMAND_LINE, name, f"{value!r} is no denoiser; {nearest(value, MODELS)}")
    key = known.get(name) or known.get(name.rpartition(".")[0])  # a key, or one entry of a mapping
    if key is None and name not in groups():
        raise unknown_key(name, COMMAND_LINE)
    if key is not None and key.type in (int, float, int | None, float | None) and len(value) > NUMBER_LENGTH:
        raise InputError("CONFIG", COMMAND_LINE, name, f"a number is expected, got {len(value)} characters")
    allowed = None if key is None else SWITCHES.get(key.type)
    if allowed is not None and value.lower() not in allowed:
        raise InputError("CONFIG", COMMAND_LINE, name, f"{' or '.join(allowed)} is expected, got {value!r}")


def _composed(words: list[str], texts: dict[str, str | None], config_name: str) -> dict[str, Any]:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _store_schemas()
    where: object = COMMAND_LINE
    if config_name.endswith((".yaml", ".yml")):
        where = config_name
        _store_file(Path(config_name))
        config_name = OWN_FILE
    elif config_name not in shipped_configs():
        names = shipped_configs()
        raise InputError(
            "CONFIG", COMMAND_LINE, "--config-name", f"no configuration {config_name!r}; {nearest(config_name, names)}, or a .yaml file"
        )
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("lgdlm.configs", version_base="1.3"):
            config = hydra.compose(config_name, overrides=words)
        for name, text in texts.items():
            OmegaConf.update(config, name, None if text is None else _literal(text))
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError) as problem:
        raise _translated(problem, words, where) from problem


def _literal(text: str) -> str:
    """Text without interpolation: `${` is escaped, and so are the backslashes in front of it."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)


@cache
def _store_schemas() -> None:
    """One schema for the whole, one a denoiser. Frozen dataclasses become read-only nodes, which cannot be composed: thawed."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    def thawed(node: DictConfig) -> DictConfig:
        OmegaConf.set_readonly(node, None)  # type: ignore[arg-type]
        for name in node:
            child = node._get_node(name)
            if isinstance(child, DictConfig):
                thawed(child)
        return node

    store = ConfigStore.instance()
    store.store(name="schema", node=thawed(OmegaConf.structured(Config(model=Model()))))
    for name, kind in MODELS.items():
        store.store(group="model", name=name, node=thawed(OmegaConf.structured(kind)))


def _store_file(path: Path) -> None:
    """A user's own YAML beside the shipped ones; without a `defaults` list it stands on top of `default`."""
    from hydra.core.config_store import ConfigStore

    if not path.exists():
        raise InputError("CONFIG", path, "--config-name", f"no such file; shipped: {', '.join(shipped_configs())}")
    values = read_yaml(path)
    _plain_values(values, "", path)
    for name, why in idle_in(values, path):
        say(f"note: {name} of {path} is ignored: {why}")
    values = rewrite_file(values, path)
    for group, keys in values.items():
        if group not in groups() and group != "defaults":
            raise unknown_key(group, path, groups())
        for name in keys if isinstance(keys, dict) else []:
            if f"{group}.{name}" not in all_keys():
                raise unknown_key(f"{group}.{name}", path)
    ConfigStore.instance().store(name=OWN_FILE, node=values)


def _plain_values(value: Any, name: str, where: object) -> None:
    """Refuses what is no value: an object, and an interpolation that calls a function (`${oc.env:HOME}`) instead of naming a key."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _plain_values(key, name, where)
            _plain_values(item, f"{name}.{key}".lstrip("."), where)
    elif isinstance(value, str) and re.search(r"\$\{.*:", value, re.S):
        raise InputError("CONFIG", where, name, "only ${group.key} is interpolated; a resolver, which runs code, is not; write the value")
    elif not isinstance(value, str | int | float | None):
        raise InputError(
            "CONFIG", where, name, f"a text, number, list or mapping is expected, got {type(value).__name__}; put quotes around it"
        )


def _translated(problem: Exception, words: list[str], where: object) -> InputError:
    """Hydra's and OmegaConf's errors as one line that names the key."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    text = " ".join(str(problem).split())
    guilty = getattr(problem, "override", None) or next((w for w in words if w in text or w.partition("=")[0] in text), "configuration")
    field = guilty.partition("=")[0]
    for cause in _causes(problem):
        name = str(getattr(cause, "full_key", None) or "")
        parent = all_keys().get(name.rpartition(".")[0])
        if parent and isinstance(parent.default, dict) and isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return unknown_key(name, where, [f"{name.rpartition('.')[0]}.{k}" for k in parent.default])
        if name.startswith("model.") and name in all_keys() and isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return other_denoiser(name, where)
        if name:
            message = "null is no value for this key" if "not Optional" in str(cause) else str(cause).splitlines()[0]
            return InputError("CONFIG", where, name if name.partition(".")[0] in groups() else field, message)
    return InputError("CONFIG", where, field, text.partition(" See https:")[0])


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
