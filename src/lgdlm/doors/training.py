"""The training commands: Hydra's words as they were, on `lgdlm train`.

    train_rwkv.py          --config-name rwkv_mmdit      (the default)
    train_mmdit.py         --config-name mmdit
    train_mmdit_stable.py  --config-name mmdit_stable

What those systems took for granted is added where nothing is said of it: the folders of the data, and that the run is
`logging.save_dir` itself, so that `training.resume=<save_dir>/epoch_XXX` and `model.checkpoint_path=<save_dir>/checkpoint.pt` find it.
The RWKV system also had one tokenizer: tokens that do not say whose they are belong to the World vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lgdlm.cli.__main__ import main
from lgdlm.compat import LISTS, RENAMED
from lgdlm.data.manifest import has_manifest
from lgdlm.data.tokenizer_identity import FILE as IDENTITY

RWKV = ("rwkv_mmdit", "rwkv_small", "rwkv_tiny", "rwkv_block_causal")
CONFIGS = ("mmdit", "mmdit_stable", "mmdit_cycle_vae", "mmdit_cycle_vae_cluster", *RWKV)
DATA = {"data.latent_dir": "preprocessed_data/qwen_32d", "data.token_dir": "preprocessed_data/rwkv_tokens"}
FLAGS = {"-cn": "--config-name", "-cp": "--config-path", "-cd": "--config-dir", "--config-dir": "--config-path"}


def train_rwkv() -> int:
    """The exit code of `rwkv_diffusion_rnn/train_rwkv.py`."""
    return main(train_words(sys.argv[1:], "rwkv_mmdit"), last=True)


def train_mmdit() -> int:
    """The exit code of `latentDLM_mmdit/train_mmdit.py`."""
    return main(train_words(sys.argv[1:], "mmdit"), last=True)


def train_mmdit_stable() -> int:
    """The exit code of `latentDLM_mmdit/train_mmdit_stable.py`."""
    return main(train_words(sys.argv[1:], "mmdit_stable"), last=True)


def train_words(arguments: Sequence[str], config_name: str) -> list[str]:
    """The words of `lgdlm train` for an old command line. `--config-path P --config-name X` means P/X.yaml where there is one."""
    flags, words, rest = {"--config-name": config_name}, list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        flag = FLAGS.get(flag, flag)
        if flag in ("--config-name", "--config-path") and (equals or rest):
            flags[flag] = value if equals else rest.pop(0)
        else:
            words.append(word)
    name = flags["--config-name"].removesuffix(".yaml")
    own = Path(flags.get("--config-path", "."), f"{name}.yaml")
    chosen = name if name in CONFIGS else flags["--config-name"]
    if own.is_file() and ("--config-path" in flags or name not in CONFIGS):
        chosen = str(own)
    words += taken_for_granted(words) if chosen in CONFIGS else []
    return ["train", "--config-name", chosen, *words, *(vocabulary_of(words) if chosen in RWKV else [])]


def taken_for_granted(words: Sequence[str]) -> list[str]:
    """The words that an old configuration held without being asked, where `words` say nothing about them."""
    named = {word.partition("=")[0] for word in words}
    said = {RENAMED.get(name, "data.latent_dir" if name in LISTS else name) for name in named}
    added = [] if "data.latent_dir" in said else [f"{name}={value}" for name, value in DATA.items() if name not in said]
    if "logging.save_dir" in said and "logging.run_name" not in said:
        added.append("logging.run_name=.")
    return added


def vocabulary_of(words: Sequence[str]) -> list[str]:
    """`tokenizer.path=rwkv` where tokens lie in a folder without their tokenizer and `words` name none; else nothing."""
    said = {RENAMED.get(name, name): value for name, _, value in (word.partition("=") for word in words)}
    tokens, latents = said.get("data.token_dir"), said.get("data.latent_dir")
    if not tokens or "tokenizer.path" in said or Path(tokens, "tokenizer", IDENTITY).is_file():
        return []
    return [] if latents is not None and has_manifest(latents) else ["tokenizer.path=rwkv"]
