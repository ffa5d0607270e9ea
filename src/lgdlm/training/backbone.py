"""Pretrained weights in a run: the configuration takes their sizes, the model their tensors, and what may train is said once.

    sized     config + weights, or the checkpoint that goes on from them  ->  config with every size filled in
    begin     a fresh model adopts the weights' rows of the data's tokenizer
    settle    frozen is frozen, in a fresh run and in one that goes on

After `sized` a configuration is complete: a checkpoint is rebuilt from its own `config.yaml` and never asks for the weights again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from lgdlm.training.checkpoint import CONFIG

FROM_WEIGHTS = (
    "hidden_size", "n_blocks", "head_size", "ffn_ratio", "ranks", "published_ends", "embedding_dim", "tie_embeddings", "use_rwkv_lm_head",
)  # fmt: skip
REPORT = "pretrained.json"


def source_of(config: Config) -> Callable[[], Path | None] | None:
    """How to find the weights that `model.rwkv_*` name; None where none are named. Finding may ask the hub, naming does not."""
    model = config.model
    if not isinstance(model, RWKV7Model) or (model.rwkv_local_path is None and model.rwkv_name is None):
        return None
    return lambda: locate(model.rwkv_name, model.rwkv_revision, model.rwkv_local_path)


def sized(config: Config, checkpoint: Path | None) -> tuple[Config, Pretrained | None]:
    """The configuration with the sizes of its weights, and the weights where a fresh model needs them.

    `checkpoint`: what the run goes on from, or starts warm from; its sizes are taken, and the weights are not read.
    Raises InputError: those of `locate` and `read_pretrained`, and CONFIG for keys that contradict the weights.
    """
    find, model = source_of(config), config.model
    if find is None:
        return config, None
    assert isinstance(model, RWKV7Model)
    if model.token_init != "random":
        message = f"{model.token_init} would replace the pretrained token rows; use random"
        raise InputError("CONFIG", "config", "model.token_init", message)
    if checkpoint is not None:
        theirs = from_yaml((checkpoint / CONFIG).read_text(encoding="utf-8"), checkpoint / CONFIG).model
        if not isinstance(theirs, RWKV7Model) or not theirs.published_ends:
            message = "did not grow out of pretrained weights: leave out model.rwkv_local_path and model.rwkv_name, or the checkpoint"
            raise InputError("CONFIG", checkpoint, "model.rwkv_local_path", message)
        return replace(config, model=replace(model, **{name: getattr(theirs, name) for name in FROM_WEIGHTS})), None
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


def begin(model: TextLatentDiffusion, weights: Pretrained, config: Config, tokenizer: Tokenizer, run: Path) -> AdoptionReport:
    """Let a fresh model adopt the weights; what became of each tensor is written to `run/pretrained.json`."""
    denoiser, chosen = model.denoiser, config.model
    assert isinstance(denoiser, RWKVDenoiser)
    assert isinstance(chosen, RWKV7Model)
    report = adopt(denoiser, weights.rows(vocabulary_rows(tokenizer, weights)), backward=chosen.backward_init)
    write_json(run / REPORT, {**report.to_dict(), "files": _digests(weights)})
    return report


def adopted_weights(config: Config, tokenizer: Tokenizer, run: Path) -> Pretrained | None:
    """The weights that a restored run grew out of, in the rows of its tokenizer; None for a run that started from nothing.

    Raises InputError: those of `locate` and `read_pretrained`, and CHANGED_FILE where `run/pretrained.json` names other bytes.
    """
    if (find := source_of(config)) is None:
        return None
    path = find()
    assert path is not None
    weights = read_pretrained(path)
    if (run / REPORT).is_file() and _adopted_files(run / REPORT) != _digests(weights):
        raise InputError("CHANGED_FILE", path, "weights", "are not those that the run started from")
    return weights.rows(vocabulary_rows(tokenizer, weights))


def _adopted_files(report: Path) -> object:
    try:
        return json.loads(report.read_bytes())["files"]
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError("UNREADABLE", report, "files", f"is not a report of adopted weights ({problem!r})") from problem


def _digests(weights: Pretrained) -> dict[str, str]:
    return {path.name: str(digest(path)["sha256"]) for path in weight_files(weights.source)}


def settle(model: TextLatentDiffusion, config: Config) -> None:
    """Freeze what `freeze_backbone` and `train_lm_head` say, in a model that grew out of pretrained weights."""
    chosen = config.model
    if source_of(config) is not None and isinstance(model.denoiser, RWKVDenoiser) and isinstance(chosen, RWKV7Model):
        freeze(model.denoiser, backbone=chosen.freeze_backbone, head=not chosen.train_lm_head)


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
