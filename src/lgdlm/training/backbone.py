"""Pretrained weights in a run: the configuration takes their sizes, the model their tensors, and what may train is said once.

    sized     config + weights, or the checkpoint that goes on from them  ->  config with every size and the weights' name filled in
    begin     a fresh model adopts the weights' rows of the data's tokenizer
    settle    frozen is frozen, in a fresh run and in one that goes on
    origins   SHA-256 of the weights' files: from checkpoint to checkpoint, so that retention is measured against the same weights

After `sized` a configuration is complete: a checkpoint is rebuilt from its own `config.yaml` and never asks for the weights again.
What goes on from a checkpoint that grew out of weights grew out of them too, whether its own words name them or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgdlm.config import Config, RWKV7Model
from lgdlm.data.storage import digest, write_json
from lgdlm.data.tokenizer import Tokenizer, load_tokenizer
from lgdlm.data.tokenizer_identity import FILE as IDENTITY
from lgdlm.data.vocabulary import Vocabulary
from lgdlm.data.vocabulary_tokenizer import VocabularyTokenizer
from lgdlm.data.world_vocabulary import WORLD_SHA256, WORLD_SIZE, read_world_vocabulary
from lgdlm.errors import InputError
from lgdlm.models.adoption import AdoptionReport, adopt, freeze
from lgdlm.models.hub import locate
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.pretrained import Pretrained, read_pretrained, weight_files
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.schema import from_yaml
from lgdlm.training.checkpoint import CONFIG, read_state

FROM_WEIGHTS = (
    "hidden_size", "n_blocks", "head_size", "ffn_ratio", "ranks", "published_ends", "embedding_dim", "tie_embeddings", "use_rwkv_lm_head",
)  # fmt: skip
NAMES = ("rwkv_local_path", "rwkv_name", "rwkv_revision")
REPORT, ORIGINS = "pretrained.json", "pretrained"  # a file of the run; an entry of a checkpoint's state


def source_of(config: Config) -> Callable[[], Path | None] | None:
    """How to find the weights that `model.rwkv_*` name; None where none are named. Finding may ask the hub, naming does not."""
    model = config.model
    if not isinstance(model, RWKV7Model) or (model.rwkv_local_path is None and model.rwkv_name is None):
        return None
    return lambda: locate(model.rwkv_name, model.rwkv_revision, model.rwkv_local_path)


def sized(config: Config, checkpoint: Path | None) -> tuple[Config, Pretrained | None]:
    """The configuration with the sizes of its weights, and the weights where a fresh model needs them.

    `checkpoint`: what the run goes on from, or starts warm from; its sizes are taken, and the name of its weights where the
    configuration names none. The weights are then not read.
    Raises InputError: those of `locate` and `read_pretrained`, and CONFIG for keys that contradict the weights.
    """
    if checkpoint is not None:
        config = _grown(config, checkpoint)
    find, model = source_of(config), config.model
    if not isinstance(model, RWKV7Model):
        return config, None
    if find is None:
        if model.freeze_backbone:
            message = "there are no pretrained weights to freeze: name them by model.rwkv_local_path or model.rwkv_name, or leave it out"
            raise InputError("CONFIG", "config", "model.freeze_backbone", message)
        return config, None
    if model.token_init != "random":
        message = f"{model.token_init} would replace the pretrained token rows; use random"
        raise InputError("CONFIG", "config", "model.token_init", message)
    if checkpoint is not None:
        return config, None
    path = find()
    assert path is not None
    weights = read_pretrained(path)
    s = weights.sizes
    model = replace(
        model,
        hidden_size=s.hidden_size,
        n_blocks=s.n_blocks,
        head_size=s.head_size,
        ffn_ratio=s.ffn_size / s.hidden_size,
        ranks=s.ranks,
        embedding_dim=0,
        published_ends=True,
        tie_embeddings=s.tied if model.use_rwkv_lm_head else model.tie_embeddings,
    )
    return replace(config, model=model), weights


def _grown(config: Config, checkpoint: Path) -> Config:
    """The configuration with what `checkpoint` took from its weights; unchanged where neither names any."""
    model, theirs = config.model, from_yaml((checkpoint / CONFIG).read_text(encoding="utf-8"), checkpoint / CONFIG).model
    if not isinstance(model, RWKV7Model):
        return config
    named = source_of(config) is not None
    if not isinstance(theirs, RWKV7Model) or not theirs.published_ends:
        if named:
            message = "did not grow out of pretrained weights: leave out model.rwkv_local_path and model.rwkv_name, or the checkpoint"
            raise InputError("CONFIG", checkpoint, "model.rwkv_local_path", message)
        return config
    taken = FROM_WEIGHTS if named else (*FROM_WEIGHTS, *NAMES)
    return replace(config, model=replace(model, **{name: getattr(theirs, name) for name in taken}))


def starts_from_scratch(config: Config) -> bool:
    """Whether a fresh RWKV-7 run of this configuration, still as the user gave it, has neither weights nor a checkpoint behind it."""
    model = config.model
    return isinstance(model, RWKV7Model) and source_of(config) is None and model.checkpoint_path is None


def begin(model: TextLatentDiffusion, weights: Pretrained, config: Config, tokenizer: Tokenizer, run: Path) -> AdoptionReport:
    """Let a fresh model adopt the weights; what became of each tensor is written to `run/pretrained.json`."""
    denoiser, chosen = model.denoiser, config.model
    assert isinstance(denoiser, RWKVDenoiser)
    assert isinstance(chosen, RWKV7Model)
    report = adopt(denoiser, weights.rows(vocabulary_rows(tokenizer, weights)), backward=chosen.backward_init)
    report = replace(report, files=_digests(weights))
    write_json(run / REPORT, report.to_dict())
    return report


def origins(adopted: AdoptionReport | None, checkpoint: Path | None) -> dict[str, Any]:
    """The entry of a checkpoint's state that says which files the model grew out of: those `adopted`, or those of the `checkpoint` before.

    {} for a model that grew out of none.
    """
    files = adopted.files if adopted is not None else read_state(checkpoint).get(ORIGINS) if checkpoint is not None else None
    return {ORIGINS: files} if files else {}


def adopted_weights(config: Config, tokenizer: Tokenizer, checkpoint: Path) -> Pretrained | None:
    """The weights that a restored checkpoint grew out of, in the rows of its tokenizer; None for one that started from nothing.

    Raises InputError: those of `locate` and `read_pretrained`, CHANGED_FILE where the checkpoint's state names other bytes, and
    UNKNOWN_ORIGIN where it names none.
    """
    if (find := source_of(config)) is None:
        return None
    path = find()
    assert path is not None
    weights = read_pretrained(path)
    known = read_state(checkpoint).get(ORIGINS)
    if known is None:
        message = f"the checkpoint does not say which files it grew out of, so nothing shows that {path} is one of them"
        raise InputError("UNKNOWN_ORIGIN", checkpoint, ORIGINS, message)
    if known != _digests(weights):
        raise InputError("CHANGED_FILE", path, "weights", "are not those that the run started from")
    return weights.rows(vocabulary_rows(tokenizer, weights))


def _digests(weights: Pretrained) -> dict[str, str]:
    return {path.name: str(digest(path)["sha256"]) for path in weight_files(weights.source)}


def settle(model: TextLatentDiffusion, config: Config) -> None:
    """Freeze what `freeze_backbone` and `train_lm_head` say, in a model that grew out of pretrained weights."""
    chosen = config.model
    if source_of(config) is not None and isinstance(model.denoiser, RWKVDenoiser) and isinstance(chosen, RWKV7Model):
        freeze(model.denoiser, backbone=chosen.freeze_backbone is not False, head=not chosen.train_lm_head)


def vocabulary_rows(tokenizer: Tokenizer, weights: Pretrained) -> Tensor | None:
    """The row of the weights for each id of the tokenizer, int64 [V]; None where they are the same.

    The weights' vocabulary is the tokenizer saved beside them, or RWKV World where they have its 65,536 rows. Ids are matched by the
    bytes they stand for, so a pruned vocabulary finds its rows. Raises InputError (TOKENIZER) where an id has none.
    """
    where, count = weights.source, weights.sizes.vocab_size
    beside = where if where.is_dir() else where.parent
    if (beside / IDENTITY).is_file():
        theirs = load_tokenizer(beside)
        if theirs.vocab_size > count:
            raise InputError(
                "TOKENIZER", where, "vocabulary", f"{count} token rows, and the tokenizer beside them has {theirs.vocab_size} ids"
            )
        if theirs.identity()["sha256"] == tokenizer.identity()["sha256"]:
            return None if theirs.vocab_size == count else torch.arange(theirs.vocab_size)
        vocabulary = theirs.vocabulary if isinstance(theirs, VocabularyTokenizer) else None
    elif count == WORLD_SIZE:
        if tokenizer.identity()["sha256"] == WORLD_SHA256:
            return None
        vocabulary = read_world_vocabulary()
    else:
        message = (
            f"{count} token rows are no RWKV World vocabulary: put the folder of their tokenizer (tokenizer_identity.json) beside them"
        )
        raise InputError("TOKENIZER", where, "vocabulary", message)
    if vocabulary is None or not isinstance(tokenizer, VocabularyTokenizer):
        message = (
            f"the data's tokenizer ({tokenizer.kind}) is not that of the weights: prepare the data with tokenizer=rwkv or rwkv_compact"
        )
        raise InputError("TOKENIZER", where, "vocabulary", message)
    return _matched(tokenizer.vocabulary, vocabulary, tokenizer.eos_id, where)


def _matched(ours: Vocabulary, theirs: Vocabulary, end: int, where: Path) -> Tensor:
    row_of = {token: i for i, token in reversed(list(enumerate(theirs.tokens))) if token}
    rows = []
    for i, token in enumerate(ours.tokens):
        row = 0 if i == end else row_of.get(token)  # id 0 ends a text in every vocabulary of bytes
        if row is None:
            raise InputError(
                "TOKENIZER", where, f"id {i}", f"{token!r} is no token of the weights' vocabulary: prepare with tokenizer=rwkv"
            )
        rows.append(row)
    return torch.tensor(rows)
