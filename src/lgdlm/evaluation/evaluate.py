"""One evaluation: the held-out documents, every metric, its baselines, samples to look at.

    documents = smallest hashes of the held-out split
    likelihood (3 conditions) -> T2L -> L2T -> cycles -> joint -> trajectory, map, judge, retention    each into `Results`

In embedding diffusion the drift of its estimates stands in the likelihood's place (`lgdlm.evaluation.drift`).
What cannot be measured (no encoder, a package that is not installed) is listed in `not_run` with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from lgdlm.data.collate import Frame
from lgdlm.data.paired import PairedDataset
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.errors import InputError
from lgdlm.evaluation import generation
from lgdlm.evaluation.baselines import training_texts
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.cycle import Cycles
from lgdlm.evaluation.documents import Documents, Reader, held_out, keys_of, read_documents
from lgdlm.evaluation.drift import TIMES, add_drift
from lgdlm.evaluation.generation import Writing
from lgdlm.evaluation.judge import Judge
from lgdlm.evaluation.latent_map import latent_map
from lgdlm.evaluation.likelihood import CONDITIONS
from lgdlm.evaluation.meaning import Encoder, Meaning, Projection, meaning_for
from lgdlm.evaluation.measures import Measures
from lgdlm.evaluation.metric import METRICS
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.retention import Retention
from lgdlm.evaluation.stage2 import Stage2, own_latents
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.decode import Decoder

MAP_POINTS, MAP_DRAWN = 1500, 150
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What decides the numbers besides model and data; written into the results."""

    num_samples: int = 500
    num_steps: int = 32
    guidance_scale: float = 1.0
    temperature: float = 1.0
    order: str = "ancestral"
    best_of: int = 1
    rounds: int = 0
    bootstrap: int = 1000
    likelihood_draws: int = 16
    estimator: str = "counts"
    latent_steps: int = 20
    joint_samples: int = 64
    shown: int = 40
    traced: int = 3
    judged: int = 200


