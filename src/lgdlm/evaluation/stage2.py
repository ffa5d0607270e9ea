"""Stage II: what a learned latent costs, what it buys, and what its prior writes.

    bound = NELBO(y | z) + KL(q || p),   z ~ q(z | y)          per token; its exponential is the honest perplexity

A NELBO given z alone has been told the text: it may lie below the source's entropy, the bound may not. KL is exact for a Gaussian prior
and averaged over draws for the diffusion; NELBO(y | z) is averaged over a few draws of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from lgdlm.data.collate import Frame
from lgdlm.evaluation.baselines import cosines
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.generation import Texts, Writing, reading_rows, write_texts
from lgdlm.evaluation.likelihood import Likelihood, standard_error, text_nelbo
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.text import distinct
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.posterior import Posterior
from lgdlm.objectives.latent_usage import moments, mutual_information
from lgdlm.rng import Rng
from lgdlm.sampling import read_posterior, sample_latent_from_prior
from lgdlm.sampling.decode import Decoder
from lgdlm.sampling.guidance import answering

LATENT_DRAWS = 4  # of z a text; the maskings are shared among them
Progress = Callable[[int], None] | None


def posteriors_of(model: TextLatentDiffusion, tokens: Sequence[np.ndarray]) -> Posterior:
    """q(z | y) of texts without their EOS, in standardised units, on the model's device."""
    mean = torch.empty(len(tokens), *model.latent_shape, device=model.device)
    log_variance = torch.empty_like(mean)
    for group, text, seen in reading_rows(model, tokens):
        q = read_posterior(model, text, seen)
        mean[group], log_variance[group] = q.mean, q.log_variance
    return Posterior(mean, log_variance)


def own_latents(model: TextLatentDiffusion, tokens: Sequence[np.ndarray]) -> np.ndarray:
    """The latents of a model that brings its own: posterior means, raw float32 [n, L * D]."""
    return _raw(model, posteriors_of(model, tokens).mean)


def _raw(model: TextLatentDiffusion, z: torch.Tensor) -> np.ndarray:
    return model.unstandardise(z).flatten(1).float().cpu().numpy()


class Stage2:
    """Adds the numbers of a model with a posterior to `results`. `beside`: nats of each document under the baselines, by name."""

    def __init__(
        self,
        model: TextLatentDiffusion,
        documents: Documents,
        results: Results,
        bootstrap: Bootstrap,
        seed: int,
        beside: dict[str, np.ndarray],
    ):
        self.model, self.documents, self.results, self.bootstrap = model, documents, results, bootstrap
        self.seed, self.beside = seed, beside
        self.q = posteriors_of(model, documents.tokens)
        self.rows = torch.arange(len(documents), device=model.device)

    def drawn(self, draw: int) -> torch.Tensor:
        """One z of each posterior, [n, L, D]."""
        return self.q.draw(Rng(self.seed, draw, self.rows))

    def divergence(self, draws: int) -> np.ndarray:
        """KL(q || p) of each text and dimension, float64 [n, L * D], averaged over `draws`."""
        assert self.model.prior is not None
        total = np.zeros((len(self.documents), math.prod(self.model.latent_shape)))
        with answering(self.model):
            for draw in range(draws):
                rng = Rng(self.seed, draw, self.rows)
                total += self.model.prior.divergence(self.model, self.q, self.drawn(draw), rng).flatten(1).double().cpu().numpy()
        return total / draws

    def bounds(self, frame: Frame, draws: int, estimator: str, row: np.ndarray, on_progress: Progress = None) -> None:
        """Reconstruction, KL and their sum; how much of the latent is used. `row` [n]: nats of a row's width, which no network predicts."""
        documents, add = self.documents, self.results.add
        tokens, size = documents.lengths.astype(np.float64), documents.bytes.astype(np.float64)
        times = min(LATENT_DRAWS, draws)
        found = [self._given(self.drawn(k), draws // times, self.seed + k, frame, estimator, on_progress) for k in range(times)]
        given = np.mean([one.nats for one in found], axis=0) + row
        by_dimension = self.divergence(draws)
        kl = by_dimension.sum(axis=1)
        others = {name: np.stack([nats, tokens], axis=1) for name, nats in self.beside.items()}
        whole = Likelihood(given, np.zeros_like(given), np.mean([one.variance for one in found], axis=0) / times)
        add("stage2_reconstruction", np.stack([given, tokens], axis=1), self.bootstrap, others, standard_error(whole, documents))
        add("stage2_kl", mean_of(kl), self.bootstrap)
        for name, count in (("stage2_bound", tokens), ("stage2_perplexity", tokens), ("stage2_bits_per_byte", size)):
            counted = {key: np.stack([nats, count], axis=1) for key, nats in self.beside.items()}
            add(name, np.stack([given + kl, count], axis=1), self.bootstrap, counted)
        add("stage2_active_units", moments(self.q), self.bootstrap)
        most = mean_of(np.full(len(documents), math.log(len(documents))))
        add("stage2_mutual_information", mean_of(mutual_information(self.q, self.drawn(0))), self.bootstrap, {"log of the texts": most})
        self.results.model["kl_by_dimension"] = [round(float(value), 4) for value in by_dimension.mean(axis=0)]

    def _given(self, z: torch.Tensor, draws: int, seed: int, frame: Frame, estimator: str, on_progress: Progress) -> Likelihood:
        told = replace(self.documents, latents=_raw(self.model, z))
        return text_nelbo(self.model, told, "given_latent", draws, seed, estimator, frame, on_progress=on_progress)

    def samples(self, tokenizer: Decoder, count: int, writing: Writing, shown: int) -> Texts:
        """Texts from the prior, and whether the posterior reads from each the latent it was written from."""
        model, keys = self.model, np.arange(count)
        z = sample_latent_from_prior(model, count, writing.num_steps, seed=self.seed)
        latents = z.flatten(1).float().cpu().numpy()
        written = write_texts(model, tokenizer, latents, keys, replace(writing, best_of=1, rounds=0))  # as joint samples are drawn
        bootstrap = Bootstrap(count, len(self.bootstrap.counts), self.seed)
        real = self.documents.texts[:count]
        for n in (1, 2):
            beside = {"source texts": np.array([distinct(real, n)], np.float64)}
            self.results.add(f"prior_distinct_{n}", np.array([distinct(written.texts, n)], np.float64), bootstrap, beside)
        there = np.flatnonzero([len(ids) > 0 for ids in written.tokens])
        read = np.zeros(count)
        if len(there):
            means = posteriors_of(model, [written.tokens[i] for i in there]).mean
            read[there] = cosines(means.flatten(1).cpu().numpy(), model.standardise(z)[there].flatten(1).cpu().numpy())
        self.results.add("prior_reread_cosine", mean_of(read), bootstrap)
        self.results.samples["prior"] = [{"text": text, "reread_cosine": float(read[i])} for i, text in enumerate(written.texts[:shown])]
        return written
