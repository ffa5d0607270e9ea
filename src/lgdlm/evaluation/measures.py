"""Each group of numbers, with its baselines, for one set of documents.

likelihoods   NELBO in three conditions | n-gram models          readings   T2L | ridge regression, training mean
writings      L2T | nearest and random training text             pairs      joint samples | texts of other samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lgdlm.data.bag_ridge import BY_LENGTH, PAIR_PENALTIES, SCALINGS, fit_ridge
from lgdlm.data.collate import Frame
from lgdlm.evaluation import generation
from lgdlm.evaluation.baselines import cosines, nearest, ranks
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents, derangement, keys_of
from lgdlm.evaluation.generation import Texts
from lgdlm.evaluation.judge import Judge
from lgdlm.evaluation.latent import error_statistics, latent_statistics
from lgdlm.evaluation.likelihood import CONDITIONS, Likelihood, standard_error, text_nelbo
from lgdlm.evaluation.meaning import Meaning, Vectors
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.ngram import baseline_nats, length_nats, width_nats
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.text import distinct, meaning_statistics, overlap_statistics, token_statistics
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.linear_reading import BUCKETS, features

MEAN_OF = 8
Progress = Callable[[int], None] | None
Statistics = dict[str, np.ndarray]


class Measures:
    """Adds numbers and samples of `documents` to `results`; `train` is what baselines may read."""

    def __init__(
        self, model: TextLatentDiffusion, documents: Documents, train: Documents, results: Results, bootstrap: Bootstrap, seed: int
    ):
        self.model, self.documents, self.train = model, documents, train
        self.results, self.bootstrap, self.seed = results, bootstrap, seed
        self.keys = keys_of(documents)

    def likelihoods(self, frame: Frame, draws: int, estimator: str, on_progress: Progress) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """NELBO, perplexity, bits per byte and length cost in each condition.

        Returns each document's nats under the baselines and with no latent, by name, and its nats of the row's width.
        """
        documents, results = self.documents, self.results
        tokens, size = documents.lengths.astype(np.float64), documents.bytes.astype(np.float64)
        beside = baseline_nats(self.train, documents, self.model.denoiser.vocab_size)
        lengths = {"length histogram": mean_of(length_nats(self.train.lengths, documents.lengths))}
        row = np.zeros(len(documents)) if self.model.length is not None else width_nats(self.train.lengths, documents.lengths, frame)
        found: dict[str, Likelihood] = {}
        for condition in CONDITIONS:
            if condition == "shuffled_latent" and len(documents) < 2:
                results.leave_out("NELBO given another text's z", "it needs at least two texts")
                continue
            likelihood = text_nelbo(self.model, documents, condition, draws, self.seed, estimator, frame, on_progress=on_progress)
            likelihood = replace(likelihood, length=likelihood.length + row)
            found[condition] = likelihood
            for name, count in (("nelbo", tokens), ("perplexity", tokens), ("bits_per_byte", size)):
                others = {key: np.stack([nats, count], axis=1) for key, nats in beside.items()}
                error = standard_error(likelihood, documents) if name == "nelbo" else None
                results.add(f"{name}_{condition}", np.stack([likelihood.nats, count], axis=1), self.bootstrap, others, error)
            if self.model.length is not None:
                results.add(f"length_nats_{condition}", mean_of(likelihood.length), self.bootstrap, lengths)
        if len(found) == len(CONDITIONS):
            gain = found["shuffled_latent"].nats - found["given_latent"].nats
            results.add("nelbo_latent_gain", np.stack([gain, tokens], axis=1), self.bootstrap)
        return {**beside, "without z": found["unconditional"].nats}, row

    def readings(self, latent_steps: int, on_progress: Progress, shown: int) -> np.ndarray:
        """T2L: one step, one DDIM sample, the mean of eight; returns the samples, raw float32 [n, L * D]."""
        documents, model = self.documents, self.model
        mean, std = (np.tile(s.cpu().double().numpy(), model.latent_shape[0]) for s in (model.latent_mean, model.latent_std))
        beside = {}
        try:
            for scaling in SCALINGS:
                ridge = fit_ridge(self.train.tokens, self.train.latents, model.denoiser.vocab_size, self.seed, scaling=scaling)
                beside[f"ridge on {scaling}"] = latent_statistics(ridge.predict(documents.tokens), documents.latents, mean, std)
            size = model.denoiser.vocab_size
            bags, asked = ([features(tokens, size) for tokens in part.tokens] for part in (self.train, documents))
            ridge = fit_ridge(bags, self.train.latents, size + BUCKETS, self.seed, PAIR_PENALTIES, scaling=BY_LENGTH)
            beside["ridge on tokens and pairs"] = latent_statistics(ridge.predict(asked), documents.latents, mean, std)
        except ValueError as problem:
            self.results.leave_out("ridge regression", str(problem))
        beside["training mean"] = error_statistics(np.tile(mean, (len(documents), 1)), documents.latents, mean, std)
        found = {}
        asked_for: tuple[tuple[str, dict[str, Any]], ...] = (
            ("one_step", {}),
            ("sample", {"num_steps": latent_steps}),
            (f"mean_of_{MEAN_OF}", {"num_steps": latent_steps, "average": MEAN_OF}),
        )
        for name, options in asked_for:
            found[name] = generation.read_latents(model, documents.tokens, self.keys, seed=self.seed, on_progress=on_progress, **options)
            for metric, statistics in latent_statistics(found[name], documents.latents, mean, std).items():
                self.results.add(
                    f"t2l_{metric}_{name}",
                    statistics,
                    self.bootstrap,
                    {key: other[metric] for key, other in beside.items() if metric in other},
                )
        self._show_readings(found["one_step"], mean, std, shown)
        return found["sample"]

    def _show_readings(self, latents: np.ndarray, mean: np.ndarray, std: np.ndarray, shown: int) -> None:
        documents = self.documents
        sums = latent_statistics(latents, documents.latents, mean, std)
        near, rank = nearest(documents.latents, latents[:shown]), ranks(latents, documents.latents)
        self.results.samples["t2l"] = [
            {
                "id": documents.ids[i],
                "text": documents.texts[i],
                "r2": float(1 - sums["r2"][i, 0] / sums["r2"][i, 1]),
                "cosine": float(sums["cosine"][i, 0]),
                "nearest_text": documents.texts[near[i]],
                "rank": int(rank[i]),
            }
            for i in range(len(near))
        ]

    def writings(self, written: Texts, others: Mapping[str, Documents], meaning: Meaning | None, shown: int) -> Vectors | None:
        """L2T texts against their sources, beside training texts; returns the texts' vectors where the latent's space is one of them."""
        documents = self.documents
        answers = {"": written, **{name: Texts(list(other.texts), list(other.tokens)) for name, other in others.items()}}
        statistics = {name: self._text_statistics(answer) for name, answer in answers.items()}
        vectors = {name: meaning.of(answer.texts) for name, answer in answers.items()} if meaning else {}
        sources = meaning.of(documents.texts) if meaning else None
        for name, found in vectors.items():
            assert sources is not None
            for space, encoded in found.spaces.items():
                by_metric = meaning_statistics(encoded, self._sources(space, sources), found.present)
                statistics[name] |= {f"{metric}_{space}": s for metric, s in by_metric.items()}
        statistics["source texts"] = {f"distinct_{n}": np.array([distinct(documents.texts, n)], np.float64) for n in (1, 2)}
        for metric, own in statistics[""].items():
            beside = {name: found[metric] for name, found in statistics.items() if name and metric in found}
            self.results.add(f"l2t_{metric}", own, self.bootstrap, beside)
        self.results.samples["l2t"] = [self._shown_writing(i, answers, statistics) for i in range(min(shown, len(documents)))]
        return vectors[""] if vectors and "projected" in vectors[""].spaces else None

    def _sources(self, space: str, sources: Vectors) -> np.ndarray:
        """In the latent's space the source is the latent that the model was given."""
        return self.documents.latents if space == "projected" else sources.spaces[space]

    def _text_statistics(self, answer: Texts) -> Statistics:
        found = token_statistics(answer.tokens, self.documents.tokens, self.model.eos_id)
        found |= {f"distinct_{n}": np.array([distinct(answer.texts, n)], np.float64) for n in (1, 2)}
        try:
            found |= overlap_statistics(answer.texts, self.documents.texts)
        except ImportError:
            if not any(entry["what"] == "BLEU and chrF" for entry in self.results.not_run):
                self.results.leave_out("BLEU and chrF", "package sacrebleu is not installed")
        return found

    def _shown_writing(self, i: int, answers: Mapping[str, Texts], statistics: Mapping[str, Statistics]) -> dict[str, Any]:
        near, random = "nearest training text", "random training text"
        cosine = {}
        for name, prefix in (("", ""), (near, "nearest_")):
            for space in ("encoder", "projected"):
                if f"cosine_{space}" in statistics[name]:
                    cosine[prefix + space] = float(statistics[name][f"cosine_{space}"][i, 0])
        return {
            "id": self.documents.ids[i],
            "source_text": self.documents.texts[i],
            "text": answers[""].texts[i],
            "baseline_nearest": answers[near].texts[i],
            "baseline_random": answers[random].texts[i],
            "cosines": cosine,
        }

    def pairs(self, joint: Texts, latents: np.ndarray, meaning: Meaning | None, shown: int) -> None:
        """Joint samples: does the text say what the latent drawn with it says?"""
        near = nearest(self.train.latents, latents)
        samples: list[dict[str, Any]] = [
            {"text": text, "nearest_training_text": self.train.texts[near[i]], "cosines": {}} for i, text in enumerate(joint.texts)
        ]
        if meaning is not None and meaning.projection is not None:
            found = meaning.of(joint.texts)
            there = np.flatnonzero(found.present)
            own = np.zeros(len(latents))
            own[there] = cosines(found.spaces["projected"][there], latents[there])
            for sample, cosine in zip(samples, own, strict=True):
                sample["cosines"] = {"projected": float(cosine)}
            beside = {}
            if len(there) > 1:
                other = there[derangement(len(there), self.seed)]
                beside["texts of other samples"] = mean_of(cosines(found.spaces["projected"][other], latents[there]))
            bootstrap = Bootstrap(len(latents), len(self.bootstrap.counts), self.seed)
            self.results.add("joint_cosine_projected", mean_of(own), bootstrap, beside)
        self.results.samples["joint"] = samples[:shown]

    def judged(self, judge: Judge, written: Mapping[str, Texts], count: int, on_progress: Progress) -> None:
        """Perplexity of generated texts, `count` of each way, under a language model, beside real ones and those with shuffled words."""
        rng = np.random.default_rng(self.seed)
        real = list(self.documents.texts[:count])
        shuffled = [" ".join(rng.permutation(text.split())) for text in real]
        beside = {"real texts": judge.statistics(real, on_progress), "shuffled words": judge.statistics(shuffled, on_progress)}
        for name, texts in ((name, one.texts[:count]) for name, one in written.items()):
            found = judge.statistics(texts, on_progress)
            bootstrap = Bootstrap(len(texts), len(self.bootstrap.counts), self.seed)
            self.results.add(f"judge_perplexity_{name}", found, bootstrap, beside)
