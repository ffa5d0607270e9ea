"""`lgdlm evaluate`: a checkpoint against held-out texts; one table on stdout, one JSON object on disk."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lgdlm.cli.checklist import prove, read_boxes, refuse_unproven
from lgdlm.cli.progress import Bar, progress, say, say_damage, shown
from lgdlm.config import Config
from lgdlm.data.loader import frame_of
from lgdlm.data.paired import PairedDataset
from lgdlm.data.sources import open_split
from lgdlm.errors import InputError
from lgdlm.evaluation import Results, evaluate
from lgdlm.evaluation.retention import Retention
from lgdlm.hardware import compute_dtype
from lgdlm.models.adoption import backbone_of
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.training.agreement import same_data
from lgdlm.training.backbone import adopted_weights
from lgdlm.training.checkpoint import read_state
from lgdlm.training.restore import Restored, restore
from lgdlm.training.splits import sources_of

RESULTS = "results.json"
WIDTH = 160  # of the table where stdout is no terminal
UNAVAILABLE = ("MISSING_PACKAGE", "MISSING_FILE", "BAD_ENCODER")


def run(config: Config) -> int:
    """Evaluate `evaluation.checkpoint`, print the table, write the results, tick the boxes of `evaluation.checklist`; 0."""
    checklist = None if config.evaluation.checklist is None else Path(config.evaluation.checklist)
    if checklist is not None:
        read_boxes(checklist)  # what is wrong with it is said before the work, not after
    results, path = evaluate_checkpoint(config)
    with shown():
        print_table(results)
    say(f"results: {path}")
    if checklist is not None:
        tick(checklist, results)
    return 0


def tick(checklist: Path, results: Results) -> None:
    """The boxes tried on the checkpoint of `results`, the copy written into its run. Raises CheckpointError where one is not proven."""
    checkpoint = Path(results.model["checkpoint"])
    with tempfile.TemporaryDirectory(prefix="lgdlm-") as folder:
        places = {"checkpoint": str(checkpoint), "data": results.data["folder"], "out": folder}
        boxes, copy = prove(checklist, results, places, checkpoint.parent)
    say(f"checklist: {sum(box.reason is None for box in boxes)} of {len(boxes)} boxes proven, {copy}")
    refuse_unproven(boxes, copy)


def evaluate_checkpoint(config: Config) -> tuple[Results, Path]:
    """The results and the file they were written to. Raises CheckpointError, InputError, StorageError."""
    asked = config.evaluation
    if asked.checkpoint is None:
        raise InputError("CONFIG", "command-line", "evaluation.checkpoint", "expected a checkpoint or a run folder, got nothing")
    restored = restore(asked.checkpoint, use_ema=True, passed_over=say_damage if asked.fallback else None)
    train, held_out = _data(config, restored)
    absent: dict[str, str] = {}
    encoder, judge = _encoder(asked.encoder, held_out, absent), _judge(asked.judge, absent)
    with _Stages() as stages:
        results = evaluate(
            restored.model,
            restored.tokenizer,
            train,
            held_out,
            encoder,
            restored.projection,
            num_samples=asked.num_samples,
            seed=asked.seed,
            num_steps=asked.num_steps,
            guidance_scale=asked.guidance_scale,
            temperature=asked.temperature,
            order=asked.order,
            best_of=asked.best_of,
            rounds=asked.rounds,
            bootstrap=asked.bootstrap,
            likelihood_draws=asked.likelihood_draws,
            latent_steps=asked.latent_steps,
            frame=frame_of(
                restored.config.model.length,
                eos_id=restored.tokenizer.eos_id,
                max_length=restored.config.model.max_seq_len,
                fill_multiple=restored.config.model.row_multiple,
            ),
            judge=judge,
            retention=_retention(restored, absent),
            absent=absent,
            facts=_facts(restored, held_out),
            compute_dtype=compute_dtype(asked.dtype, restored.model.device.type),
            on_progress=stages.report,
        )
    path = results_file(asked.out, restored.folder)
    results.write(path)
    return results, path


def results_file(out: str | None, checkpoint: Path) -> Path:
    """results.json beside the checkpoint, in its run; or in the folder `out`, where it is one or ends with a slash; or the file `out`."""
    if out is None:
        return checkpoint.parent / RESULTS
    return Path(out) / RESULTS if out.endswith("/") or Path(out).is_dir() else Path(out)


def _data(config: Config, restored: Restored) -> tuple[PairedDataset, PairedDataset]:
    """Both splits of the folder given, else of the one the checkpoint was trained on.

    A run that was trained without the data's latents is measured with its own; a folder that is named is measured with the folder's,
    unless data.use_external_latents=false.
    """
    trained, here = restored.config.data, config.data
    folder = here.latent_dir or ("" if here.sources else trained.latent_dir)
    tokens = here.token_dir or ("" if here.latent_dir else trained.token_dir)
    sources = sources_of(here) or ({} if folder else sources_of(trained))
    options: dict[str, Any] = {
        "token_dir": tokens or None,
        "latent_dim": restored.config.model.latent_dim,
        "vocab_size": restored.tokenizer.vocab_size,
        "external_latents": here.use_external_latents and (trained.use_external_latents or bool(here.latent_dir)),
    }
    train = open_split(folder, sources, "train", limit=here.max_samples or trained.max_samples, **options)
    same_data(restored.folder, train.manifest if train.has_latents else replace(train.manifest, projection=None))
    return train, open_split(folder, sources, "validation", train=train, **options)


def _encoder(name: str | None, held_out: PairedDataset, absent: dict[str, str]) -> Any:
    """The encoder asked for, else the one that made the latents; None with the reason where that one is not at hand."""
    from lgdlm.data.encoder import load_encoder

    if name is not None:
        return load_encoder(name)
    identity = held_out.manifest.encoder
    if not identity:
        absent["encoder"] = "the data does not name the encoder of its latents; give evaluation.encoder"
        return None
    try:
        return load_encoder(identity)
    except InputError as problem:
        if problem.code not in UNAVAILABLE:
            raise
        absent["encoder"] = f"{problem.where}: {problem.message}"
    except ModuleNotFoundError as missing:
        absent["encoder"] = f"package {missing.name} is not installed"
    return None


def _judge(wanted: bool, absent: dict[str, str]) -> Any:
    from lgdlm.evaluation.judge import load_judge

    if not wanted:
        absent["judge"] = "evaluation.judge is false"
        return None
    try:
        return load_judge()
    except InputError as problem:
        if problem.code not in UNAVAILABLE:
            raise
        absent["judge"] = f"package {str(problem.where).replace('_', '-')} is not installed"
    return None


def _retention(restored: Restored, absent: dict[str, str]) -> Retention | None:
    """The language models before and after, of a run that started from pretrained weights which are still there."""
    try:
        weights = adopted_weights(restored.config, restored.tokenizer, restored.folder)
    except InputError as problem:
        absent["retention"] = f"{problem.where}: {problem.message}"
        return None
    denoiser, device = restored.model.denoiser, restored.model.device
    if weights is None or not isinstance(denoiser, RWKVDenoiser):
        return None
    return Retention(weights.model().to(device), backbone_of(denoiser, weights), restored.tokenizer.eos_id)


def _facts(restored: Restored, data: PairedDataset) -> dict[str, dict[str, Any]]:
    model = {"checkpoint": str(restored.folder), "step": restored.model.identity["step"], "denoiser": restored.config.model.denoiser}
    state = read_state(restored.folder)
    spent: dict[str, Any] = {name: state[name] for name in ("seconds", "peak_memory_bytes") if name in state}
    return {"model": {**model, **spent}, "data": {"folder": str(data.folder)}}


def print_table(results: Results) -> None:
    """Every number with its interval and its baselines."""
    from rich.console import Console
    from rich.table import Table

    table = Table("number", "value", "95 % interval", "better", "baselines", title=f"{results.data['evaluated']} held-out texts")
    group = ""
    for entry in results.numbers:
        if group and entry["group"] != group:
            table.add_section()
        group = entry["group"]
        interval = "" if entry["low"] is None else f"{entry['low']:.3f} .. {entry['high']:.3f}"
        beside = ", ".join(f"{name} {value:.3f}" for name, value in entry["baselines"].items())
        label = f"{entry['label']} [{entry['unit']}]" if entry["unit"] else entry["label"]
        table.add_row(label.replace("[", r"\["), f"{entry['value']:.3f}", interval, entry["better"].replace("none", ""), beside)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console = Console(width=WIDTH)
    console.print(table)
    for entry in results.not_run:
        console.print(f"not run: {entry['what']}: {entry['reason']}", markup=False, highlight=False)


@dataclass
class _Stages:
    """One bar after another: a new one when the stage changes."""

    stage: str = ""
    done: int = 0
    bar: Bar | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *problem: object) -> None:
        self.stack.close()

    def report(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stack.close()
            self.stage, self.done = stage, 0
            self.bar = self.stack.enter_context(progress(total, stage))
        assert self.bar is not None
        self.bar.advance(done - self.done)
        self.done = done
