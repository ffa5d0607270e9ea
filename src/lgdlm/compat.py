"""Old spellings, and what Hydra's grammar cannot read: the words of a command line, rewritten before Hydra sees them.

    RENAMED     training.loss_type=l2t            -> loss.loss_type=l2t
    CHOSEN      denoiser_type=rwkv                -> model=rwkv7       (the group, so that the schema changes with the network)
    IGNORED     data.num_workers=8                -> nothing, with a notice
    JSON        schedule='[{"type": "l2t"}]'      -> schedule=[{type:'l2t'}]
    text        model.checkpoint_path=a/epoch=1   -> taken as it is

The same table serves the keys of a YAML file. Both spellings of one key with different values are an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lgdlm.config import MODELS
from lgdlm.errors import InputError
from lgdlm.schema import all_keys, nearest

RENAMED: dict[str, str] = {"training.loss_type": "loss.loss_type"}

CHOSEN: dict[str, str] = {"denoiser_type": "model", "model.denoiser_type": "model", "model.denoiser": "model"}

DENOISER_NAMES: dict[str, str] = {"rwkv": "rwkv7"}

IGNORED: dict[str, str] = {
    "data.num_workers": "shards are memory-mapped, so loading needs no processes of its own",
    "model.rwkv_trust_remote_code": "weights are read as tensors, and no code of a repository is ever run",
    "loss.reduction": "losses are always means over the real tokens of the global batch (tokenmean)",
}

# parts of a parameter's name, and what the earlier systems called them: patterns may be written for either
PARTS: dict[str, str] = {"denoiser.backbone.": "rwkv.", ".att.": ".time_mix.", ".att_back.": ".time_mix.", ".ffn.": ".channel_mix."}

STAGE2 = "stage2_variational"  # as a stage_schedule it chooses the objective where loss_type is not given beside it

MODES = ("l2t", "t2l", "unconditional")  # the order of a list of mode weights

MODE_NAMES: dict[str, str] = {"stage1_coupling": "unconditional"}


def rewrite(name: str, value: str) -> tuple[str, str]:
    """One `name=value` word in today's spelling; the value still as the user typed it."""
    if name in CHOSEN:
        name = CHOSEN[name]
    if name == "model":
        return name, DENOISER_NAMES.get(value, value)
    return RENAMED.get(name, name), value


