"""Embedding diffusion over its clock: how far estimates lie from any token, and how often they are read off rightly.

    x_t = alpha(t) e(y) + sigma(t) n        x0_hat = the model's estimate given x_t, t and z
    drift(t)      sqrt(|x0_hat - nearest e|^2 / E): 0 on a token, 1 the centre, where all tokens are equally far
    nearest(t)    share of positions whose nearest token is the right one;   logits(t): whose likeliest token is

Beside them stands what needs no network: the token nearest to x_t itself. There is no bound on the nats of tokens here: the weighted
squared error is one of rows, so likelihoods, perplexities and bits per byte are not reported for embedding diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lgdlm.diffusion.cross_entropy import token_nats
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents, keys_of
from lgdlm.evaluation.generation import reading_rows
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.results import Results
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.guidance import answering

TIMES = tuple(k / 8 for k in range(1, 9))
SHOWN = {"t25": 2 / 8, "t50": 4 / 8, "t75": 6 / 8, "t100": 1.0}  # the metrics' own times; the page's curve has all of TIMES
QUANTITIES = ("embedding_drift", "rounding_accuracy", "rounding_logits_accuracy", "embedding_squared_error", "rounding_nats")
NO_BOUND = "embedding diffusion has no bound on the nats of tokens; see the drift and the rounding of its estimates instead"
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Drift:
    """Sums over each document's tokens, float64 [n, times] by quantity; `without`: the token nearest to x_t is right; `count` [n]."""

    sums: Mapping[str, np.ndarray]
    without: np.ndarray
    count: np.ndarray


def measure_drift(model: TextLatentDiffusion, documents: Documents, seed: int = 0, on_progress: Progress = None) -> Drift:
    """Every document at each of TIMES, given its latent; noise follows from (seed, the document, the time)."""
    process, keys = model.text_process, keys_of(documents)
    assert isinstance(process, EmbeddingDiffusion), "only estimates of embeddings drift"
    sums = {name: np.zeros((len(documents), len(TIMES))) for name in QUANTITIES}
    without, count = np.zeros((len(documents), len(TIMES))), np.zeros(len(documents))
    latents = model.standardise(torch.from_numpy(documents.latents).view(len(documents), *model.latent_shape).to(model.device))
    with answering(model):
        for which, ids, mask in reading_rows(model, documents.tokens):
            text, seen = ids.to(model.device), mask.to(model.device)
            count[which] = mask.sum(dim=1).numpy()
            for k, time in enumerate(TIMES):
                rng = Rng(seed, k, torch.from_numpy(keys[which]).to(model.device))
                t = torch.full((len(which),), time, device=model.device)
                x_t = process.noise(text, t, rng, seen)
                pair = NoisyPair(x_t, t, latents[torch.from_numpy(which)], torch.zeros_like(t), seen, seen)
                for name, values in _read(model, process, pair, text).items():
                    found = torch.zeros(seen.shape, dtype=torch.float64, device=seen.device).masked_scatter(seen, values.double())
                    target = without if name == "without" else sums[name]
                    target[which, k] = found.sum(dim=1).cpu().numpy()
                if on_progress:
                    on_progress(len(which))
    return Drift(sums, without, count)


def _read(model: TextLatentDiffusion, process: EmbeddingDiffusion, pair: NoisyPair, text: Tensor) -> dict[str, Tensor]:
    """Each quantity at the positions seen, [M]."""
    answer = model(model.self_conditioned(pair) if process.self_conditioning > 0 else pair)
    seen = pair.attention_mask
    assert answer.embedding is not None
    estimate, tokens = answer.embedding[seen], text[seen]
    nearest, distance = process.nearest(estimate)
    nats, right = token_nats(answer.text_logits, tokens)
    return {
        "embedding_drift": distance,
        "rounding_accuracy": nearest == tokens,
        "rounding_logits_accuracy": right,
        "embedding_squared_error": process.squared_error(estimate, tokens),
        "rounding_nats": nats,
        "without": process.nearest(pair.text[seen])[0] == tokens,
    }


def add_drift(
    model: TextLatentDiffusion, documents: Documents, results: Results, bootstrap: Bootstrap, seed: int, on_progress: Progress
) -> None:
    """The drift's numbers, over all times and at some, the whole curve, the length's cost where there is one, and what is not measured."""
    process = model.text_process
    assert isinstance(process, EmbeddingDiffusion)
    found = measure_drift(model, documents, seed, on_progress)
    every = found.count * len(TIMES)
    for name, sums in found.sums.items():
        beside = {"nearest to x_t, no network": _over(found.without.sum(axis=1), every)} if name.endswith("accuracy") else {}
        results.add(name, _over(sums.sum(axis=1), every), bootstrap, beside)
        for suffix, time in SHOWN.items() if name in ("embedding_drift", "rounding_accuracy") else ():
            k = TIMES.index(time)
            others = {"nearest to x_t, no network": _over(found.without[:, k], found.count)} if beside else {}
            results.add(f"{name}_{suffix}", _over(sums[:, k], found.count), bootstrap, others)
    if model.length is not None:
        results.add("length_nats_given_latent", mean_of(_length_nats(model, documents)), bootstrap)
    total = found.count.sum()
    by_time = {**found.sums, "without_network": found.without}
    results.model["drift_over_t"] = [
        {"t": time, **{name: round(float(sums[:, k].sum() / total), 6) for name, sums in by_time.items()}} for k, time in enumerate(TIMES)
    ]
    results.model["embedding_crowding"] = round(process.crowding(), 6)
    results.leave_out("NELBO, perplexity and bits per byte", NO_BOUND)
    results.leave_out("text cycle", NO_BOUND)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.stack([top, bottom], axis=1).astype(np.float64)


def _length_nats(model: TextLatentDiffusion, documents: Documents) -> np.ndarray:
    """-log p(n | z) of each document, float64 [n]."""
    assert model.length is not None
    latents = model.standardise(torch.from_numpy(documents.latents).view(len(documents), *model.latent_shape).to(model.device))
    lengths = torch.from_numpy(documents.lengths).to(model.device)
    with answering(model):
        return model.length.loss(latents, latents.new_zeros(len(latents)), lengths).double().cpu().numpy()
