"""What a run of a thousand million pairs on 64 GPUs needs, from measured constants.

    python benchmarks/scaling.py [constants=benchmarks/scale.json] [docs=docs/scaling.md] [pairs=...] [gpus=...] [tokens=...] [batch=...]

    bytes of a pair   2 T tokens + T b text + 4 D latent + id and offsets
    step              3 F(batch) / (gpus * peak * utilisation),   F: flops of a forward pass (lgdlm.models.flops)
    interval          Young   sqrt(2 C M)
                      Daly    sqrt(2 C M) (1 + sqrt(C / 2 M) / 3 + (C / 2 M) / 9) - C      C: seconds a save takes, M: between failures
    lost              C / interval + interval / (2 M) + restart / M                        as a share of the run

What was measured comes from `benchmarks/scale.py out=benchmarks/scale.json`; what cannot be measured without the cluster is in GIVEN,
with its source. Prints Markdown, or writes it between the markers of the page `docs`.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lgdlm.config import RWKV7Model
from lgdlm.models.build import build_denoiser
from lgdlm.models.flops import formula

BEGIN, END = "<!-- benchmarks/scaling.py -->", "<!-- end -->"
MODEL = RWKV7Model(hidden_size=1024, n_blocks=24, causality="bidirectional", max_seq_len=512)
VOCAB = 65_536
ID_BYTES, OFFSET_BYTES = 24, 24  # a stem of the usual form; three int64
STATE_BYTES = 16  # a parameter: weight, average and two moments in float32
RUN_SHARDS = 64 << 20  # bytes of a shard as prepare writes it

GIVEN: dict[str, tuple[float, str]] = {
    "peak": (989e12, "flops a second of one GPU: H100 SXM data sheet, bf16 without sparsity"),
    "utilisation": (0.40, "share of the peak that training reaches: 38 to 43 % in Llama 3 (arXiv:2407.21783, table 4)"),
    "gpu_hours_between_failures": (
        16384 * 54 * 24 / 419,
        "419 unexpected interruptions in 54 days on 16,384 GPUs (arXiv:2407.21783, section 3.3.4)",
    ),
    "restart": (300.0, "seconds to notice, schedule and start again: assumed; the system notices a lost peer within 30"),
    "cores": (16.0, "processor cores beside each GPU: assumed, of a node with 8 GPUs and 128 cores"),
}


def young(save: float, between: float) -> float:
    """Seconds between saves, first order."""
    return math.sqrt(2 * save * between)


def daly(save: float, between: float) -> float:
    """Seconds between saves, Daly's higher order; `between` where a save takes more than twice that."""
    if save >= 2 * between:
        return between
    ratio = save / (2 * between)
    return young(save, between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def lost(save: float, interval: float, between: float, restart: float) -> float:
    """Share of the time that saving, repeating lost steps and restarting take."""
    return save / interval + (interval / 2 + restart) / between


@dataclass(frozen=True)
class Plan:
    """A run to be planned: `tokens` a text on average, `batch` rows a step over all ranks, `epochs` passes."""

    pairs: int = 1_000_000_000
    gpus: int = 64
    tokens: int = 128
    batch: int = 16_384
    epochs: int = 1


def parameters() -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_denoiser(MODEL, VOCAB).parameters())