def rewrite_words(words: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """`name=value` words as (words for Hydra, texts by name). InputError when two spellings of one key disagree.

    Text goes past Hydra: a path may hold any character, and its grammar gives `=`, commas, braces and accents a meaning.
    """
    seen: dict[str, tuple[str, str]] = {}
    for_hydra: list[str] = []
    texts: dict[str, str | None] = {}
    for word in words:
        old, _, value = word.partition("=")
        name, value = rewrite(old, value)
        if name in IGNORED:
            continue
        before = seen.get(name)
        if before and before[0] != old and before[1] != value:
            raise _disagree(before[0], before[1], old, value, "command-line")
        seen[name] = (old, value)
        key = all_keys().get(name)
        if key is not None and key.type in (str, str | None):
            texts[name] = None if value == "null" else _unquoted(value)
        else:
            for_hydra.append(f"{name}={_grammar_of(name, value)}")
    if texts.get("training.stage_schedule") == STAGE2 and "loss.loss_type" not in texts:
        texts["loss.loss_type"] = STAGE2
    return for_hydra, texts


def _grammar_of(name: str, value: str) -> str:
    """A value that is JSON, or JSON with bare keys, in Hydra's grammar; anything else as it is."""
    if value.lstrip()[:1] not in ("[", "{"):
        return value
    for text in (value, re.sub(r"([{,]\s*)([A-Za-z_]\w*)\s*:", r'\1"\2":', value)):
        try:
            return _grammar(_weights(name, json.loads(text)), name)
        except json.JSONDecodeError:
            continue
    return value


def rewrite_file(values: Mapping[str, Any], where: object) -> dict[str, Any]:
    """A YAML file's groups in today's spelling, with the denoiser as a choice of group in `defaults`."""
    found = {group: dict(keys) if isinstance(keys, Mapping) else keys for group, keys in values.items()}
    for old, new in RENAMED.items():
        (old_group, old_key), (new_group, new_key) = old.split("."), new.split(".")
        if isinstance(found.get(old_group), dict) and old_key in found[old_group]:
            value = found[old_group].pop(old_key)
            if found.setdefault(new_group, {}).setdefault(new_key, value) != value:
                raise _disagree(old, value, new, found[new_group][new_key], where)
    for name in IGNORED:
        group, _, key = name.partition(".")
        if isinstance(found.get(group), dict):
            found[group].pop(key, None)
    if isinstance(training := found.get("training"), dict) and training.get("stage_schedule") == STAGE2:
        found.setdefault("loss", {}).setdefault("loss_type", STAGE2)
    denoiser = _taken_denoiser(found)
    if denoiser is not None and denoiser not in MODELS:
        raise InputError("CONFIG", where, "model.denoiser", f"{denoiser!r} is no denoiser; {nearest(denoiser, MODELS)}")
    training = found.get("training")
    if isinstance(training, dict) and "mode_weights" in training:
        training["mode_weights"] = _weights("training.mode_weights", training["mode_weights"])
    if "defaults" not in found:
        found["defaults"] = ["default", *([{"override model": denoiser}] if denoiser else []), "_self_"]
    return found


def _taken_denoiser(found: dict[str, Any]) -> str | None:
    """Removes the denoiser's name, under whatever key it stands, and returns it in today's spelling."""
    name = found.pop("denoiser_type", None)
    model = found.get("model")
    if isinstance(model, dict):
        name = model.pop("denoiser_type", name)
        name = model.pop("denoiser", name)
    return None if name is None else DENOISER_NAMES.get(str(name), str(name))


def _weights(name: str, value: Any) -> Any:
    """Mode weights by name: a list follows MODES, and a mode left out has weight 0."""
    if name != "training.mode_weights":
        return value
    if isinstance(value, list):
        if len(value) != len(MODES):
            raise InputError("CONFIG", "command-line", name, f"{len(MODES)} weights are expected ({', '.join(MODES)}), got {len(value)}")
        value = dict(zip(MODES, value, strict=True))
    return (
        dict.fromkeys(all_keys()[name].default, 0.0) | {MODE_NAMES.get(k, k): v for k, v in value.items()}
        if isinstance(value, dict)
        else value
    )


def _disagree(old: str, value: Any, new: str, other: Any, where: object) -> InputError:
    return InputError("CONFIG", where, old, f"{value!r} and {new}={other!r} name the same key and differ; set one of them")


def _unquoted(value: str) -> str:
    """Text in one pair of quotes that nothing inside repeats means the text, as in a shell script that quotes twice."""
    match = re.fullmatch(r"(['\"])(.*)\1", value, re.S)
    return match[2] if match and match[1] not in match[2] else value


def _grammar(value: Any, name: str) -> str:
    """A JSON value in Hydra's grammar, whose mappings have bare keys."""
    if isinstance(value, dict):
        for k in value:
            if not re.fullmatch(r"[A-Za-z_]\w*", k):
                raise InputError("CONFIG", "command-line", name, f"{k!r} is no key")
        return "{" + ",".join(f"{k}:{_grammar(v, name)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_grammar(v, name) for v in value) + "]"
    return "'" + value.replace("'", "\\'") + "'" if isinstance(value, str) else json.dumps(value)


def parameter_names(name: str) -> tuple[str, str]:
    """A parameter's name, and its old spelling: denoiser.backbone.blocks.0.att.key.weight is rwkv.blocks.0.time_mix.key.weight too."""
    old = name
    for part, spelling in PARTS.items():
        old = old.replace(part, spelling)
    return name, old
