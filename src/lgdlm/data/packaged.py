"""Where the data files of an installed package are, found without importing it.

A package that ships text or weights is used as a folder of data: its code never runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lgdlm.errors import InputError


def package_folder(module: str, requirement: str) -> Path:
    """The folder of an installed package; `requirement` is what to install when it is missing.

    Raises InputError (MISSING_PACKAGE).
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("MISSING_PACKAGE", module, "package", f"not installed; run: pip install {requirement}")
    return Path(next(iter(spec.submodule_search_locations)))


def package_file(module: str, requirement: str, relative: str) -> Path:
    """One data file of a package. Raises InputError (MISSING_PACKAGE) also when another package has the same name."""
    path = package_folder(module, requirement) / relative
    if not path.is_file():
        raise InputError("MISSING_PACKAGE", path, "file", f"not in the installed package; run: pip install {requirement}")
    return path


def package_version(distribution: str) -> str | None:
    """The installed version, or None where the package was put there without its metadata."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def files_sha256(paths: Sequence[Path]) -> str:
    """One SHA-256 over the contents of several files in the given order, read in blocks of a megabyte."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
