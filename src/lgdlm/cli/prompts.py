"""Texts that a user hands to a command, with their ids, and as rows of tokens.

JSONL {"id", "text"}      TXT a text a line      - (stdin, either of the two)      prompt=TEXT
infill: "the [MASK:2] sat"  ->  tokens of "the ", two holes, tokens of " sat"      ([MASK] is one hole)
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lgdlm.data.problems import refuse
from lgdlm.data.text import Text, flaw
from lgdlm.data.tokenizer import Tokenizer
from lgdlm.data.user_files import SUFFIXES, UserFiles
from lgdlm.errors import InputError

HOLE = re.compile(r"\[MASK(?::([0-9]{1,6}))?\]")


@dataclass(frozen=True)
class Prompt:
    """One text as tokens: `ids` with -1 at the holes."""

    id: str
    ids: list[int]


def check_prompts(prompt: str | None, prompts: str | None) -> None:
    """That there is something to read, before a model is loaded for it.

    Raises InputError: CONFIG (none or both given), MISSING_FILE, UNKNOWN_FORMAT, and those of `flaw`.
    """
    if (prompt is None) == (prompts is None):
        given = "neither" if prompt is None else "both"
        raise InputError("CONFIG", "command-line", "sampling.prompts", f"either prompts=FILE or prompt=TEXT is expected, got {given}")
    if prompt is not None:
        if fault := flaw(prompt):
            raise InputError(fault[0], "command-line", "sampling.prompt", fault[1])
        return
    path = Path(str(prompts))
    if prompts == "-":
        return
    if not path.exists():
        raise InputError("MISSING_FILE", path, "sampling.prompts", "does not exist")
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        message = f"expected a file ending in {', '.join(SUFFIXES)}; convert it to JSONL"
        raise InputError("UNKNOWN_FORMAT", path, "sampling.prompts", message)


def read_prompts(prompt: str | None, prompts: str | None) -> list[tuple[str, str]]:
    """(id, text) in order. Raises InputError: those of `check_prompts`, and those of `UserFiles`, all problems at once."""
    check_prompts(prompt, prompts)
    if prompt is not None:
        return [("prompt", prompt)]
    return _from_stdin() if prompts == "-" else _read(Path(str(prompts)))


def _from_stdin() -> list[tuple[str, str]]:
    if sys.stdin is None:
        raise InputError("MISSING_FILE", "stdin", "sampling.prompts", "is closed; name a file")
    data = sys.stdin.buffer.read()
    suffix = ".jsonl" if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else ".txt"
    with tempfile.TemporaryDirectory(prefix="lgdlm-") as folder:
        path = Path(folder) / f"stdin{suffix}"
        path.write_bytes(data)
        return _read(path, shown="stdin")


def _read(path: Path, shown: str | None = None) -> list[tuple[str, str]]:
    found, problems = list[tuple[str, str]](), list[InputError]()
    for item in UserFiles(path).read():
        if isinstance(item, Text):
            found.append((item.id, item.text))
        elif isinstance(item, InputError):
            where = item.where if shown is None else item.where.replace(str(path), shown)
            problems.append(InputError(item.code, where, item.field, item.message))
    refuse(problems)
    if not found:
        raise InputError("EMPTY_TEXT", shown or path, "sampling.prompts", "holds no text")
    return found


def tokenized(texts: Sequence[tuple[str, str]], tokenizer: Tokenizer, longest: int, ends: bool, holes: bool) -> list[Prompt]:
    """The texts as tokens; with `ends` an EOS behind each, with `holes` [MASK] and [MASK:n] are positions to fill.

    Raises InputError with all problems: BAD_TEXT, EMPTY_TEXT, TOO_LONG (more than `longest` tokens), NO_HOLE.
    """
    found, problems = list[Prompt](), list[InputError]()
    for name, text in texts:
        try:
            ids = _with_holes(text, tokenizer) if holes else tokenizer.encode(text)
            if holes and -1 not in ids:
                raise InputError("NO_HOLE", "prompts", name, "nothing to fill: write [MASK] or [MASK:n] where n tokens are wanted")
            ids = [*ids, tokenizer.eos_id] if ends else ids
            if not ids:
                raise InputError("EMPTY_TEXT", "prompts", name, "has no token")
            if len(ids) > longest:
                raise InputError("TOO_LONG", "prompts", name, f"has {len(ids)} tokens, at most {longest} are taken; shorten it")
        except InputError as problem:
            problems.append(InputError(problem.code, "prompts", name, problem.message))
            continue
        found.append(Prompt(name, ids))
    refuse(problems)
    return found


def padded(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens int64 [B, N] (0 at holes), where tokens are given and where the text is, bool [B, N]."""
    width = max(len(p.ids) for p in prompts)
    ids = torch.tensor([p.ids + [0] * (width - len(p.ids)) for p in prompts])
    seen = torch.arange(width) < torch.tensor([len(p.ids) for p in prompts])[:, None]
    return ids.clamp_min(0), ids >= 0, seen


def _with_holes(text: str, tokenizer: Tokenizer) -> list[int]:
    ids, end = list[int](), 0
    for hole in HOLE.finditer(text):
        ids += tokenizer.encode(text[end : hole.start()]) if hole.start() > end else []
        ids += [-1] * int(hole.group(1) or 1)
        end = hole.end()
    return ids + (tokenizer.encode(text[end:]) if end < len(text) else [])
