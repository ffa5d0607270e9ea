"""The folder layout of sentence-transformers, read as JSON: nothing in it is imported or run.

    modules.json [{"type": "...Transformer", "path": ""}, {"type": "...Pooling", "path": "1_Pooling"}, Dense?, Normalize?]

A folder without `modules.json` is a plain transformers model: the layout is then empty but for the model's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lgdlm.data.pooling import POOLINGS
from lgdlm.errors import InputError

_FLAGS = {  # how older versions name the poolings; the order in which several are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceLayout:
    """Where the parts of an embedding model lie and what its files say about them; `pooling` is empty where they are silent."""

    model_folder: Path
    pooling: tuple[str, ...] = ()
    normalise: bool = False
    dense: tuple[Path, ...] = ()
    prompts: dict[str, str] = field(default_factory=lambda: {"passage": ""})
    role: str = "passage"
    max_length: int | None = None
    lower_case: bool = False
    include_prompt: bool = True


def read_sentence_layout(folder: Path) -> SentenceLayout:
    """Raises InputError: MISSING_FILE (no folder), BAD_ENCODER (a file is malformed, or a module is not offered)."""
    if not folder.is_dir():
        raise InputError("MISSING_FILE", folder, "encoder", "is no local folder; give that of a model (nothing is looked up on the net)")
    if not (folder / "modules.json").is_file():
        return SentenceLayout(folder)
    model_folder, normalise, include_prompt = folder, False, True
    pooling: tuple[str, ...] = ()
    dense: list[Path] = []
    for module in _modules(folder / "modules.json"):
        kind, part = module["type"].split(".")[-1], _part(folder, module["path"])
        if kind == "Transformer":
            model_folder = part
        elif kind == "Pooling":
            facts = read_json_object(part / "config.json")
            pooling, include_prompt = _pooling(part, facts), facts.get("include_prompt", True) is not False
        elif kind == "Dense":
            dense.append(part)
        elif kind == "Normalize":
            normalise = True
        else:
            raise InputError("BAD_ENCODER", folder / "modules.json", "type", f"the module {module['type']} is not offered")
        if normalise and kind == "Dense":
            raise InputError("BAD_ENCODER", folder / "modules.json", "type", "a dense layer after the normalisation is not offered")
    length = _optional(model_folder / "sentence_bert_config.json")
    prompts, role = _prompts(_optional(folder / "config_sentence_transformers.json"))
    return SentenceLayout(
        model_folder=model_folder,
        pooling=pooling,
        normalise=normalise,
        dense=tuple(dense),
        prompts=prompts,
        role=role,
        max_length=length.get("max_seq_length"),
        lower_case=bool(length.get("do_lower_case")),
        include_prompt=include_prompt,
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError (BAD_ENCODER)."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("BAD_ENCODER", path, "file", f"cannot be read as JSON: {error!s:.120}") from None
    if not isinstance(content, dict):
        raise InputError("BAD_ENCODER", path, "file", "expected a JSON object")
    return content


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _modules(path: Path) -> list[dict[str, str]]:
    try:
        modules = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("BAD_ENCODER", path, "file", f"cannot be read as JSON: {error!s:.120}") from None
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules):
        raise InputError("BAD_ENCODER", path, "file", 'expected a list of {"type", "path"}')
    return sorted(modules, key=lambda module: module.get("idx", 0))


def _part(folder: Path, relative: object) -> Path:
    """A module's folder. Only its name is checked: a snapshot in the cache of the hub consists of links out of it."""
    if not isinstance(relative, str) or PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
        raise InputError("OUTSIDE", folder / "modules.json", "path", f"expected a folder below this one, got {relative!r:.60}")
    return folder / relative


def _pooling(part: Path, facts: dict[str, Any]) -> tuple[str, ...]:
    mode = facts.get("pooling_mode") or [name for flag, name in _FLAGS.items() if facts.get(flag)]
    names = (mode,) if isinstance(mode, str) else tuple(mode)
    unknown = [name for name in names if name not in POOLINGS]
    if unknown or not names:
        got = unknown[0] if unknown else "none"
        raise InputError("BAD_ENCODER", part / "config.json", "pooling_mode", f"expected some of {', '.join(POOLINGS)}, got {got}")
    return names


def _prompts(facts: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Prompts by role and the default role; a role without a prompt stands beside those that the files name."""
    named = {str(role): str(prompt) for role, prompt in (facts.get("prompts") or {}).items()}
    prompts = {"passage": named.get("document", ""), **named}
    return prompts, facts.get("default_prompt_name") or "passage"
