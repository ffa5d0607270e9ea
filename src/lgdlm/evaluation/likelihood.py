"""The text's NELBO, length included, by counting masks first.

    NELBO(y, n | z) = -log p(n | z) + E_t [ 1/t sum over masked i of -log p(y_i | y_t, z_t, t) ]              ("times")
                    = -log p(n | z) + E_m [ n/m sum over masked i of -log p(y_i | y_t, z_t, t) ],  m ~ U{1..n} ("counts")

Integrating Binomial(m; n, p) dp / p over p gives 1/m: the two forms have the same expectation. In the second every draw scores at least
one position and no weight is large; given m, the masking probability is Beta(m, n - m + 1), the m-th smallest of the n uniforms
whose m smallest are the subset, so one uniform a position gives subset and clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lgdlm.data.collate import Frame
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.errors import InputError
from lgdlm.evaluation.documents import Documents, derangement, keys_of
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.guidance import answering

CONDITIONS = ("given_latent", "unconditional", "shuffled_latent")
ESTIMATORS = ("counts", "times")


@dataclass(frozen=True)
class Likelihood:
    """Nats of each document, float64 [n]: of its tokens and of its length; `variance` [n] is the Monte Carlo error's of their sum.

    Draws lie in strata, whose mean varies less than independent draws would: `variance` is an upper estimate.
    """

    text: np.ndarray
    length: np.ndarray
    variance: np.ndarray

    @property
    def nats(self) -> np.ndarray:
        return self.text + self.length


def text_nelbo(
    model: TextLatentDiffusion,
    documents: Documents,
    condition: str = "given_latent",
    draws: int = 16,
    seed: int = 0,
    estimator: str = "counts",
    frame: Frame | None = None,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """The NELBO of every document under one of `CONDITIONS`, `draws` maskings each.

    `frame`: how texts lie in rows; one with `eos_id` where EOS ends the text (the first EOS is scored, the filling behind it is noised like
    text and never scored), None where lengths are predicted. The weight is the bound's whatever the training's was. A document's
    draws follow from (seed, its tokens), so they do not change with batch or set. Raises ValueError for unknown words and for fewer than
    two documents under `shuffled_latent`, InputError (TEXT_TOO_LONG) for a text that the model cannot hold.
    """
    frame = frame or Frame()
    if condition not in CONDITIONS or estimator not in ESTIMATORS:
        raise ValueError(f"expected one of {', '.join(CONDITIONS)} by {' or '.join(ESTIMATORS)}, got {condition!r} by {estimator!r}")
    assert (frame.eos_id is None) == (model.length is not None), "rows are filled when EOS ends the text"
    widths = _widths(model, documents, frame)
    partner = derangement(len(documents), seed) if condition == "shuffled_latent" else np.arange(len(documents))
    latents = model.standardise(_shaped(model, documents.latents[partner]))
    keys = keys_of(documents)
    offsets = Rng(seed, 0, torch.from_numpy(keys)).uniform("likelihood offset").numpy()
    text = np.zeros((len(documents), draws))
    length = np.zeros((len(documents), draws))
    with answering(model):
        for which, draw in _batches(widths, draws, batch_tokens):
            rows = Rng(seed, 1, torch.from_numpy(keys[which] + draw).to(model.device))
            y, scored, real = _rows(model, [documents.tokens[i] for i in which], int(widths[which[0]]), frame.eos_id)
            strata = torch.from_numpy((draw + offsets[which]) / draws).to(model.device)
            x_t, t, weight = (_by_counts if estimator == "counts" else _by_times)(model, y, scored, real, strata, rows)
            pair = _question(model, x_t, t, real, latents[torch.from_numpy(which)], condition, rows)
            asked = (x_t == model.mask_id) & scored
            text[which, draw] = (_nats(model, model.over(pair.at(logits_at=asked), y), y) * weight).cpu().numpy()
            if model.length is not None:
                length[which, draw] = model.length.loss(pair.latent, pair.t_latent, real.sum(dim=1)).double().cpu().numpy()
            if on_progress:
                on_progress(len(which))
    total = text + length
    variance = total.var(axis=1, ddof=1) / draws if draws > 1 else np.full(len(documents), np.inf)
    return Likelihood(text.mean(axis=1), length.mean(axis=1), variance)


def standard_error(likelihood: Likelihood, documents: Documents) -> float | None:
    """Monte Carlo error of nats per token over the set; None from a single draw, which cannot tell."""
    error = float(np.sqrt(likelihood.variance.sum()) / documents.lengths.sum())
    return error if np.isfinite(error) else None


def _masking(model: TextLatentDiffusion) -> MaskedDiffusion:
    assert isinstance(model.text_process, MaskedDiffusion), "only masked diffusion has a bound on the nats of tokens"
    return model.text_process


def _shaped(model: TextLatentDiffusion, latents: np.ndarray) -> Tensor:
    flat = torch.from_numpy(np.ascontiguousarray(latents, np.float32)).to(model.device)
    return flat.view(len(flat), model.latent_shape[0], -1)


def _widths(model: TextLatentDiffusion, documents: Documents, frame: Frame) -> np.ndarray:
    """Width of each document's row, int64 [n]."""
    if not len(documents) or int(documents.lengths.min()) < 1:
        raise ValueError("every text needs at least one token")
    needed = documents.lengths + (frame.eos_id is not None)
    room = model.length.max_length if model.length is not None else frame.max_length or frame.width
    if room is not None and int(needed.max()) > room:
        name = documents.ids[int(needed.argmax())]
        raise InputError(
            "TEXT_TOO_LONG", "data", name, f"has {int(needed.max())} tokens, the model holds {room}: evaluate data prepared for it"
        )
    return frame.widths(needed)


