"""Old spellings, and what Hydra's grammar cannot read: the words of a command line, rewritten before Hydra sees them.

    RENAMED     training.loss_type=l2t            -> loss.loss_type=l2t
    LISTS       data.data_files.train=D/train_data.json  -> data.latent_dir=D
    CHOSEN      denoiser_type=rwkv                -> model=rwkv7       (the group, so that the schema changes with the network)
    VALUES      model.diffusion_process=mdlm      -> model.text_process=masked
    idle keys   data.num_workers=8                -> nothing, with a notice (`lgdlm.idle_keys`)
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
from lgdlm.idle_keys import idle, taken_idle
from lgdlm.schema import all_keys, nearest

RENAMED: dict[str, str] = {
    "training.loss_type": "loss.loss_type",
    "training.noise_schedule": "model.latent_beta_schedule",
    "data.data_dir": "data.latent_dir",
    "data.max_length": "model.max_seq_len",
    "data.tokenizer_path": "tokenizer.path",
    "model.diffusion_process": "model.text_process",
    "logging.log_dir": "logging.save_dir",
    "logging.log_every": "logging.log_freq",
    "logging.save_every": "training.save_every_n_steps",
    "logging.save_freq": "training.save_every_n_steps",
}

# the JSON lists, whose folder is all that has to be known: their names are fixed
LISTS: dict[str, str] = {"data.data_files.train": "train_data.json", "data.data_files.validation": "validation_data.json"}

CHOSEN: dict[str, str] = {"denoiser_type": "model", "model.denoiser_type": "model", "model.denoiser": "model", "model.type": "model"}

DENOISER_NAMES: dict[str, str] = {"rwkv": "rwkv7", "rwkv_diffusion_rnn": "rwkv7", "multimodal_mmdit": "mmdit"}

# values that have another name today, by today's key; the World vocabulary comes with a package, whatever repository names it
VALUES: dict[str, dict[str, str]] = {"model.text_process": {"mdlm": "masked"}, "tokenizer.path": {"BlinkDL/rwkv7-g1": "rwkv"}}

# null meant: as the weights have it, which is what leaving the key out means
FROM_WEIGHTS = ("model.hidden_size", "model.n_blocks", "model.n_heads")

# parts of a parameter's name, and what the earlier systems called them: patterns may be written for either
PARTS: dict[str, str] = {"denoiser.backbone.": "rwkv.", ".att.": ".time_mix.", ".att_back.": ".time_mix.", ".ffn.": ".channel_mix."}

LISTS_KEY = "data.latent_dir"

STAGE2 = "stage2_variational"  # as a stage_schedule it chooses the objective where loss_type is not given beside it

MODES = ("l2t", "t2l", "unconditional")  # the order of a list of mode weights

MODE_NAMES: dict[str, str] = {"stage1_coupling": "unconditional"}


def rewrite(name: str, value: str) -> tuple[str, str]:
    """One `name=value` word in today's spelling; the value still as the user typed it."""
    if name in LISTS:
        return LISTS_KEY, _folder_of_list(name, value)
    name = CHOSEN.get(name) or RENAMED.get(name, name)
    if name == "model":
        return name, DENOISER_NAMES.get(value, value)
    return name, VALUES.get(name, {}).get(value, value)


def _folder_of_list(name: str, value: str) -> str:
    folder, _, file = _unquoted(value).rpartition("/")
    if file != LISTS[name]:
        message = f"the lists are called {' and '.join(LISTS.values())}, in one folder: name that folder by data.latent_dir"
        raise InputError("CONFIG", "configuration", name, f"{message}; got {value!r}")
    return folder or "."


def rewrite_words(words: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """`name=value` words as (words for Hydra, texts by name). InputError when two spellings of one key disagree.

    Text goes past Hydra: a path may hold any character, and its grammar gives `=`, commas, braces and accents a meaning.
    """
    seen: dict[str, tuple[str, str]] = {}
    for_hydra: list[str] = []
    texts: dict[str, str | None] = {}
    for word in words:
        old, _, value = word.partition("=")
        if idle(old, value, "command-line") is not None or (old in FROM_WEIGHTS and value == "null"):
            continue
        name, value = rewrite(old, value)
        before = seen.get(name)
        if before and before[0] != old and before[1].rstrip("/") != value.rstrip("/"):
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
    taken_idle(found, where)
    for group, keys in found.items():
        for key, value in list(keys.items()) if isinstance(keys, dict) else []:
            if f"{group}.{key}" in FROM_WEIGHTS and value is None:
                del keys[key]
    if isinstance(model := found.get("model"), dict) and model.get("freeze_backbone") is True:
        del model["freeze_backbone"]  # a file's default, also where words take its weights away: what leaving it out means
    for old, value in _taken_old(found):
        new, value = (LISTS_KEY, _folder_of_list(old, str(value))) if old in LISTS else (RENAMED[old], value)
        group, _, key = new.partition(".")
        if found.setdefault(group, {}).setdefault(key, value) != value:
            raise _disagree(old, value, new, found[group][key], where)
    for name, others in VALUES.items():
        group, _, key = name.partition(".")
        if isinstance(found.get(group), dict) and found[group].get(key) in others:
            found[group][key] = others[found[group][key]]
    if isinstance(training := found.get("training"), dict) and training.get("stage_schedule") == STAGE2:
        found.setdefault("loss", {}).setdefault("loss_type", STAGE2)
    denoiser = _taken_denoiser(found, where)
    if denoiser is not None and denoiser not in MODELS:
        raise InputError("CONFIG", where, "model.denoiser", f"{denoiser!r} is no denoiser; {nearest(denoiser, MODELS)}")
    training = found.get("training")
    if isinstance(training, dict) and "mode_weights" in training:
        training["mode_weights"] = _weights("training.mode_weights", training["mode_weights"])
    if denoiser is not None or "defaults" not in found:
        below = [entry for entry in found.get("defaults", ["default"]) if entry != "_self_"]
        found["defaults"] = [*below, *([{"override model": denoiser}] if denoiser else []), "_self_"]
    return found


def _taken_old(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """Removes the keys with an old spelling and returns them with their values."""
    taken = []
    for old in RENAMED:
        group, _, key = old.partition(".")
        if isinstance(found.get(group), dict) and key in found[group]:
            taken.append((old, found[group].pop(key)))
    if isinstance(data := found.get("data"), dict) and isinstance(files := data.get("data_files"), Mapping):
        taken += [(f"data.data_files.{split}", path) for split, path in files.items() if f"data.data_files.{split}" in LISTS]
        if rest := {split: path for split, path in files.items() if f"data.data_files.{split}" not in LISTS}:
            data["data_files"] = rest  # no key of ours: refused with its name
        else:
            del data["data_files"]
    return taken


def _taken_denoiser(found: dict[str, Any], where: object) -> str | None:
    """Removes the denoiser's name, under whatever key it stands, and returns it in today's spelling."""
    names: dict[str, str] = {}
    for key in CHOSEN:
        group, _, name = key.rpartition(".")
        held = found.get(group) if group else found
        if isinstance(held, dict) and held.get(name) is not None:
            names[key] = DENOISER_NAMES.get(str(value := held.pop(name)), str(value))
    if len(set(names.values())) > 1:
        (old, value), (new, other) = list(names.items())[:2]
        raise _disagree(old, value, new, other, where)
    return next(iter(names.values()), None)


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
