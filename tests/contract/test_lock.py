"""requirements.lock: what setup installs is there, at the version of constraints.txt, and no archive without its hash."""

from __future__ import annotations

import re

from contract.harness import PROJECT as ROOT
from contract.harness import tomllib

ENTRY = re.compile(r"^([A-Za-z0-9._-]+==[^ \\]+(?: ; [^\\]+?)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)
LEFT_OUT = {"torch", "lgdlm"}  # the machine's own build, and the product


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! ;]", requirement)[0]).lower()


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    head, _, body = text.partition("\n")
    assert head.startswith("#")
    assert ENTRY.sub("", body) == "", "nothing stands beside the entries"
    return {canonical(line): line for line, _ in ENTRY.findall(body)}


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in locked().values() if line not in pinned] == []


def test_everything_that_setup_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked, groups = list(project["dependencies"]), ["demo", "dev"]
    for group in groups:
        for requirement in extras[group]:
            if canonical(requirement) == "lgdlm":
                groups += [name for name in re.split(r"[\[\],]", requirement)[1:] if name]
            else:
                asked.append(requirement)
    assert {canonical(requirement) for requirement in asked} - locked().keys() <= LEFT_OUT