def _batches(widths: np.ndarray, draws: int, batch_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(document, draw) int64 pairs, rows of one width and about `batch_tokens` positions together."""
    order = np.argsort(widths, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(widths[order])) + 1):
        which, draw = np.repeat(part, draws), np.tile(np.arange(draws), len(part))
        rows = max(1, batch_tokens // int(widths[part[0]]))
        for start in range(0, len(which), rows):
            yield which[start : start + rows], draw[start : start + rows]


def _rows(model: TextLatentDiffusion, tokens: list[np.ndarray], width: int, eos_id: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Clean ids [B, N], which positions are scored, and which are read: with EOS the filling is read and not scored."""
    y = np.full((len(tokens), width), -1 if eos_id is None else eos_id, np.int64)
    for row, ids in zip(y, tokens, strict=True):
        row[: len(ids)] = ids
    paid = np.array([len(ids) for ids in tokens]) + (eos_id is not None)
    scored = np.arange(width) < paid[:, None]
    assert eos_id is not None or bool(scored.all()), "rows are as long as their texts where nothing is filled"
    clean, counted = torch.from_numpy(y).to(model.device), torch.from_numpy(scored).to(model.device)
    return clean, counted, torch.ones_like(counted)


def _by_counts(
    model: TextLatentDiffusion, y: Tensor, scored: Tensor, real: Tensor, strata: Tensor, rng: Rng
) -> tuple[Tensor, Tensor, Tensor]:
    u, n = rng.uniform("likelihood mask", y.shape[1]), scored.sum(dim=1)
    m = (1 + (strata * n).long()).minimum(n)  # a stratum's end may round up to 1
    threshold = u.masked_fill(~scored, 2.0).sort(dim=1).values.gather(1, m[:, None] - 1)
    x_t = y.masked_fill((u <= threshold) & real, model.mask_id)
    # 1 - alpha(t) = (1 - eps) t is the masking probability; past 1 - eps the clock stands at 1
    t = (threshold[:, 0] / (1 - _masking(model).schedule.eps)).clamp_max(1)
    return x_t, t.float(), n.double() / m.double()


def _by_times(
    model: TextLatentDiffusion, y: Tensor, scored: Tensor, real: Tensor, strata: Tensor, rng: Rng
) -> tuple[Tensor, Tensor, Tensor]:
    t = (1 - strata).float()
    return _masking(model).noise(y, t, rng, real), t, _masking(model).schedule.weight(t.double())


def _question(model: TextLatentDiffusion, x_t: Tensor, t: Tensor, real: Tensor, latent: Tensor, condition: str, rng: Rng) -> NoisyPair:
    pair = NoisyPair(x_t, t, latent, torch.zeros_like(t), real)
    return model.without_latent(pair, rng) if condition == "unconditional" else pair


def _nats(model: TextLatentDiffusion, pair: NoisyPair, y: Tensor) -> Tensor:
    """Unweighted cross entropy of the asked positions, summed by row, float64 [B]."""
    assert pair.logits_at is not None
    nats = torch.zeros(pair.size, dtype=torch.float64, device=y.device)
    if not bool(pair.logits_at.any()):  # no position of the batch is masked: nothing to ask ("times" near t = 0)
        return nats
    found = _masking(model).cross_entropy(model(pair).text_logits, y, pair.logits_at)
    return nats.index_add(0, pair.logits_at.nonzero()[:, 0], found.double())
