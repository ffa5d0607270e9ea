"""`lgdlm sample`: latents to texts, texts to latents, both at once, holes filled, texts edited; JSONL out.

    l2t  input or prompts -> {"id", "text"}   t2l          prompts -> {"id", "latent"}
    joint      -> {"id", "text", "latent"}    interpolate  two of the same -> {"id", "text", "latent"}
    prior      -> {"id", "text", "latent"}    encode       prompts -> {"id", "latent"}        of a model of Stage II
    infill  prompts with [MASK] (and input) -> {"id", "text"}
    edit    prompts and input               -> {"id", "text"}

A sample's randomness is keyed by its id, so a line does not depend on what else is sampled, on the order or on the batch size.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lgdlm.cli.progress import progress, say, say_damage
from lgdlm.cli.prompts import Prompt, padded, read_prompts, tokenized
from lgdlm.cli.sampling_inputs import check_inputs, latents_of
from lgdlm.config import Config, Sampling
from lgdlm.data.storage import make_folder, write_aside
from lgdlm.errors import InputError
from lgdlm.sampling import (
    TextSamples,
    best_of,
    edit,
    infill,
    interpolate,
    predict_latent,
    read_posterior,
    sample_joint,
    sample_latent_from_text,
    sample_text_from_latent,
    sample_text_from_prior,
)
from lgdlm.training.restore import Restored, restore

Record = dict[str, Any]
T = TypeVar("T")


def run(config: Config) -> int:
    """Sample as `sampling` says and write the lines to `sampling.out`, or to stdout; 0."""
    asked = config.sampling
    total, records = drawn(config)
    with _output(asked.out) as write, progress(total, asked.mode) as bar:
        for record in records:
            write((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
            bar.advance()
    if asked.out is not None:
        say(f"{total} samples: {asked.out}")
    return 0


def drawn(config: Config) -> tuple[int, Iterator[Record]]:
    """How many samples `sampling` asks for, and the samples, each drawn when it is taken. Input is read and checked at once."""
    asked = config.sampling
    if asked.checkpoint is None:
        raise InputError("CONFIG", "command-line", "sampling.checkpoint", "expected a checkpoint or a run folder, got nothing")
    for key, chooses in (("best_of", asked.best_of > 1), ("rounds", asked.rounds > 0)):
        if chooses and asked.mode != "l2t":
            raise InputError("CONFIG", "command-line", f"sampling.{key}", f"belongs to mode=l2t; mode={asked.mode} draws once")
    check_inputs(asked)
    return MODES[asked.mode](Job(restore(asked.checkpoint, asked.use_ema, say_damage if asked.fallback else None), asked))


@contextmanager
def _output(out: str | None) -> Iterator[Callable[[bytes], object]]:
    """Where lines go: a file that appears whole when all are written, or stdout as they come."""
    if out is None:
        if sys.stdout is None:
            raise InputError("CONFIG", "command-line", "sampling.out", "stdout is closed: out=FILE.jsonl is expected")
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    make_folder(Path(out).absolute().parent)
    with write_aside(Path(out)) as file:
        yield file.write


@dataclass(frozen=True)
class Job:
    """What every mode needs: the model with its tokenizer, and what the user asked for."""

    restored: Restored
    sampling: Sampling

    @property
    def room(self) -> int | None:
        """Tokens of each text as the user fixed them, else what the model has room for where it does not predict lengths."""
        if self.sampling.seq_len is not None:
            return self.sampling.seq_len
        return None if self.restored.model.length is not None else self.restored.config.model.max_seq_len

    def steering(self) -> dict[str, Any]:
        """The keys that every text sampler takes."""
        asked = self.sampling
        names = {"num_steps": asked.num_steps, "temperature": asked.temperature, "top_k": asked.top_k, "top_p": asked.top_p}
        rows = {"rounding": asked.rounding, "text_sampler": asked.text_sampler}
        return {**names, "guidance_scale": asked.guidance_scale, "order": asked.order, "seed": asked.seed, "remask": asked.remask, **rows}

    def latents(self) -> dict[str, np.ndarray]:
        """The latents that were given, or made from texts, by name: as many as `sampling.limit` lets be drawn from."""
        return dict(islice(self.all_latents().items(), self.sampling.limit))

    def all_latents(self) -> dict[str, np.ndarray]:
        return latents_of(self.sampling, self.restored)

    def prompts(self, holes: bool = False) -> list[Prompt]:
        asked, model, longest = self.sampling, self.restored.model, self.restored.config.model.max_seq_len
        texts = read_prompts(asked.prompt, asked.prompts)[: asked.limit]
        return tokenized(texts, self.restored.tokenizer, min(longest, asked.max_tokens or longest), model.length is None, holes)

    def partners(self, prompts: list[Prompt]) -> Tensor:
        """A latent for each prompt: the one of its id, or the only one there is, [n, L, D]."""
        latents = self.all_latents()
        if len(latents) > 1 and (missing := [p.id for p in prompts if p.id not in latents]):
            held = f"{len(missing)} of {len(prompts)} texts have none among {', '.join(list(latents)[:3])}, ..."
            message = f"no latent has this id ({held}): name each by its text's id, or give one for all"
            raise InputError("MISSING_LATENT", str(self.sampling.input), missing[0], message)
        only = next(iter(latents.values()))
        return torch.from_numpy(np.stack([latents.get(p.id, only) for p in prompts]))

    def batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        size = 1 if self.sampling.exact else self.sampling.batch_size
        for start in range(0, len(items), size):
            yield items[start : start + size]

    def texts(self, names: Sequence[str], samples: TextSamples, with_latents: bool = False) -> Iterator[Record]:
        for i, (name, text) in enumerate(zip(names, samples.texts(self.restored.tokenizer), strict=True)):
            record: Record = {"id": name, "text": text}
            if with_latents and samples.latent is not None:
                record["latent"] = _numbers(samples.latent[i])
            if samples.score is not None:
                record["score"] = round(float(samples.score[i]), 6)
            yield record


def _numbers(latent: Tensor) -> list[Any]:
    """[D] where there is one vector, else [L][D]."""
    return (latent[0] if len(latent) == 1 else latent).tolist()


def _rows(names: Sequence[str]) -> list[int]:
    """The identity of each sample: 62 bits of its id."""
    return [int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 2 for name in names]


def _l2t(job: Job) -> tuple[int, Iterator[Record]]:
    latents = job.latents()

    def records() -> Iterator[Record]:
        for names in job.batches(list(latents)):
            condition, options = torch.from_numpy(np.stack([latents[name] for name in names])), job.steering()
            given = {"rows": _rows(names), "seq_len": job.room, **options}
            if job.sampling.best_of > 1 or job.sampling.rounds:
                yield from job.texts(names, best_of(job.restored.model, condition, job.sampling.best_of, job.sampling.rounds, **given))
            else:
                yield from job.texts(names, sample_text_from_latent(job.restored.model, condition, **given))

    return len(latents), records()


def _t2l(job: Job) -> tuple[int, Iterator[Record]]:
    prompts, asked, model = job.prompts(), job.sampling, job.restored.model

    def records() -> Iterator[Record]:
        for part in job.batches(prompts):
            (ids, _, seen), rows = padded(part), _rows([p.id for p in part])
            if asked.mode == "encode":
                latent = model.unstandardise(read_posterior(model, ids, seen).mean)
            elif asked.average == 0:
                latent = predict_latent(model, ids, seen, asked.guidance_scale, asked.seed, rows)
            else:
                options = {"sampler": asked.latent_sampler, "average": asked.average, "seed": asked.seed, "rows": rows}
                latent = sample_latent_from_text(model, ids, seen, None, asked.num_steps, asked.guidance_scale, **options)  # type: ignore[arg-type]
            yield from ({"id": p.id, "latent": _numbers(z)} for p, z in zip(part, latent, strict=True))

    return len(prompts), records()


def _drawn(job: Job) -> tuple[int, Iterator[Record]]:
    rows, draw = list(range(job.sampling.num_samples)), DRAWN[job.sampling.mode]

    def records() -> Iterator[Record]:
        for part in job.batches(rows):
            options = {**job.steering(), "sampler": job.sampling.latent_sampler, "rows": part}
            samples = draw(job.restored.model, len(part), job.room, **options)
            yield from job.texts([str(row) for row in part], samples, with_latents=True)

    return len(rows), records()


def _refined(job: Job, prompts: list[Prompt], latents: Tensor | None) -> Iterator[Record]:
    model = job.restored.model
    for part in job.batches(range(len(prompts))):
        chosen = [prompts[i] for i in part]
        ids, given, seen = padded(chosen)
        latent = None if latents is None else latents[list(part)]
        options = {**job.steering(), "rows": _rows([p.id for p in chosen])}
        if job.sampling.mode == "infill":
            samples = infill(model, ids, given, latent, seen, **options)
        else:
            assert latent is not None
            samples = edit(model, ids, job.sampling.share, latent, seen, **options)
        yield from job.texts([p.id for p in chosen], samples)


def _infill(job: Job) -> tuple[int, Iterator[Record]]:
    prompts = job.prompts(holes=True)
    return len(prompts), _refined(job, prompts, None if job.sampling.input is None else job.partners(prompts))


def _edit(job: Job) -> tuple[int, Iterator[Record]]:
    prompts = job.prompts()
    return len(prompts), _refined(job, prompts, job.partners(prompts))


def _interpolate(job: Job) -> tuple[int, Iterator[Record]]:
    latents = job.latents()
    if len(latents) != 2:
        raise InputError("BAD_SHAPE", str(job.sampling.input), "sampling.input", f"two latents are expected, got {len(latents)}")
    first, last = (torch.from_numpy(z) for z in latents.values())
    samples = interpolate(job.restored.model, first, last, job.sampling.num_samples, seq_len=job.room, **job.steering())
    return job.sampling.num_samples, job.texts([str(i) for i in range(job.sampling.num_samples)], samples, with_latents=True)


DRAWN: dict[str, Callable[..., TextSamples]] = {"joint": sample_joint, "prior": sample_text_from_prior}

MODES: dict[str, Callable[[Job], tuple[int, Iterator[Record]]]] = {
    "l2t": _l2t,
    "t2l": _t2l,
    "encode": _t2l,
    "joint": _drawn,
    "prior": _drawn,
    "infill": _infill,
    "edit": _edit,
    "interpolate": _interpolate,
}
