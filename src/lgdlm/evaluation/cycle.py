"""Cycles: what is left of a text behind its latent, and of a latent behind its text.

    text     NELBO(y | z'),  z' read from y: the one-step mean E[z | y], and a latent sampled by the reverse process
    latent   |z'' - z|^2 / D standardised,  z'' the one-step reading of the text written from z

The mean knows more of y than any latent of the data tells, so its NELBO may lie below NELBO(y | z): the sampled one is the honest cycle.

    moments  mean over dimensions of (E a - E z)^2 + (E a^2 - E z^2)^2 / 2,  a the sampled latents, standardised
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lgdlm.data.collate import Frame
from lgdlm.evaluation import generation
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents, keys_of
from lgdlm.evaluation.generation import Texts
from lgdlm.evaluation.latent import error_statistics
from lgdlm.evaluation.likelihood import text_nelbo
from lgdlm.evaluation.results import Results
from lgdlm.models.joint import TextLatentDiffusion

Progress = Callable[[int], None] | None


class Cycles:
    """Adds the numbers of both cycles to `results`. `beside`: nats of each document under baselines, by name."""

    def __init__(
        self,
        model: TextLatentDiffusion,
        documents: Documents,
        results: Results,
        bootstrap: Bootstrap,
        seed: int,
        beside: Mapping[str, np.ndarray],
    ):
        self.model, self.documents, self.results, self.bootstrap, self.seed = model, documents, results, bootstrap, seed
        self.beside, self.keys = beside, keys_of(documents)
        self.mean, self.std = (np.tile(s.cpu().double().numpy(), model.latent_shape[0]) for s in (model.latent_mean, model.latent_std))

    def latents(self, written: Texts, sample: np.ndarray) -> np.ndarray:
        """The latent cycle of the texts that were written from the documents' latents, and the moments of the sampled latents
        float32 [n, L * D]; returns the one-step readings of the documents' own texts."""
        documents, model = self.documents, self.model
        own = generation.read_latents(model, documents.tokens, self.keys, seed=self.seed)
        again = generation.read_latents(model, written.tokens, self.keys, seed=self.seed, sampled=True)
        errors = {name: self._errors(found) for name, found in (("", again), ("read from the source text", own))}
        errors["training mean"] = self._errors(np.tile(self.mean, (len(documents), 1)))
        self.results.add("cycle_latent_mse", errors.pop(""), self.bootstrap, errors)
        one_step = {"one-step means": self._moments(own)}
        self.results.add("t2l_moments_sample", self._moments(sample), self.bootstrap, one_step)
        return own

    def texts(
        self, means: np.ndarray, sample: np.ndarray, frame: Frame, draws: int, estimator: str, row: np.ndarray, on_progress: Progress
    ) -> None:
        """The text cycle through both latents, raw [n, L * D]; `row` [n]: nats of what no network predicts of a row's width."""
        tokens = self.documents.lengths.astype(np.float64)
        others = {name: np.stack([nats, tokens], axis=1) for name, nats in self.beside.items()}
        for name, latents in (("mean", means), ("sample", sample)):
            given = replace(self.documents, latents=np.asarray(latents, np.float32))
            found = text_nelbo(self.model, given, "given_latent", draws, self.seed, estimator, frame, on_progress=on_progress)
            self.results.add(f"cycle_text_nelbo_{name}", np.stack([found.nats + row, tokens], axis=1), self.bootstrap, others)

    def _errors(self, found: np.ndarray) -> np.ndarray:
        return error_statistics(found, self.documents.latents, self.mean, self.std)["mse"]

    def _moments(self, found: np.ndarray) -> np.ndarray:
        """Statistics [n, 2 D + 1] of `moment_distance`: differences of values and of squares, and the count."""
        a, z = (((x - self.mean) / self.std).astype(np.float64) for x in (found, self.documents.latents))
        return np.concatenate([a - z, a**2 - z**2, np.ones((len(a), 1))], axis=1)
