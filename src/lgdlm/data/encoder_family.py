"""How the families of embedding models want to be used: prompt, pooling, normalisation.

    vector = normalise?( dense layers?( pool( model( prompt + text ) ) ) )

`FAMILIES` holds what the authors of each family prescribe. A folder in the layout of sentence-transformers says so itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lgdlm.data.sentence_layout import SentenceLayout, read_json_object, read_sentence_layout
from lgdlm.errors import InputError


@dataclass(frozen=True)
class Family:
    """`prompts` by role; "{instruction}" in one is replaced by the caller's. `role` is the default one."""

    pooling: tuple[str, ...]
    normalise: bool
    prompts: dict[str, str] = field(default_factory=lambda: {"passage": ""})
    role: str = "passage"


INSTRUCT = {"passage": "", "query": "Instruct: {instruction}\nQuery: "}
FAMILIES: dict[str, Family] = {
    # E5's authors: "query: " on both sides where embeddings are compared with each other or used as features
    "e5": Family(("mean",), True, {"query": "query: ", "passage": "passage: "}, role="query"),
    "e5-instruct": Family(("mean",), True, INSTRUCT),
    "bge": Family(("cls",), True, {"passage": "", "query": "Represent this sentence for searching relevant passages: "}),
    "qwen3-embedding": Family(("lasttoken",), True, {"passage": "", "query": "Instruct: {instruction}\nQuery:"}),
    "sonar-port": Family(("mean",), False),
    "t5": Family(("mean",), False),
    "sentence-transformers": Family((), False),  # everything from the folder
}
_BY_NAME = (  # (family, its name as a word of the model's name, model types)
    ("e5-instruct", r"e5\b.*instruct", ("bert", "xlm-roberta")),
    ("e5", r"e5", ("bert", "xlm-roberta")),
    ("bge", r"bge", ("bert", "xlm-roberta")),
    ("qwen3-embedding", r"qwen3-embedding", ("qwen3",)),
)
_BY_TYPE = {"t5": "t5", "mt5": "t5", "umt5": "t5", "m2m_100": "sonar-port"}


@dataclass(frozen=True)
class Recipe:
    """What one model is used with; `layout` says where its parts lie."""

    family: str
    pooling: tuple[str, ...]
    normalise: bool
    role: str
    instruction: str | None
    prompt: str
    layout: SentenceLayout


def resolve_recipe(folder: Path, family: str | None, role: str | None, instruction: str | None) -> Recipe:
    """The recipe of the model in `folder`, of the named `family` or of the one its files tell.

    Raises InputError: UNKNOWN_VALUE (family or role), UNKNOWN_FAMILY (the files do not tell), BAD_ENCODER (the folder cannot
    be read), MISSING_KEY (the role's prompt needs an instruction).
    """
    layout = read_sentence_layout(folder)
    config = read_json_object(layout.model_folder / "config.json")
    if family is not None and family not in FAMILIES:
        raise InputError("UNKNOWN_VALUE", folder, "prepare.family", f"'{family}' is not one of {', '.join(FAMILIES)}")
    name = family or detect_family(folder, config, layout)
    facts = FAMILIES[name]
    if name == "sentence-transformers":
        if not layout.pooling:
            raise InputError("BAD_ENCODER", folder, "modules.json", "has no pooling module; name the family: prepare.family=...")
        facts = replace(facts, pooling=layout.pooling, normalise=layout.normalise, prompts=layout.prompts, role=layout.role)
    elif family is None and layout.pooling not in ((), facts.pooling):
        said, wanted = "+".join(layout.pooling), "+".join(facts.pooling)
        message = f"its files say pooling '{said}', the family {name} has '{wanted}'; set prepare.family={name} or sentence-transformers"
        raise InputError("UNKNOWN_FAMILY", folder, "prepare.family", message)
    elif layout.dense:
        message = f"has dense layers, which the family {name} does not know; use prepare.family=sentence-transformers"
        raise InputError("UNKNOWN_FAMILY", folder, "prepare.family", message)
    role = role or facts.role
    prompt = _prompt(folder, facts.prompts, role, instruction)
    if prompt and not layout.include_prompt:
        raise InputError("BAD_ENCODER", folder, "include_prompt", "pooling without the prompt is not offered; choose the role without one")
    return Recipe(name, facts.pooling, facts.normalise, role, instruction, prompt, layout)


def detect_family(folder: Path, config: dict[str, Any], layout: SentenceLayout) -> str:
    """From the model's name and type, else from `modules.json`. Raises InputError (UNKNOWN_FAMILY)."""
    kind = str(config.get("model_type"))
    # a snapshot in the cache of the hub is named by a hash; the model's name is two folders up
    folder_name = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name
    names = f"{folder_name} {config.get('_name_or_path', '')}".lower()
    for family, word, kinds in _BY_NAME:
        if kind in kinds and re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", names):
            return family
    if layout.pooling:
        return "sentence-transformers"
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    message = f"cannot tell how a model of type {kind} is pooled; set prepare.family to one of {', '.join(FAMILIES)}"
    raise InputError("UNKNOWN_FAMILY", folder, "prepare.family", message)


def _prompt(folder: Path, prompts: dict[str, str], role: str, instruction: str | None) -> str:
    if role not in prompts:
        raise InputError("UNKNOWN_VALUE", folder, "prepare.encoder_role", f"'{role}' is not one of {', '.join(prompts)}")
    prompt, key = prompts[role], "prepare.encoder_instruction"
    if "{instruction}" not in prompt:
        if instruction is not None:
            raise InputError("UNKNOWN_VALUE", folder, key, f"the prompt of role '{role}' takes none; leave it out")
        return prompt
    if not instruction:
        raise InputError("MISSING_KEY", folder, key, f"the prompt of role '{role}' needs one: what the vectors are for")
    return prompt.replace("{instruction}", instruction)
