"""A configuration object of the earlier systems as our typed one: nested mappings, OmegaConf's included, or `Config` itself.

    {"model": {"type": "multimodal_mmdit", "hidden_size": 64, ...}, "loss": {...}}   ->   Config
    {"hidden_size": 64, ...}  (the group `model` alone)                              ->   Config

The same table of old spellings as on the command line, and the same refusals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lgdlm.compat import rewrite_file
from lgdlm.config import Config
from lgdlm.errors import InputError
from lgdlm.schema import as_dict, from_dict, groups

WHERE = "config"


def read_config(config: Any, denoiser: str, **model: Any) -> Config:
    """The checked configuration with `denoiser`, and with the keys `model` on top. None stands for the defaults.

    Raises InputError (CONFIG): an unknown key or value, another denoiser, or a value that contradicts one of `model`.
    """
    values = rewrite_file(_groups(config), WHERE)
    named = next((entry["override model"] for entry in values.pop("defaults") if isinstance(entry, Mapping)), denoiser)
    if named != denoiser:
        raise InputError("CONFIG", WHERE, "model.type", f"{named} is another network than this class builds ({denoiser})")
    own = {name: value for name, value in values.get("model", {}).items() if value is not None}
    for name, value in model.items():
        if name in own and own[name] != value:
            raise InputError("CONFIG", WHERE, f"model.{name}", f"{own[name]!r} in the configuration and {value!r} as an argument; give one")
    return from_dict({**values, "model": {"denoiser": denoiser, **own, **model}}, WHERE)


def _groups(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Config):
        return as_dict(config)
    if not isinstance(config, Mapping):
        raise InputError("CONFIG", WHERE, "config", f"a mapping of groups is expected, got {type(config).__name__}")
    values = {str(name): _plain(value) for name, value in config.items()}
    return values if not values or set(values) & {*groups(), "hydra", "denoiser_type"} else {"model": values}


def _plain(value: Any) -> Any:
    """Nested mappings and sequences of any class as dictionaries and lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
