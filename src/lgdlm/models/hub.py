"""Where pretrained weights are: a local path, or a repository of the Hugging Face hub.

    path                          a file or a folder on this machine; never looked up at the hub
    owner/name[/file] + revision  the local cache first, then the hub, and of it only the weights and their config.json

A repository with several weights (one file for each size) needs the file's name: nothing is chosen for the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lgdlm.errors import InputError

WEIGHTS = (".safetensors", ".pth")
REMEDY = "give a file by model.rwkv_local_path, or train from scratch with model.rwkv_name=null"


def locate(name: str | None, revision: str | None, local_path: str | None) -> Path | None:
    """The file or folder that `model.rwkv_local_path`, or else `model.rwkv_name` at `model.rwkv_revision`, means; None without either.

    Raises InputError: MISSING_FILE, CONFIG, OFFLINE (not in the cache and the hub cannot be asked), SEVERAL_FILES.
    """
    if local_path is not None:
        if not Path(local_path).exists():
            raise InputError("MISSING_FILE", local_path, "model.rwkv_local_path", "no such file or folder: expected RWKV-7 weights")
        return Path(local_path)
    if name is None:
        return None
    owner, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    if not owner or not model:
        raise InputError("CONFIG", "config", "model.rwkv_name", f"owner/name or owner/name/file is expected, got {name!r}; {REMEDY}")
    repository = f"{owner}/{model}"
    cached = _cached(repository, revision)
    if cached is not None and (found := _in_folder(cached, file)) is not None:
        return found
    return _fetched(repository, revision, file)


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, cache_dir=constants.HF_HUB_CACHE))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as problem:
        raise InputError("CONFIG", "config", "model.rwkv_name", f"{repository!r} is no name of a repository; {REMEDY}") from problem


def _in_folder(folder: Path, file: str) -> Path | None:
    """The weights of a cached snapshot: the file asked for, or the folder where it holds weights."""
    if file:
        return folder / file if (folder / file).is_file() else None
    return folder if any(p.suffix in WEIGHTS for p in folder.iterdir()) else None


def _fetched(repository: str, revision: str | None, file: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        message = f"is not in the local cache, and HF_HUB_OFFLINE=1 keeps the hub out; {REMEDY}"
        raise InputError("OFFLINE", repository, "model.rwkv_name", message)
    try:
        chosen = wanted(HfApi().list_repo_files(repository, revision=revision), file, repository)
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=chosen, cache_dir=constants.HF_HUB_CACHE))
    except (OSError, RuntimeError) as problem:  # no such repository, no such revision, no network: all of them are one of these
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise InputError("OFFLINE", repository, "model.rwkv_name", f"cannot be had from the hub ({reason}); {REMEDY}") from problem
    return folder / file if file else folder


def wanted(files: Sequence[str], file: str, repository: str) -> list[str]:
    """Of a repository's files those to fetch. Raises InputError (MISSING_FILE, SEVERAL_FILES) that names what there is."""
    beside = [name for name in files if "/" not in name and name.endswith(".json")]
    weights = [name for name in files if "/" not in name and name.endswith(WEIGHTS)]
    if file:
        if file not in files:
            raise InputError("MISSING_FILE", repository, "model.rwkv_name", f"has no file {file}; its weights: {', '.join(weights[:4])}")
        return [file, *beside]
    safe = [name for name in weights if name.endswith(".safetensors")] or weights
    if not safe:
        raise InputError("MISSING_FILE", repository, "model.rwkv_name", f"holds no {' or '.join(WEIGHTS)} file")
    if len(safe) > 1 and not any(name.endswith(".safetensors.index.json") for name in beside):
        message = f"which of {len(safe)} files? write {repository}/{safe[0]}, or another of them"
        raise InputError("SEVERAL_FILES", repository, "model.rwkv_name", message)
    return [*safe, *beside]
