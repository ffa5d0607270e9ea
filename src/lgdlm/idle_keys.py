"""Keys of the earlier systems that mean nothing any more: accepted, each with one line that says why.

    IGNORED[name] = why                     whatever the value
    ONLY[name] = (values, why)              these values say what happens anyway; another one asks for what is not offered, and is refused

Of Hydra's own keys only this one is idle; the others, which say where to look for files and what to start, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgdlm.errors import InputError

IGNORED: dict[str, str] = {
    "data.num_workers": "shards are memory-mapped, so loading needs no processes of its own",
    "data.initial_scan_limit": "every file is checked before step 1; nothing is scanned in part",
    "data.val_ratio": "the held-out texts are chosen when data are prepared (prepare.validation)",
    "data.cache_dir": "nothing is downloaded here; the hub's own cache is HF_HOME",
    "data.local_files_only": "nothing is downloaded here",
    "tokenizer.cache_dir": "nothing is downloaded here; the hub's own cache is HF_HOME",
    "tokenizer.local_files_only": "tokenizers are local folders or packaged vocabularies, never downloads",
    "tokenizer.add_mask_token": "the mask is one beyond the vocabulary, whatever the tokenizer",
    "tokenizer.mask_token_id": "the mask is one beyond the vocabulary, whatever the tokenizer",
    "tokenizer.pad_token_id": "nothing is padded, and a mask says which tokens are real",
    "tokenizer.vocab_size": "the data's tokenizer says how many ids there are",
    "model.add_mask_token": "the mask is one beyond the vocabulary, whatever the tokenizer",
    "model.pad_token_strategy": "nothing is padded, and a mask says which tokens are real",
    "model.cond_dim": "the condition is as wide as the network (hidden_size)",
    "model.num_residual_streams": "there is one residual stream",
    "model.rwkv_trust_remote_code": "weights are read as tensors, and no code of a repository is ever run",
    "model.use_stub_if_no_mmdit": "the network is our own and always there",
    "training.world_size": "torchrun says how many processes there are",
    "training.ddp_find_unused_parameters": "what a mode does not use is known before the step",
    "loss.loss_scale": "the optimizers do not depend on a constant factor of the loss",
    "loss.reduction": "losses are always means over the real tokens of the global batch (tokenmean)",
    "logging.wandb_entity": "the tracker reads WANDB_ENTITY itself",
    "logging.wandb_dir": "the tracker's files lie in the run's folder",
    "hydra.job.chdir": "there is no Hydra run directory: commands run where they are started",
}

ONLY: dict[str, tuple[tuple[str, ...], str]] = {
    "data.load_tokens": (("true",), "tokens are always read; latents alone train nothing here"),
    "data.use_preprocessed": (("true",), "texts are tokenized once, by lgdlm prepare, before training"),
    "model.cluster_size": (("0",), "there are no clusters of tokens"),
    "model.latent_diffusion_process": (("continuous", "gaussian"), "the latent's process is Gaussian diffusion"),
    "model.p_uniform": (("0",), "text noise masks tokens and never exchanges them, so that what is visible is right"),
    "model.use_multimodal": (("true",), "every model has both modalities; loss.loss_type says what is learned"),
    "loss.text_kl_weight": (("0",), "the masked cross entropy is the whole of the text's bound"),
    "loss.use_cross_entropy": (("true",), "the masked cross entropy is the text's loss"),
}


def idle(name: str, value: Any, where: object) -> str | None:
    """Why a key means nothing, or None for a key that does. Raises InputError (CONFIG) for a value that asks for what is not offered."""
    if why := IGNORED.get(name):
        return why
    if name not in ONLY:
        return None
    allowed, why = ONLY[name]
    if _plain(value) not in allowed:
        raise InputError("CONFIG", where, name, f"{value!r} is not offered: {why}; leave the key out")
    return why


def _plain(value: Any) -> str:
    """A value of YAML or of a word in one spelling: 0.0 and 0, True and true are the same."""
    text = str(value).lower()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def idle_in(values: Mapping[str, Any], where: object) -> list[tuple[str, str]]:
    """(name, why) of the idle keys of a YAML file's groups. Raises InputError as `idle`."""
    found = []
    for group, keys in values.items():
        if isinstance(keys, Mapping):
            named = {f"{group}.{key}": value for key, value in keys.items()}
            if isinstance(job := named.get("hydra.job"), Mapping):
                named = {**named, **{f"hydra.job.{key}": value for key, value in job.items()}}
            found += [(name, why) for name, value in named.items() if (why := idle(name, value, where)) is not None]
    return found


def taken_idle(values: dict[str, Any], where: object) -> None:
    """Removes them."""
    for name, _ in idle_in(values, where):
        *groups, key = name.split(".")
        inside = [values]
        for group in groups:
            inside.append(inside[-1][group])
        del inside[-1][key]
        if groups[0] == "hydra":  # no group of ours: nothing may be left of it
            for outer, group in zip(reversed(inside[:-1]), reversed(groups), strict=True):
                if not outer[group]:
                    del outer[group]
