"""One picture of a run: a held-out latent's text being denoised, and three numbers beside their baselines.

    row = step of the reverse process, column = token; a mask is as wide as the token that will stand there

An SVG with its own ground and its own dark colours, so that it reads on any page; widths are counted in columns of a monospaced font.
"""

from __future__ import annotations

import unicodedata
from html import escape
from pathlib import Path
from typing import Any

from lgdlm.data.storage import make_folder, write_bytes
from lgdlm.errors import InputError
from lgdlm.evaluation.headline import headline_numbers, strongest
from lgdlm.evaluation.number_table import DIRECTIONS, shown
from lgdlm.evaluation.run_record import RESULTS, read_run

NUMBERS = ("nelbo_given_latent", "t2l_r2_one_step", "l2t_cosine_projected", "l2t_r1_projected", "l2t_bleu", "nelbo_latent_gain")
WIDTH, MARGIN, CLOCK = 880, 32, 84
COLUMN, LINE, FONT = 8.6, 22, 14  # of the token font: advance, height, size
LEAST_SCALE = 0.78  # a text that fits on one line when it is drawn this small stays on one
LETTER = 7.6  # of the source's font
ROOM = WIDTH - 2 * MARGIN - CLOCK
ROWS = 9
STYLE = """
.ground{fill:#fbfbfa;stroke:#dcdcd7}.ink{fill:#1c1d1f}.quiet{fill:#62656b}.mask{fill:#d6d6d1}.fresh{fill:#ffe59a}.rule{stroke:#dcdcd7}
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-variant-numeric:tabular-nums}
.token{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}
@media (prefers-color-scheme:dark){.ground{fill:#181a1e;stroke:#34383e}.ink{fill:#e6e6e3}.quiet{fill:#a0a4ab}.mask{fill:#3f444b}
.fresh{fill:#5f4e14}.rule{stroke:#34383e}}
"""


def summary_figure(run_dir: Path, out: Path) -> Path:
    """Draw the first trajectory of RUN/results.json and three of its numbers into the SVG file `out`; returns it.

    Raises InputError for a name that does not end in .svg and for results without a trajectory, StorageError where the disk refuses.
    """
    if out.suffix != ".svg":
        raise InputError("CONFIG", out, "out", "expected a name that ends in .svg")
    results = read_run(run_dir).results
    if results is None or not results["trajectory"]:
        raise InputError("MISSING_FILE", run_dir / RESULTS, "trajectory", "there is none to draw; `lgdlm evaluate` records it")
    make_folder(out.parent)
    write_bytes(out, draw(results["trajectory"][0], headline_numbers(results["numbers"], NUMBERS)[:3]).encode("utf-8", "replace"))
    return out


def draw(trajectory: dict[str, Any], numbers: list[dict[str, Any]]) -> str:
    """The SVG of one trajectory ({source_text, steps}) and of up to three numbers."""
    steps = trajectory["steps"]
    places, lines, scale = layout(steps[-1]["tokens"])
    column = COLUMN * scale
    chosen = sorted({round(i * (len(steps) - 1) / (ROWS - 1)) for i in range(ROWS)})
    parts, y = [_text(MARGIN, 44, "quiet", 13, "source")], 44
    for words in wrapped(trajectory["source_text"], int(ROOM / LETTER)):
        parts.append(_text(MARGIN + CLOCK, y, "ink", 15, words))
        y += 21
    y += 16
    parts.append(f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y - 22}" y2="{y - 22}"/>')
    before: list[bool] = []
    for i in chosen:
        step = steps[i]
        parts.append(_text(MARGIN, y, "quiet", 13, f"t = {step['clock']:.2f}"))
        for (start, line, width), word, masked, was in zip(places, step["tokens"], step["masked"], before or step["masked"], strict=True):
            parts += _token(MARGIN + CLOCK + start * column, y + line * LINE, width, column, word, masked, was and not masked)
        before = step["masked"]
        y += lines * LINE + 5
    if numbers:
        y += 6
        parts.append(f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y - 12}" y2="{y - 12}"/>')
        for i, entry in enumerate(numbers):
            parts += _number(MARGIN + i * (WIDTH - 2 * MARGIN) / 3, y + 14, entry)
        y += 98
    said = "".join(steps[-1]["tokens"])
    title = escape(f"Denoising of a text from the latent of: {trajectory['source_text']}. Drawn: {said}")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img"><title>{title}</title>'
    )
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="8"/>'
    return _printable(f"{head}<style>{STYLE}</style>{ground}{''.join(parts)}</svg>\n")