def evaluate(
    model: TextLatentDiffusion,
    tokenizer: Decoder,
    dataset_train: PairedDataset,
    dataset_validation: PairedDataset,
    encoder: Encoder | None = None,
    projection: Projection | None = None,
    *,
    num_samples: int = 500,
    seed: int = 42,
    num_steps: int = 32,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    order: str = "ancestral",
    best_of: int = 1,
    rounds: int = 0,
    bootstrap: int = 1000,
    likelihood_draws: int = 16,
    latent_steps: int = 20,
    joint_samples: int = 64,
    frame: Frame | None = None,
    judge: Judge | None = None,
    retention: Retention | None = None,
    absent: Mapping[str, str] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    compute_dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> Results:
    """Measure `model` on held-out documents; returns `Results` ready to write.

    `frame`: how texts lie in rows (of a model that ends texts with EOS; None: lengths are predicted). `absent`: reasons why `encoder`,
    `judge` or `retention` is None, by that word. `facts`: {"model": ..., "data": ...} to record beside what is found here.
    `compute_dtype`: autocast of the generated parts; likelihoods are computed in the model's own precision.
    `on_progress(stage, done, total)`.
    Raises InputError for data without texts or latents, and for texts longer than the model.
    """
    settings = Settings(
        num_samples, num_steps, guidance_scale, temperature, order, best_of, rounds, bootstrap, likelihood_draws,
        latent_steps=latent_steps, joint_samples=joint_samples,
    )  # fmt: skip
    closing = model.eos_id if model.length is None else None
    chosen = held_out(dataset_validation.texts, num_samples, seed)
    if not len(chosen) or not len(dataset_train):
        raise InputError("NO_TEXTS", dataset_validation.folder or "data", "texts", "evaluation needs held-out and training texts")
    read = None if model.posterior is None else partial(own_latents, model)
    documents = read_documents(dataset_validation, chosen, closing, read)
    train = read_documents(dataset_train, np.arange(len(dataset_train)), closing, read)
    results = _begin(model, documents, train, dataset_validation, settings, seed, facts or {})
    reasons = {"encoder": "no encoder was given", "judge": "no judge was given", **(absent or {})}
    frame = frame or Frame()
    room = None if closing is None else int(frame.widths(train.lengths + 1).max())
    writing = Writing(num_steps, temperature, guidance_scale, order, best_of, rounds, seed, room)
    steps = _Steps(on_progress)

    measures = Measures(model, documents, train, results, Bootstrap(len(documents), bootstrap, seed), seed)
    embedded = isinstance(model.text_process, EmbeddingDiffusion)
    beside, row = dict[str, np.ndarray](), np.zeros(len(documents))
    if embedded:
        add_drift(model, documents, results, measures.bootstrap, seed, steps.of("embeddings", len(TIMES) * len(documents)))
    else:
        total = len(CONDITIONS) * likelihood_draws * len(documents)
        beside, row = measures.likelihoods(frame, likelihood_draws, settings.estimator, steps.of("likelihood", total))
    with torch.autocast(model.device.type, compute_dtype, enabled=compute_dtype is not None):
        total = len(documents) * 3
        reading = measures.readings(latent_steps, steps.of("text to latent", total), settings.shown)
        keys = keys_of(documents)
        written = generation.write_texts(model, tokenizer, documents.latents, keys, writing, steps.of("latent to text", len(documents)))
        cycles = Cycles(model, documents, results, measures.bootstrap, seed, beside)
        means = cycles.latents(written, reading)
        joint, joint_latents = generation.write_pairs(model, tokenizer, joint_samples, writing)
        few = slice(0, settings.traced)
        traces = generation.trace_texts(model, tokenizer, documents.latents[few], keys[few], writing)
    if not embedded:
        total = 2 * likelihood_draws * len(documents)
        cycles.texts(means, reading, frame, likelihood_draws, settings.estimator, row, steps.of("text cycle", total))
    texts = {"joint": joint}
    if model.posterior is not None:
        stage2 = Stage2(model, documents, results, measures.bootstrap, seed, beside)
        stage2.bounds(frame, likelihood_draws, settings.estimator, row, steps.of("learned latent", likelihood_draws * len(documents)))
        texts["prior"] = stage2.samples(tokenizer, joint_samples, writing, settings.shown)
    meaning: Meaning | None = None
    if encoder is None:
        results.leave_out("meaning of generated texts (cosines, retrieval)", reasons["encoder"])
    else:
        meaning, reason = meaning_for(encoder, projection, documents.texts, documents.latents)
        if reason:
            results.leave_out("meaning in the latent's space", reason)
    others = {name: train.select(index) for name, index in training_texts(train, documents, seed).items()}
    encoded = measures.writings(written, others, meaning, settings.shown)
    measures.pairs(joint, joint_latents, meaning, settings.shown)
    results.trajectory = [
        {"mode": "l2t", "id": documents.ids[i], "source_text": documents.texts[i], "steps": trace} for i, trace in enumerate(traces)
    ]
    if judge is None:
        results.leave_out("judge perplexity", reasons["judge"])
    else:
        total = 3 * min(settings.judged, len(documents)) + len(texts) * joint_samples
        measures.judged(judge, {"l2t": written, **texts}, settings.judged, steps.of("judge", total))
    if retention is not None:
        retention.measure(documents, results, measures.bootstrap, steps.of("left to right", 2 * len(documents)))
    elif "retention" in reasons:
        results.leave_out("left-to-right perplexity before and after", reasons["retention"])
    drawn: dict[str, tuple[np.ndarray, list[str]]] = {"t2l": (reading[:MAP_DRAWN], list(documents.texts[:MAP_DRAWN]))}
    if encoded is not None:
        there = np.flatnonzero(encoded.present)[:MAP_DRAWN]
        drawn["l2t"] = encoded.spaces["projected"][there], [written.texts[i] for i in there]
    drawn["joint"] = joint_latents, joint.texts
    _draw_map(results, dataset_validation, drawn, seed, closing, read)
    order_of = {name: place for place, name in enumerate(METRICS)}
    results.numbers.sort(key=lambda entry: order_of[entry["name"]])
    return results


def _draw_map(
    results: Results,
    dataset: PairedDataset,
    drawn: Mapping[str, tuple[np.ndarray, list[str]]],
    seed: int,
    closing: int | None,
    read: Reader | None,
) -> None:
    shown = read_documents(dataset, held_out(dataset.texts, MAP_POINTS, seed), closing, read)
    try:
        results.latent_map = latent_map(shown.latents, shown.texts, drawn)
    except ValueError as problem:
        results.leave_out("latent map", str(problem))


def _begin(
    model: TextLatentDiffusion,
    documents: Documents,
    train: Documents,
    dataset: PairedDataset,
    settings: Settings,
    seed: int,
    facts: Mapping[str, Mapping[str, Any]],
) -> Results:
    manifest = dataset.manifest
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "denoiser": type(model.denoiser).__name__,
        "length": "eos" if model.length is None else "predicted",
        "text_process": "embedding" if isinstance(model.text_process, EmbeddingDiffusion) else "masked",
        "latent_parameterization": model.latent_process.predicts,
    }
    data = {
        "train": len(train),
        "validation": len(dataset),
        "evaluated": len(documents),
        "tokens": int(documents.lengths.sum()),
        "bytes": int(documents.bytes.sum()),
        "tokenizer": manifest.tokenizer,
        "encoder": manifest.encoder,
        "projection": manifest.projection,
    }
    return Results({**about, **facts.get("model", {})}, {**data, **facts.get("data", {})}, seed, asdict(settings))


class _Steps:
    """Progress by stage: `of(stage, total)` is a function of how many more are done."""

    def __init__(self, report: Progress | None):
        self.report = report

    def of(self, stage: str, total: int) -> Callable[[int], None] | None:
        if self.report is None:
            return None
        done, report = 0, self.report

        def more(count: int) -> None:
            nonlocal done
            done += count
            report(stage, done, total)

        return more
