"""A checklist in Markdown whose boxes are proven on a checkpoint, not believed.

    - [ ] The latent reaches the text. `results nelbo_given_latent < nelbo_unconditional`
    - [ ] Every file is whole. `lgdlm check model.checkpoint_path={checkpoint}`
    - [ ] Padding changes nothing. `pytest tests/models/test_denoisers.py`

The last code span of a box is its proof: a comparison of numbers of results.json (NAME, NAME/BASELINE or a figure; < <= > >=), a command of
ours that ends with 0, or tests of this checkout. {checkpoint}, {data} and {out} (a folder for files) are filled in. A box whose proof holds
is ticked in a copy in the run; the others stay empty, with the reason. Nothing else can be run: a checklist is a document, not a script.
"""

from __future__ import annotations

import io
import operator
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from lgdlm.cli.commands import COMMANDS
from lgdlm.cli.progress import progress
from lgdlm.data.storage import write_bytes
from lgdlm.errors import CheckpointError, InputError
from lgdlm.evaluation import Results

BOX = re.compile(r"(?P<mark>\s*[-*] \[)[ xX](?P<rest>\].*)")
SPAN = re.compile(r"`([^`]+)`")
COMPARISON = re.compile(r"(\S.*?)\s+(<=|>=|<|>)\s+(\S.*)")
OPERATORS: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
REASON = "  (not proven: "
SECONDS = 1800.0


@dataclass(frozen=True)
class Box:
    """One line of the list: `proof` is a command line, `reason` says why it failed (None: it holds)."""

    line: int
    proof: str
    reason: str | None = None


def read_boxes(checklist: Path) -> tuple[list[str], list[Box]]:
    """The lines of the list and its boxes. Raises InputError: MISSING_FILE, BAD_CHECKLIST (no box, or one without a proof)."""
    if not checklist.is_file():
        raise InputError("MISSING_FILE", checklist, "evaluation.checklist", "no such file: a Markdown list of boxes is expected")
    lines = checklist.read_bytes().decode("utf-8", "replace").splitlines()
    boxes = [_box(checklist, number, line) for number, line in enumerate(lines) if BOX.fullmatch(line)]
    if not boxes:
        raise InputError("BAD_CHECKLIST", checklist, "boxes", "holds none: a line of the form - [ ] what. `proof` is expected")
    return lines, boxes


def prove(checklist: Path, results: Results, places: Mapping[str, str], out: Path) -> tuple[list[Box], Path]:
    """Every box tried, and the ticked copy `out/<name of the checklist>`.

    `places`: what stands for {name} in a proof. Raises InputError as `read_boxes`.
    """
    lines, boxes = read_boxes(checklist)
    tried = []
    with progress(len(boxes), "checklist") as bar:
        for box in boxes:
            tried.append(replace(box, reason=_reason(box.proof, results, places, checklist)))
            bar.advance()
    for box in tried:
        match = BOX.fullmatch(lines[box.line])
        assert match is not None
        rest = match["rest"].partition(REASON)[0]
        lines[box.line] = f"{match['mark']}{'x' if box.reason is None else ' '}{rest}" + (f"{REASON}{box.reason})" if box.reason else "")
    copy = out / checklist.name
    write_bytes(copy, ("\n".join(lines) + "\n").encode())
    return tried, copy


def refuse_unproven(boxes: list[Box], copy: Path) -> None:
    """CheckpointError (exit 3) that names the first box that is not ticked; nothing where all are."""
    failed = [box for box in boxes if box.reason is not None]
    if failed:
        message = f"{failed[0].reason} ({len(failed)} of {len(boxes)} boxes are not proven)"
        raise CheckpointError("CHECKLIST", f"{copy}:{failed[0].line + 1}", "box", message)


def _box(checklist: Path, number: int, line: str) -> Box:
    spans = SPAN.findall(line.partition(REASON)[0])
    if not spans or spans[-1].split(" ")[0] not in PROOFS:
        message = f"a box ends with its proof in backticks: {', '.join(PROOFS)} ..."
        raise InputError("BAD_CHECKLIST", f"{checklist}:{number + 1}", "box", message)
    return Box(number, spans[-1])


def _reason(proof: str, results: Results, places: Mapping[str, str], checklist: Path) -> str | None:
    kind, _, rest = proof.partition(" ")
    reason = PROOFS[kind](rest, results, places, checklist)
    return None if reason is None else " ".join(reason.split()).replace("`", "'")


def _compared(rest: str, results: Results, places: Mapping[str, str], checklist: Path) -> str | None:
    match = COMPARISON.fullmatch(rest.strip())
    if match is None:
        return f"{rest!r} is no comparison of two numbers"
    try:
        left, right = (_number(side, results) for side in (match[1], match[3]))
    except KeyError as absent:
        return f"{absent.args[0]} was not measured"
    return None if OPERATORS[match[2]](left, right) else f"{left:.4g} {match[2]} {right:.4g} does not hold"


def _number(side: str, results: Results) -> float:
    try:
        return float(side)
    except ValueError:
        name, _, baseline = side.partition("/")
        entry = results.number(name)
        return float(entry["baselines"][baseline] if baseline else entry["value"])


def _commanded(rest: str, results: Results, places: Mapping[str, str], checklist: Path) -> str | None:
    from lgdlm.cli.__main__ import main

    words = [_filled(word, places) for word in shlex.split(rest)]
    if not words or words[0] not in COMMANDS:
        return f"lgdlm has no command {words[0] if words else ''!r}"
    if any(word.partition("=")[0].endswith("checklist") for word in words):
        return "a checklist does not prove itself"
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return None if code == 0 else f"exit code {code}: {(err.getvalue().strip().splitlines() or ['no message'])[-1]}"


def _tested(rest: str, results: Results, places: Mapping[str, str], checklist: Path) -> str | None:
    names = shlex.split(rest)
    home = next((folder for folder in checklist.absolute().parents if (folder / "tests").is_dir()), None)
    if home is None:
        return "no folder of tests lies above the checklist: run it in a checkout"
    strange = [name for name in names if not name.startswith("tests/") or ".." in name or not (home / name.partition("::")[0]).is_file()]
    if strange or not names:
        return f"{strange[0] if strange else 'nothing'} is no test of this checkout"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *names]
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"the tests were stopped after {SECONDS:.0f} s"
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return None if done.returncode == 0 else f"pytest ended with {done.returncode}: {last}"


def _filled(word: str, places: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), word)


PROOFS: dict[str, Callable[[str, Results, Mapping[str, str], Path], str | None]] = {
    "results": _compared,
    "lgdlm": _commanded,
    "pytest": _tested,
}
