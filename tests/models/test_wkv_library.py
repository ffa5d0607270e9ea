"""The compiled library: built once, kept safely, shared by processes, and never missed where there is no compiler."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lgdlm.errors import InputError
from lgdlm.models.wkv import CHOICES, KERNELS, PRESENT, VARIABLE, chosen_kernel, shared_library
from lgdlm.models.wkv.shared_library import SOURCES, find_compiler

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
SCRIPT = """
import torch
from lgdlm.models.wkv import KERNELS, chosen_kernel
x = [torch.randn(1, 5, 1, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]
y, S = KERNELS["native"](*x[:1], -x[1].abs(), *x[2:])
print(chosen_kernel(), float(y.sum() + S.sum()))
"""


def run(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, whose cache is under `tmp_path`."""
    kept = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "CXX")}
    settings = {**kept, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=settings, capture_output=True, text=True, timeout=300, check=True)


def test_without_a_compiler_the_chunked_form_takes_over_in_silence(tmp_path: Path) -> None:
    done = run(tmp_path, PATH="")
    name, total = done.stdout.split()
    assert name == "chunked"
    assert done.stderr == ""
    assert not list(tmp_path.rglob("*.so"))
    x = [torch.randn(1, 5, 1, 8, generator=torch.Generator().manual_seed(i), dtype=torch.float32) for i in range(6)]
    y, S = KERNELS["recurrence"](x[0], -x[1].abs(), *x[2:])
    assert float(total) == pytest.approx(float(y.sum() + S.sum()), abs=1e-4)


@needs_compiler
def test_a_compiler_that_fails_is_reported_and_the_chunked_form_takes_over(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'fatal error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = run(tmp_path, CXX=str(broken))
    assert done.stdout.split()[0] == "chunked"
    assert "out of order" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (remembered,) = (tmp_path / "lgdlm" / "kernels").iterdir()
    assert remembered.suffix == ".failed"
    again = run(tmp_path, CXX=str(broken))
    assert again.stdout == done.stdout
    assert "building" not in again.stderr, "one process has tried, and the others take its word"
    assert "out of order" in again.stderr
    assert f"remove {remembered}" in again.stderr
    remembered.unlink()
    assert "building" in run(tmp_path, CXX=str(broken)).stderr


def test_the_sources_use_no_builtin_that_only_newer_compilers_have() -> None:
    """`__builtin_shufflevector` is clang's and, since 12, GCC's: it stands behind a question for clang, once."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    found = [text[: match.start()].splitlines()[-2:] for match in re.finditer("__builtin_shufflevector", text)]
    assert [lines[0] for lines in found] == ["#ifdef __clang__"]


@needs_compiler
def test_it_is_built_once_for_all_processes_in_a_folder_of_our_own(tmp_path: Path) -> None:
    """Two at once: one builds and says so, both run; a third finds the file."""
    counting = tmp_path / "counting"
    counting.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo "$*" >> {tmp_path}/calls\nexec {find_compiler()} "$@" -O0\n')
    counting.chmod(0o755)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": str(counting), "OMP_NUM_THREADS": "1"}
    environment.pop(VARIABLE, None)
    both = [subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in both]
    third = run(tmp_path, CXX=str(counting))
    assert {out for out, _ in answers} == {third.stdout}
    assert third.stdout.startswith("native")
    assert third.stderr == ""
    assert sum("building the C++ kernels" in err for _, err in answers) == 1
    assert (tmp_path / "calls").read_text().count("-shared") == 1
    folder = tmp_path / "lgdlm" / "kernels"
    assert [file.suffix for file in folder.iterdir()] == [".so"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@needs_compiler
def test_it_brings_no_second_thread_runtime() -> None:
    """In a process of its own: what other packages bring into this one is not ours."""
    code = """
import os
from lgdlm.models.wkv.shared_library import library, threads_runtime
assert library() is not None
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/lib" in line}
runtimes = {name for name in loaded if os.path.basename(name).startswith(("libgomp", "libiomp", "libomp"))}
assert runtimes == {threads_runtime()}, runtimes
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "lgdlm" / "kernels"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = shared_library.cache_folder()
    assert folder != shared
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_source_is_part_of_the_key_and_of_the_package() -> None:
    folder = Path(shared_library.__file__).parent
    assert {file.name for file in SOURCES} == {file.name for file in folder.iterdir() if file.suffix in (".cpp", ".hpp")}
    packaged = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert all(f'"models/wkv/*{suffix}"' in packaged for suffix in (".cpp", ".hpp"))
    assert all(file.read_text(encoding="utf-8").isascii() for file in SOURCES)


@pytest.mark.parametrize("name", [*KERNELS, "", "auto"])
def test_the_variable_says_what_auto_means(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    wanted = name if name not in ("", "auto") else "native"
    expected = wanted if wanted not in PRESENT or PRESENT[wanted]() else "chunked"
    assert chosen_kernel("auto") == expected
    assert chosen_kernel("recurrence") == "recurrence"


def test_a_wrong_name_is_an_error_that_lists_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(InputError, match=f"{VARIABLE}: 'cuda' is no kernel.*{', '.join(CHOICES)}"):
        chosen_kernel()
    with pytest.raises(ValueError, match=f"expected one of {', '.join(CHOICES)}"):
        chosen_kernel("fast")
