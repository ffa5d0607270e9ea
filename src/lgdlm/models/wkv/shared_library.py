"""The C++ files beside this one as a loaded library, built on first use.

    <cache>/<hash of sources, compiler, flags, processor, torch's threads>.so        built aside, renamed into place
                                                                      .failed    why it could not be built: nobody tries again

The library is called through ctypes with plain pointers, so a build needs neither torch's headers (ten times as long) nor
its ABI. It runs on torch's own threads: it is linked with the OpenMP runtime that torch has loaded, never with a second
one, whose idle threads would spin against torch's. Without a compiler there is no library, and no word about it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

SOURCES = sorted([*Path(__file__).parent.glob("*.cpp"), *Path(__file__).parent.glob("*.hpp")])
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi")
PATIENCE = 600  # seconds a build may take


@cache
def library() -> ctypes.CDLL | None:
    """The library, built if it is not in the cache; None without a compiler, or where the build fails (which is said on stderr)."""
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        file = _built(compiler)
        return None if file is None else ctypes.CDLL(str(file))
    except (OSError, subprocess.TimeoutExpired) as problem:
        _say(f"the C++ kernels cannot be used ({problem}); continuing without them\n")
        return None


def find_compiler() -> str | None:
    """The path of `CXX`, or of the first known compiler there is."""
    wanted = os.environ.get("CXX")
    found = (shutil.which(name) for name in ((wanted,) if wanted else COMPILERS))
    return next((path for path in found if path), None)


def cache_folder() -> Path:
    """Where libraries are kept: ours alone (mode 0700). A folder that others could write to is not used, but a new temporary one."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "lgdlm" / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # read-only home
    return Path(tempfile.mkdtemp(prefix="lgdlm-kernels-"))


def threads_runtime() -> str | None:
    """The file of the OpenMP runtime in this process, which torch brought; None where it has none."""
    try:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith((".so", ".1", ".5"))}
        found = sorted(name for name in mapped if re.match(r"lib(gomp|iomp5|omp)\b", os.path.basename(name)))
    except OSError:
        found = sorted(map(str, (Path(torch.__file__).parent / "lib").glob("libomp.*")))
    own = [name for name in found if str(Path(torch.__file__).parent) in name]
    return next(iter(own or found), None)


def _built(compiler: str) -> Path | None:
    """The library's file; one process builds, others that want the same wait for it. None where that failed, now or before."""
    runtime = threads_runtime()
    folder = cache_folder()
    file = folder / f"{_key(compiler, runtime)}.so"
    failure = file.with_suffix(".failed")
    if file.exists():
        return file
    with _locked(folder):
        if file.exists():
            return file
        if failure.exists():
            _say(f"no C++ kernels: {failure.read_text(encoding='utf-8')}; remove {failure} to build them again\n")
            return None
        began = time.perf_counter()
        _say(f"building the C++ kernels with {os.path.basename(compiler)}, once ... ")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as aside:
            problem = ""
            for threads in (runtime, None) if runtime else (None,):
                problem = _compile(compiler, threads, Path(aside))
                if not problem:
                    os.replace(Path(aside) / "library.so", file)
                    _say(f"{time.perf_counter() - began:.0f} s\n")
                    return file
        failure.write_text(problem, encoding="utf-8")
        _say(f"failed: {problem}; continuing without them\n")
        return None


def _compile(compiler: str, runtime: str | None, aside: Path) -> str:
    """Object and library into the folder `aside`, with or without threads; the compiler's first error, or nothing."""
    source, product = str(Path(__file__).parent / "native.cpp"), str(aside / "native.o")
    compiling = [compiler, *FLAGS, *_target(), *(["-fopenmp"] if runtime else ["-Wno-unknown-pragmas"]), "-c", source, "-o", product]
    linking = [compiler, "-shared", product, *([runtime] if runtime else []), "-o", str(aside / "library.so")]
    for command in (compiling, linking):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return f"{os.path.basename(compiler)} took more than {PATIENCE} s"
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            return (errors or done.stderr.splitlines() or ["no message"])[0][:200]
    return ""


def _target() -> tuple[str, ...]:
    return ("-march=native",) if platform.machine() in ("x86_64", "AMD64") else ("-mcpu=native",)


def _key(compiler: str, runtime: str | None) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL).stdout
    digest = hashlib.sha256()
    for part in (compiler, version, *FLAGS, *_target(), runtime or "", _processor()):
        digest.update(part.encode() + b"\0")
    for source in SOURCES:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What `native` depends on: the processor's name and abilities."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file to leave behind
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _say(words: str) -> None:
    sys.stderr.write(words)
    sys.stderr.flush()
