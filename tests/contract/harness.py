"""The product as an outside harness sees it: `adapter.toml`, command lines, exit codes, the one line, the run directory.

Adapter().run("train", folder, "ledger", run=..., **data) -> Outcome        a process of its own
Adapter().call("check", folder, **data) -> Outcome                           the same words in this process: fast
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2]
LINE = re.compile(r"error: E_([A-Z0-9_]+) (.+)")
LISTED = re.compile(r"problem 1 of (\d+), all listed in (.+?) : ")
DEFAULTS: dict[str, object] = {
    "python": sys.executable, "project": PROJECT, "seed": 7, "batch": 4, "accum": 1, "micro_batch": 4, "nproc": 1, "steps": 4,
    "save_every": 2, "max_skipped": 2, "keep": 9, "sample_batch": 8, "sample_steps": 3, "vocab_size": 256, "eos_id": 0, "pad_id": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `line` is its error line, asserted to be the last and only one of its kind."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        *before, last = self.err.splitlines() or [""]
        assert LINE.fullmatch(last), self.err
        assert len(last.encode()) <= 300
        assert last.isprintable()
        assert not any(line.startswith("error:") or "Traceback" in line for line in before), self.err
        return last

    @property
    def kind(self) -> str:
        """The code of the line, without its E_."""
        match = LINE.fullmatch(self.line)
        assert match is not None
        return match[1]

    @property
    def problems(self) -> list[str]:
        """Every problem, one a line: the list that the line names, or the line itself."""
        named = LISTED.search(self.line)
        if named is None:
            return [self.line.removeprefix("error: ")]
        found = Path(named[2]).read_text(encoding="utf-8").splitlines()
        assert len(found) == int(named[1])
        return found

    def ended(self, code: int) -> Outcome:
        """Itself, asserted to have this exit code, with the line that a failure needs."""
        assert self.code == code, f"exit {self.code}, expected {code}:\n{self.err[-2000:]}"
        assert "Traceback" not in self.err
        if code in (2, 3, 4, 5, 6, 7, 130, 143):
            assert self.line
        return self


class Adapter:
    """The verbs and options of `adapter.toml` at the root of the checkout."""

    def __init__(self) -> None:
        content = tomllib.loads((PROJECT / "adapter.toml").read_text(encoding="utf-8"))
        self.verbs: dict[str, list[str]] = content["verbs"]
        self.options: dict[str, list[str]] = content.get("options", {})
        self.env: dict[str, str] = content.get("env", {})

    def words(self, verb: str, *options: str, **values: object) -> list[str]:
        """The command line: every `{name}` replaced, and none left."""
        words = [*self.verbs[verb], *(word for option in options for word in self.options[option])]
        known = {**DEFAULTS, **values}
        return [re.sub(r"\{([a-z0-9_]+)\}", lambda match: str(known[match[1]]), word) for word in words]

    def environment(self, home: Path) -> dict[str, str]:
        """What a command may see: little."""
        home.mkdir(parents=True, exist_ok=True)
        plain = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**plain, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **self.env}

    def start(self, verb: str, folder: Path, *options: str, **values: object) -> subprocess.Popen[str]:
        """The command in a process of its own, in an empty folder, without stdin."""
        here = folder / "working folder"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        return subprocess.Popen(
            self.words(verb, *options, **values),
            cwd=here,
            env=self.environment(folder / "home"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, folder: Path, *options: str, **values: object) -> Outcome:
        """Start it and wait."""
        process = self.start(verb, folder, *options, **values)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)

    def call(self, verb: str, folder: Path, *options: str, **values: object) -> Outcome:
        """The same words in this process."""
        words = self.words(verb, *options, **values)
        assert words[1:3] == ["-m", "lgdlm"]
        return called(words[3:], folder)


def called(words: list[str], folder: Path) -> Outcome:
    """`lgdlm WORDS` in this process, from `folder`."""
    from lgdlm.cli.__main__ import main

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    finally:
        os.chdir(before)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Outcome(code, *texts)


def jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, a line each; anything that strict JSON does not have is an error."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {path}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]