def layout(tokens: list[str]) -> tuple[list[tuple[int, int, int]], int, float]:
    """(column, line, width in columns) of each token, the number of lines, and the scale of the font.

    Lines break in front of a word, and inside one only where it alone is wider than the picture.
    """
    whole = sum(max(1, columns(token)) for token in tokens)
    scale = min(1.0, max(LEAST_SCALE, ROOM / COLUMN / max(1, whole)))
    if ROOM / COLUMN / scale < whole:
        scale = 1.0
    most = int(ROOM / COLUMN / scale)
    places: list[tuple[int, int, int]] = []
    column = line = first = 0  # `first`: the token that begins the current word
    for i, token in enumerate(tokens):
        width = min(most, max(1, columns(token)))
        if token[:1].isspace():
            first = i
        if column + width > most:
            held = places[first:] if first < i and places[first][0] > 0 else []  # the begun word moves to the next line with its end
            line, column = line + 1, 0
            del places[i - len(held) :]
            for _, _, wide in held:
                places.append((column, line, wide))
                column += wide
        places.append((column, line, width))
        column += width
    return places, line + 1, scale


def columns(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for those that combine."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(text: str, most: int) -> list[str]:
    """Lines of at most `most` characters, broken between words where possible."""
    lines = [""]
    for word in text.split():
        for part in [word[i : i + most] for i in range(0, len(word), most)]:
            if lines[-1] and len(lines[-1]) + 1 + len(part) > most:
                lines.append("")
            lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def _text(x: float, y: float, tone: str, size: int, text: str, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text class="{tone}" x="{x:.1f}" y="{y:.1f}" font-size="{size}"{bold}>{escape(text)}</text>'


def _token(x: float, y: float, wide: int, column: float, word: str, masked: bool, fresh: bool) -> list[str]:
    width = wide * column
    if masked:
        return [f'<rect class="mask" x="{x + 1.5:.1f}" y="{y - 12:.1f}" width="{max(2.0, width - 3):.1f}" height="15" rx="3"/>']
    ground = [f'<rect class="fresh" x="{x:.1f}" y="{y - 14:.1f}" width="{width:.1f}" height="19" rx="3"/>'] if fresh else []
    lead = columns(word) - columns(word.lstrip())
    text = " ".join(word.split())
    if not text:
        return ground
    span = columns(text) * column  # every font is set to the same columns
    left, size = x + lead * column, FONT * column / COLUMN
    fit = f' textLength="{span:.1f}" lengthAdjust="spacingAndGlyphs"'
    return [
        *ground,
        f'<text class="ink token" x="{left:.1f}" y="{y:.1f}" font-size="{size:.1f}"{fit}>{escape(text)}</text>',
    ]


def _number(x: float, y: float, entry: dict[str, Any]) -> list[str]:
    best = strongest(entry)
    interval = "" if entry["low"] is None else f"95 % interval {shown(entry['low'])} to {shown(entry['high'])}"
    beside = f"against {best[0]} {shown(best[1])}" if best else ""
    value = _text(x, y + 28, "ink", 24, f"{shown(entry['value'])} {DIRECTIONS[entry['better']]}", "600")
    unit = f'<tspan class="quiet" font-size="12" font-weight="400" dx="8">{escape(entry["unit"])}</tspan></text>'
    return [
        _text(x, y, "quiet", 12, entry["label"]),
        value.removesuffix("</text>") + unit,
        _text(x, y + 48, "quiet", 12, interval),
        _text(x, y + 64, "quiet", 12, beside),
    ]


def _printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(c if c in "\n\t" or (ord(c) >= 32 and c not in "\x7f\ufffe\uffff") else "\N{REPLACEMENT CHARACTER}" for c in text)
