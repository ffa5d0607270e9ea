"""The sampling commands: old flags to the keys of `lgdlm sample`, and its samples to the old files.

OUT/generated_texts.txt          line i is text i, a line break in it written as \\n
OUT/generated_latent_%03d.npy    float32 [D]
OUT/results.json                 the settings and every sample
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.cli.compose import compose
from lgdlm.cli.progress import progress, say
from lgdlm.cli.sample import drawn
from lgdlm.config import Config
from lgdlm.data.storage import make_folder, write_aside, write_bytes, write_json
from lgdlm.doors.flags import Flag, Given, run_flags

PLACES = (
    Flag("checkpoint", required=True, help="a run, or one of its checkpoints"),
    Flag("config", help="means nothing any more: a checkpoint carries its configuration"),
    Flag("output_dir", default="samples", help="folder of the files to write"),
)
BATCH = Flag("batch_size", int, 64, help="samples drawn together")
L2T = (
    *PLACES,
    BATCH,
    Flag("npy_dir", required=True, help="latents: a folder of .npy files, or one file"),
    Flag("num_samples", int, help="the first latents only; without it: all"),
    Flag("steps", int, 50, help="steps of the reverse process"),
    Flag("temperature", float, 1.0, help="of the token draws"),
    Flag("seq_len", int, help="tokens of each text; without it the model says"),
)
T2L = (
    *PLACES,
    BATCH,
    Flag("text_file", help="texts: a line each (.txt), or JSONL, JSON, Parquet"),
    Flag("text_prompt", help="one text, instead of a file"),
    Flag("num_samples", int, help="the first texts of the file only; of a prompt: how many draws"),
    Flag("steps", int, 50, help="steps of the reverse process"),
    Flag("guidance_scale", float, 1.0, help="classifier-free guidance; 1: none"),
    Flag("max_length", int, help="longer texts are refused; without it: what the model has room for"),
)
UNCONDITIONAL = (
    *PLACES,
    BATCH,
    Flag("num_latents", int, 8, help="pairs of latent and text"),
    Flag("text_steps", int, 50, help="steps of the text's clock"),
    Flag("latent_steps", int, 50, help="steps of the latent's clock; both run together, in the larger number of steps"),
    Flag("temperature", float, 1.0, help="of the token draws"),
    Flag("seq_len", int, help="tokens of each text; without it the model says"),
)


def sample_l2t() -> int:
    """The exit code of `latentDLM_mmdit/sample_l2t_fixed.py`."""
    return run_flags("Texts from latents.", L2T, _l2t)


def sample_t2l() -> int:
    """The exit code of `latentDLM_mmdit/sample_t2l_fixed.py`."""
    return run_flags("Latents from texts.", T2L, _t2l)


def sample_unconditional() -> int:
    """The exit code of `latentDLM_mmdit/sample_unconditional_fixed.py`."""
    return run_flags("Texts and latents together.", UNCONDITIONAL, _unconditional)


def _l2t(given: Given) -> int:
    asked = {"input": given["npy_dir"], "limit": given["num_samples"], "num_steps": given["steps"]}
    return _write(given, "l2t", {**asked, "temperature": given["temperature"], "seq_len": given["seq_len"]})


def _t2l(given: Given) -> int:
    asked = {"num_steps": given["steps"], "guidance_scale": given["guidance_scale"], "max_tokens": given["max_length"]}
    if given["text_prompt"] is None or given["text_file"] is not None:  # both: refused by `lgdlm sample` with its reason
        named = {"prompts": given["text_file"], "prompt": given["text_prompt"], "limit": given["num_samples"]}
        return _write(given, "t2l", {**asked, **named})
    with tempfile.TemporaryDirectory(prefix="lgdlm-") as folder:  # several draws of one text are several prompts
        path = Path(folder, "prompts.jsonl")
        rows = [{"id": f"prompt-{i}", "text": given["text_prompt"]} for i in range(given["num_samples"] or 1)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return _write(given, "t2l", {**asked, "prompts": str(path)})


def _unconditional(given: Given) -> int:
    text, latent = given["text_steps"], given["latent_steps"]
    if text != latent:
        say(f"note: text and latent are drawn in one reverse process: {max(text, latent)} steps for both (asked: {text} and {latent})")
    asked = {"num_samples": given["num_latents"], "num_steps": max(text, latent), "temperature": given["temperature"]}
    return _write(given, "joint", {**asked, "seq_len": given["seq_len"]})


def _write(given: Given, mode: str, asked: dict[str, Any]) -> int:
    """Draw as asked and write the files; further words of the command line come last, as everywhere."""
    if given["config"] is not None:
        say(f"note: --config {given['config']} is ignored: a checkpoint carries its configuration")
    named = {"mode": mode, "checkpoint": given["checkpoint"], "batch_size": given["batch_size"], **asked}
    config = compose([*(f"sampling.{name}={value}" for name, value in named.items() if value is not None), *given.words])
    total, records = drawn(config)
    samples = list[dict[str, Any]]()
    with progress(total, mode) as bar:
        for record in records:
            samples.append(record)
            bar.advance()
    folder = make_folder(Path(given["output_dir"]))
    write_files(folder, config, samples)
    say(f"{total} samples: {folder}")
    return 0


def write_files(folder: Path, config: Config, samples: Sequence[Mapping[str, Any]]) -> None:
    """The old files of the samples; those of an earlier call are replaced."""
    for old in (*folder.glob("generated_latent_*.npy"), folder / "generated_texts.txt"):
        old.unlink(missing_ok=True)
    listed = list[dict[str, Any]]()
    for i, sample in enumerate(samples):
        listed.append(dict(sample))
        if "latent" in sample:
            listed[-1]["latent"] = f"generated_latent_{i:03d}.npy"
            with write_aside(folder / listed[-1]["latent"]) as file:
                np.save(file, np.asarray(sample["latent"], np.float32), allow_pickle=False)
    if lines := [one_line(sample["text"]) + "\n" for sample in samples if "text" in sample]:
        write_bytes(folder / "generated_texts.txt", "".join(lines).encode("utf-8", "replace"))
    write_json(folder / "results.json", {"settings": asdict(config.sampling), "samples": listed})


def one_line(text: str) -> str:
    """A text without line breaks: each stands as its escape, and so does a backslash."""
    return text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
