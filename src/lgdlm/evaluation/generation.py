"""What the model answers about the evaluated documents, in batches that change nothing but the time.

    L2T   n ~ p(n | z), then masks alone -> text        T2L   one step, or a reverse process from noise

A document's draws follow from (seed, its key): rows are grouped by length only to pad little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling import Moment, TextSamples, best_of, predict_latent, sample_joint, sample_latent_from_text, sample_text_from_latent
from lgdlm.sampling.decode import Decoder
from lgdlm.sampling.request import identities, lengths, standardised

BATCH_TOKENS = 4096
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Writing:
    """How texts are drawn. `room`: tokens of the canvas of a model that ends its texts with EOS, None where lengths are predicted."""

    num_steps: int = 32
    temperature: float = 1.0
    guidance_scale: float = 1.0
    order: str = "ancestral"
    best_of: int = 1
    rounds: int = 0
    seed: int = 0
    room: int | None = None

    @property
    def steering(self) -> dict[str, Any]:
        """What every sampler of texts takes."""
        names = ("num_steps", "temperature", "guidance_scale", "order", "seed")
        return {"seq_len": self.room, **{name: getattr(self, name) for name in names}}


@dataclass
class Texts:
    """Texts with their token ids, in the order they were asked for."""

    texts: list[str] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)


def write_texts(
    model: TextLatentDiffusion,
    tokenizer: Decoder,
    latents: np.ndarray,
    keys: np.ndarray,
    writing: Writing,
    on_progress: Progress | None = None,
) -> Texts:
    """A text for each raw latent float32 [n, L * D], from masks alone and from the model's own length."""
    conditions = torch.from_numpy(latents).view(len(latents), *model.latent_shape)
    rows, sizes = torch.from_numpy(keys), _sizes(model, conditions, torch.from_numpy(keys), writing)
    found = Texts([""] * len(latents), [np.empty(0, np.int64)] * len(latents))
    for group in _grouped(sizes):
        part, size = conditions[group].to(model.device), torch.from_numpy(sizes[group])
        shared = {**writing.steering, "rows": rows[group]}
        if writing.best_of > 1 or writing.rounds:
            samples = best_of(model, part, writing.best_of, writing.rounds, **shared)
        else:
            samples = sample_text_from_latent(model, part, length=None if model.length is None else size, **shared)
        for row, text, ids in zip(group, samples.texts(tokenizer), token_ids(samples), strict=True):
            found.texts[row], found.tokens[row] = text, ids
        if on_progress:
            on_progress(len(group))
    return found


def write_pairs(model: TextLatentDiffusion, tokenizer: Decoder, count: int, writing: Writing) -> tuple[Texts, np.ndarray]:
    """Joint samples: texts with the raw latents float32 [count, L * D] drawn together with them."""
    longest = writing.room if model.length is None else model.length.max_length
    assert longest is not None, "a canvas has a size"
    found, latents = Texts(), []
    for rows in torch.arange(count).split(max(1, BATCH_TOKENS // longest)):
        samples = sample_joint(model, len(rows), rows=rows, **writing.steering)
        assert samples.latent is not None
        found.texts += samples.texts(tokenizer)
        found.tokens += token_ids(samples)
        latents.append(samples.latent.flatten(1).float().cpu().numpy())
    return found, np.concatenate(latents)


def read_latents(
    model: TextLatentDiffusion,
    tokens: Sequence[np.ndarray],
    keys: np.ndarray,
    num_steps: int | None = None,
    average: int = 1,
    seed: int = 0,
    sampled: bool = False,
    on_progress: Progress | None = None,
) -> np.ndarray:
    """Raw latents float32 [n, L * D] of texts: the one-step estimate, or with `num_steps` the mean of `average` DDIM samples.

    `sampled`: the texts are a sampler's, which end with EOS already where they end at all.
    """
    found, rows = np.empty((len(tokens), int(np.prod(model.latent_shape))), np.float32), torch.from_numpy(keys)
    for group, text, seen in reading_rows(model, tokens, sampled):
        if num_steps is None:
            latent = predict_latent(model, text, seen, seed=seed, rows=rows[group])
        else:
            latent = sample_latent_from_text(model, text, seen, num_steps=num_steps, seed=seed, rows=rows[group], average=average)
        found[group] = latent.flatten(1).float().cpu().numpy()
        if on_progress:
            on_progress(len(group))
    return found


def trace_texts(
    model: TextLatentDiffusion, tokenizer: Decoder, latents: np.ndarray, keys: np.ndarray, writing: Writing
) -> list[list[dict[str, object]]]:
    """The denoising of each latent's text, step by step: [{clock, tokens, masked}, ...]; `tokens` are strings, empty at masks."""
    moments: list[Moment] = []
    conditions = torch.from_numpy(latents).view(len(latents), *model.latent_shape)
    samples = sample_text_from_latent(model, conditions, rows=torch.from_numpy(keys), callback=moments.append, **writing.steering)
    traces = []
    for row, width in enumerate(samples.seen_mask.sum(dim=1).tolist()):
        trace: list[dict[str, object]] = []
        for moment in moments:
            ids = moment.text[row, :width].tolist()
            masked = [token == model.mask_id for token in ids]
            words = ["" if hidden else tokenizer.decode([token]) for token, hidden in zip(ids, masked, strict=True)]
            trace.append({"clock": float(moment.t_text[row]), "tokens": words, "masked": masked})
        traces.append(trace)
    return traces


def token_ids(samples: TextSamples) -> list[np.ndarray]:
    """The ids of each sampled text."""
    return [row[keep].cpu().numpy() for row, keep in zip(samples.tokens, samples.attention_mask, strict=True)]


def _sizes(model: TextLatentDiffusion, conditions: torch.Tensor, rows: torch.Tensor, writing: Writing) -> np.ndarray:
    """Tokens of the canvas of each text, as the sampler itself draws them: known beforehand, so that like goes with like."""
    if model.length is None:
        assert writing.room is not None, "a canvas has a size"
        return np.full(len(rows), writing.room)
    with torch.no_grad():
        z = standardised(model, conditions)
        rng = identities(model, len(rows), writing.seed, rows)
        return lengths(model, z, z.new_zeros(len(rows)), rng, writing.temperature, None, None).cpu().numpy()


def reading_rows(
    model: TextLatentDiffusion, tokens: Sequence[np.ndarray], sampled: bool = False
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Texts as the model reads them, in groups of similar length: which ones, int64 [b]; ids int64 [b, N]; what is seen, bool [b, N].

    A known text has a known end: a model that ends texts with EOS is shown that EOS and nothing behind it.
    """
    closing = np.array([] if sampled or model.length is not None else [model.eos_id], np.int64)
    shown = [np.concatenate([ids, closing]) for ids in tokens]
    for group in _grouped(np.array([len(ids) for ids in shown])):
        yield group, *_padded([shown[i] for i in group])


def _grouped(sizes: np.ndarray) -> list[np.ndarray]:
    """Indices in groups of similar size, about BATCH_TOKENS positions each."""
    groups: list[list[int]] = []
    for i in np.argsort(sizes, kind="stable")[::-1]:  # longest first: the first of a group is its width
        if groups and (len(groups[-1]) + 1) * int(sizes[groups[-1][0]]) <= BATCH_TOKENS:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return [np.array(group) for group in groups]


def _padded(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    text, seen = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for row, ids in enumerate(rows):
        text[row, : len(ids)], seen[row, : len(ids)] = ids, True
    return torch.from_numpy(text), torch.from_numpy(seen)