def figures(plan: Plan, measured: dict[str, float]) -> list[tuple[str, str, str]]:
    """Rows of the table: what, how much, from what."""
    g = {name: value for name, (value, _) in GIVEN.items()}
    count = parameters()
    read = 2 * plan.tokens + 4 * MODEL.latent_dim + ID_BYTES + OFFSET_BYTES * 2 / 3  # a step reads no text and no offsets of texts
    pair = read + OFFSET_BYTES / 3 + plan.tokens * measured["text_bytes_a_token"]
    total = plan.pairs * pair
    asked = plan.batch * plan.tokens // 2  # half of the tokens are masked, on average
    flops = 3 * formula(MODEL, VOCAB, plan.batch, plan.tokens, asked).total
    step = flops / (plan.gpus * g["peak"] * g["utilisation"])
    steps = plan.epochs * plan.pairs // plan.batch
    rate = plan.batch / step
    made = measured["ranked_step_seconds"] * plan.batch / measured["ranked_rows"]
    opened = measured["open_seconds"] / measured["pairs"] * plan.pairs
    saved = count * STATE_BYTES
    save = saved / measured["written_bytes_a_second"]
    between = g["gpu_hours_between_failures"] * 3600 / plan.gpus
    every = daly(save, between)
    restart = g["restart"] + opened + saved / measured["hash_bytes_a_second"]
    embedded = plan.pairs * plan.tokens / measured["encoded_tokens_a_second"]
    cores = plan.gpus * g["cores"]
    return [
        ("parameters", f"{count / 1e6:,.0f} million", f"RWKV-7, width {MODEL.hidden_size}, {MODEL.n_blocks} blocks, {VOCAB:,} ids"),
        (
            "bytes of a pair",
            f"{pair:,.0f}",
            f"{plan.tokens} tokens of {measured['text_bytes_a_token']:.2f} bytes, {MODEL.latent_dim} numbers, id",
        ),
        ("bytes on disk", f"{total / 1e12:.2f} TB", f"{total / RUN_SHARDS:,.0f} shards of 64 MB"),
        (
            "encoding the texts",
            f"{embedded / 3600:,.0f} core hours",
            f"{measured['encoded_tokens_a_second']:,.0f} tokens a second and core (MiniLM)",
        ),
        ("the same on the nodes' own cores", f"{embedded / 3600 / cores:,.1f} hours", f"`prepare engine=ray num_workers={cores:,.0f}`"),
        (
            "`lgdlm check`, once",
            f"{total / measured['check_bytes_a_second'] / 3600:,.1f} hours",
            f"{measured['check_bytes_a_second'] / 1e6:,.0f} MB a second, one core",
        ),
        (
            "opening with `data.verify=false`",
            f"{opened:,.0f} s",
            f"{measured['open_seconds']:.2f} s for {measured['pairs'] / 1e6:,.0f} million pairs",
        ),
        (
            "own memory of the data, a process",
            f"{measured['own_bytes'] / 1e6:,.0f} MB",
            "measured with ten million pairs; a window, whatever the number",
        ),
        ("flops of a step", f"{flops:.2e}", f"{plan.batch:,} rows; forward and twice that backward"),
        ("steps", f"{steps:,}", f"{plan.epochs} pass over {plan.pairs:,} pairs"),
        ("seconds a step", f"{step:.2f}", f"{plan.gpus} GPUs at {100 * g['utilisation']:.0f} % of {g['peak'] / 1e12:,.0f} Tflop/s"),
        ("days", f"{steps * step / 86400:,.1f}", "without what failures take"),
        ("samples a second, all ranks", f"{rate:,.0f}", f"{rate / plan.gpus:,.0f} a rank"),
        ("share of one core for loading, a rank", f"{100 * made / step:.1f} %", f"{1000 * made:.0f} ms for its rows and all names"),
        ("reading from disk, all ranks", f"{rate * read / 1e6:,.0f} MB a second", f"{read:,.0f} bytes of a pair; texts are not read"),
        ("bytes of a checkpoint", f"{saved / 1e9:.1f} GB", f"{STATE_BYTES} a parameter"),
        (
            "seconds a save",
            f"{save:.0f}",
            f"{measured['written_bytes_a_second'] / 1e6:,.0f} MB a second, hashed and flushed by one process",
        ),
        ("hours between failures", f"{between / 3600:,.0f}", f"{g['gpu_hours_between_failures']:,.0f} GPU hours each"),
        ("failures expected", f"{steps * step / between:.2f}", "in the days above"),
        ("saving every (Young)", f"{young(save, between) / 60:,.0f} minutes", "sqrt(2 C M)"),
        ("saving every (Daly)", f"{every / 60:,.0f} minutes", f"`training.save_every_n_steps={max(1, round(every / step)):,}`"),
        ("lost to saves and failures", f"{100 * lost(save, every, between, restart):.2f} %", "at Daly's interval"),
    ]


def table(plan: Plan, measured: dict[str, float]) -> str:
    lines = ["| what | needs | from |", "|---|---|---|"]
    lines += [f"| {what} | {value} | {source} |" for what, value, source in figures(plan, measured)]
    lines += ["", "Given, because they cannot be measured without the cluster:", "", "| constant | value | source |", "|---|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value:,.4g} | {source} |" for name, (value, source) in GIVEN.items()]
    return "\n".join(lines)


def into(page: str, generated: str) -> str:
    """The page with `generated` between its markers."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{generated}\n{END}{rest.split(END, 1)[1]}"


def main(constants: str = str(Path(__file__).with_name("scale.json")), docs: str | None = None, **words: Any) -> None:
    measured = json.loads(Path(constants).read_text())
    generated = table(Plan(**{name: int(value) for name, value in words.items()}), measured)
    if docs is None:
        print(generated)
    else:
        Path(docs).write_text(into(Path(docs).read_text(encoding="utf-8"), generated), encoding="utf-8")


if __name__ == "__main__":
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))
