"""The data of a run: both splits opened and checked completely before step 1.

open_splits -> train, validation        or one error that lists every problem of both, as `lgdlm check` does
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lgdlm.config import Config, Data
from lgdlm.data.frame import Frame, frame_of, unfit
from lgdlm.data.inspect import Inspection, inspect_folder
from lgdlm.data.manifest import Manifest
from lgdlm.data.paired import PairedDataset
from lgdlm.data.problems import refuse
from lgdlm.data.sources import open_split
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from lgdlm.data.tokenizer_identity import FILE as IDENTITY
from lgdlm.errors import InputError

WIDTH, PRESENCE = "model.latent_dim", "data.use_external_latents"


def named_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names: a folder (ours or of Hugging Face), or `byte` or `rwkv`; else the one that lies beside
    the per-sample tokens of `data.token_dir`. None: the one saved with the data."""
    name = config.tokenizer.path
    if name is not None:
        return make_tokenizer("hf", path=name) if Path(name).is_dir() else make_tokenizer(name)
    beside = Path(config.data.token_dir) / "tokenizer"
    return load_tokenizer(beside) if config.data.token_dir and (beside / IDENTITY).is_file() else None


def eos_of(data: PairedDataset, tokenizer: Tokenizer | None) -> int:
    """The id that ends a text: the named tokenizer's, else that of the data's own. InputError where neither says it."""
    eos = tokenizer.eos_id if tokenizer is not None else data.manifest.tokenizer.get("eos_id")
    if not isinstance(eos, int):
        message = "the data carries no tokenizer: name the one that made its tokens"
        raise InputError("NO_TOKENIZER", data.folder or "data", "tokenizer.path", message)
    return eos


def open_splits(config: Config, tokenizer: Tokenizer | None) -> tuple[PairedDataset, PairedDataset]:
    """Train and validation split. Raises InputError for the first problem; with several, all of both splits are listed."""
    data, sources = config.data, sources_of(config.data)
    if not data.latent_dir and not sources:
        raise InputError("CONFIG", "config", "data.latent_dir", "expected the folder that `lgdlm prepare` wrote, got nothing")
    common = {"external_latents": data.use_external_latents, "verify": data.verify, **_expected(config, tokenizer)}
    try:
        train = open_split(data.latent_dir, sources, "train", limit=data.max_samples, **common)
        refuse(_other_tokenizer(config, tokenizer, train.manifest))
        held_out = open_split(data.latent_dir, sources, "validation", limit=data.max_val_samples, train=train, **common)
        for split in (train, held_out):
            refuse(unfit(split, _frame(config, tokenizer, train.manifest), data.latent_dir or "data.sources"))
    except InputError:
        refuse([problem for found in inspect_splits(config, tokenizer) for problem in found.problems])
        raise  # nothing is wrong with the folder: it is the configuration that does not suit it
    return train, held_out


def sources_of(data: Data) -> dict[str, float]:
    """Weights by folder of `data.sources`; empty: `data.latent_dir` alone. InputError where both are given, or one folder twice."""
    weights = {source.path: source.weight for source in data.sources}
    if weights and data.latent_dir:
        raise InputError("CONFIG", "config", "data.sources", f"stands for data.latent_dir={data.latent_dir}; leave one of the two out")
    if "" in weights:
        raise InputError("CONFIG", "config", "data.sources", "a source needs the path of a packed folder: [{path: FOLDER, weight: 1}]")
    if len(weights) < len(data.sources):
        raise InputError("CONFIG", "config", "data.sources", "names a folder twice; add up its weights")
    if weights and data.token_dir:
        raise InputError("CONFIG", "config", "data.token_dir", "belongs to the per-sample layout, and sources are packed; leave it out")
    return weights


def inspect_splits(
    config: Config,
    tokenizer: Tokenizer | None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    *,
    open_keys: Collection[str] = (),
) -> list[Inspection]:
    """Every problem that training on `config.data` would meet, folder by folder.

    Of `open_keys` (WIDTH, PRESENCE) the user said nothing: the data's own width, or whether they have latents at all, is right.
    """
    expected = _expected(config, tokenizer)
    if WIDTH in open_keys:
        expected["latent_dim"] = None
    inspections = []
    for folder in sources_of(config.data) or [config.data.latent_dir]:
        found = inspect_folder(
            folder,
            frame=lambda manifest: _frame(config, tokenizer, manifest),
            external_latents=None if PRESENCE in open_keys else config.data.use_external_latents,
            on_progress=on_progress,
            **expected,
        )
        if "VOCABULARY" not in found.kinds:  # which says the same
            found.problems += _other_tokenizer(config, tokenizer, found.manifest)
        inspections.append(found)
    return inspections


def _expected(config: Config, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the model expects of the data."""
    return {
        "token_dir": config.data.token_dir or None,
        "latent_dim": config.model.latent_dim,
        "vocab_size": None if tokenizer is None else tokenizer.vocab_size,
    }


def _frame(config: Config, tokenizer: Tokenizer | None, manifest: Manifest | None) -> Frame:
    named = tokenizer.eos_id if tokenizer is not None else None if manifest is None else manifest.tokenizer.get("eos_id")
    return frame_of(config.model.length, eos_id=named, max_length=config.model.max_seq_len, fill_multiple=config.model.row_multiple)


def _other_tokenizer(config: Config, tokenizer: Tokenizer | None, manifest: Manifest | None) -> list[InputError]:
    if tokenizer is None or manifest is None or manifest.tokenizer.get("kind") == "external" or manifest.tokenizer == tokenizer.identity():
        return []
    message = f"is not the tokenizer of the data ({manifest.tokenizer.get('kind')}); leave it out to use the one saved with them"
    return [InputError("TOKENIZER", config.data.latent_dir, "tokenizer.path", message)]
