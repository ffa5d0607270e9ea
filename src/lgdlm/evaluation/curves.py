"""From logged series to charts: one chart a quantity, one curve a mode, validation as points on it.

    smooth_k = sum_i w(i - k) raw_i / sum_i w(i - k),   w a triangle of half width `window`

"l2t/nelbo" and "unconditional/nelbo" share a chart; "validation/nelbo_given_z" joins the one whose quantity it begins with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lgdlm.evaluation.plot import Chart, Line
from lgdlm.evaluation.run_record import Series

QUANTITIES = {
    "nelbo": ("NELBO", "nats per token, length included"),
    "latent_loss": ("Latent loss", "squared error per dimension, as trained"),
    "text_accuracy": ("Text accuracy", "share of masked or noised tokens named right"),
    "length_loss": ("Length loss", "nats per text"),
    "text_loss": ("Text bound", "nats per token, without the length"),
    "text_cross_entropy": ("Cross entropy of masked or noised tokens", "nats, unweighted"),
    "text_squared_error": ("Squared error of estimated embeddings", "per dimension, unweighted"),
    "base_l2t_text_loss": ("Text bound of l2t, beside its cycles", "nats per token, without the length"),
    "base_t2l_latent_loss": ("Latent loss of t2l, beside its cycles", "squared error per dimension, as trained"),
    "cycle_text_loss": ("Text cycle, through the mean", "nats per token, without the length"),
    "cycle_text_loss_sampled": ("Text cycle, through a sampled latent", "nats per token, without the length"),
    "cycle_latent_loss": ("Latent cycle", "squared error per dimension, standardised"),
    "latent_norm": ("Norm of standardised latents", ""),
    "latent_pred_norm": ("Norm of predicted latents", ""),
    "loss": ("Loss of the step's objective", ""),
    "grad_norm": ("Gradient norm before clipping", ""),
    "lr": ("Learning rate", ""),
    "tokens_per_second": ("Throughput", "tokens per second"),
    "rows_per_second": ("Throughput", "rows per second"),
}
FIRST = ("nelbo", "latent_loss", "text_accuracy", "length_loss")
THROUGHPUT = ("tokens_per_second", "rows_per_second")
MODES = ("l2t", "t2l", "unconditional")
VALIDATION = "validation"
# a check on held-out text: its label, and the mode whose colour it shares
CHECKS = {
    "nelbo_given_z": ("held-out given z", "l2t"),
    "nelbo_alone": ("held-out without z", "unconditional"),
    "latent_loss": ("held-out", "t2l"),
}
COLOURS = 6


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over neighbours, nearer ones counting more: it follows a falling curve without lag, and ends use the side that they have."""
    triangle = np.concatenate([np.arange(1, window), np.arange(window, 0, -1)]).astype(np.float64)

    def sums(series: np.ndarray) -> np.ndarray:
        return np.convolve(series, triangle)[window - 1 : window - 1 + len(series)]

    return sums(values) / sums(np.ones(len(values)))


def window_of(count: int) -> int:
    """Values on each side that one smoothed value draws from: a fiftieth of the run, at least five."""
    return max(5, count // 50)


def charts_of(series: Mapping[str, Series]) -> dict[str, Chart]:
    """Every logged quantity as a chart, by its name; known quantities first, in reading order."""
    lines: dict[str, list[Line]] = {}
    names = [name for name in series if not name.startswith(f"{VALIDATION}/")]
    colours = {mode: i for i, mode in enumerate(MODES)}
    for name in names:
        mode, slash, quantity = name.partition("/")
        quantity, label = (quantity, mode) if slash else (name, "every step")
        colour = colours.setdefault(label, len(colours)) if slash else 0
        lines.setdefault(quantity, []).append(_line(label, colour % COLOURS, series[name]))
    for name in series:
        head, _, check = name.partition("/")
        if head == VALIDATION:
            quantity = max((q for q in lines if check.startswith(q)), key=len, default=check)
            label, mode = CHECKS.get(check, (f"held-out {check.replace('_', ' ')}", check))
            colour = colours.setdefault(mode, len(colours))
            steps, values = series[name]
            lines.setdefault(quantity, []).append(Line(label, colour % COLOURS, steps, values, values, points=True))
    order = [*(q for q in QUANTITIES if q in lines), *sorted(q for q in lines if q not in QUANTITIES)]
    return {q: Chart(_identifier(q), *QUANTITIES.get(q, (q.replace("_", " ").capitalize(), "")), _sorted(lines[q])) for q in order}


def _line(label: str, colour: int, series: Series) -> Line:
    return Line(label, colour, series.steps, series.values, smoothed(series.values, window_of(len(series.values))))


def _sorted(lines: list[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (line.points, line.colour))


def _identifier(name: str) -> str:
    """A name that HTML takes as an id; log names are ours or the user's."""
    return "q-" + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in name)
