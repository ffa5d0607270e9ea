"""Where pretrained weights are: a local path, or a repository of the Hugging Face hub.

    path                          a file or a folder on this machine; never looked up at the hub
    owner/name[/file] + revision  the local cache first, then the hub, and of it only the weights and their config.json

A repository with several weights (one file for each size) needs the file's name: nothing is chosen for the user. What the cache holds
is a part of the repository, so without a file's name it answers only with what is one set of weights by its own word: `model.safetensors`,
or an index all of whose shards are there. A download that was interrupted between shards is completed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lgdlm.errors import InputError
from lgdlm.models.pretrained import weight_files

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".pth")
REMEDY = "give a file by model.rwkv_local_path, or train from scratch with model.rwkv_name=null"


def locate(name: str | None, revision: str | None, local_path: str | None) -> Path | None:
    """The file or folder that `model.rwkv_local_path`, or else `model.rwkv_name` at `model.rwkv_revision`, means; None without either.

    Raises InputError: MISSING_FILE, CONFIG, OFFLINE (not in the cache and the hub cannot be asked), SEVERAL_FILES (as the hub's list says,
    or offline as the cache cannot rule out).
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
    return _fetched(repository, revision, file, cached)


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
    """The weights of a cached snapshot: the file asked for, the shards where all of an index are there, or the one whole file."""
    if file:
        return folder / file if (folder / file).is_file() else None
    if (folder / INDEX).is_file():
        try:
            weight_files(folder)
        except InputError:
            return None
        return folder
    return folder / WHOLE if (folder / WHOLE).is_file() else None


def _fetched(repository: str, revision: str | None, file: str, cached: Path | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise _offline(repository, file, cached)
    try:
        chosen = wanted(HfApi().list_repo_files(repository, revision=revision), file, repository)
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=chosen, cache_dir=constants.HF_HUB_CACHE))
    except (OSError, RuntimeError) as problem:  # no such repository, no such revision, no network: all of them are one of these
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise InputError("OFFLINE", repository, "model.rwkv_name", f"cannot be had from the hub ({reason}); {REMEDY}") from problem
    weights = [name for name in chosen if name.endswith(WEIGHTS)]
    return folder / weights[0] if len(weights) == 1 else folder


def _offline(repository: str, file: str, cached: Path | None) -> InputError:
    """What the cache, which does not answer, says about a repository that cannot be asked."""
    here = [] if cached is None else sorted(p.name for p in cached.iterdir() if p.suffix in WEIGHTS)
    if here and not file and cached is not None and not (cached / INDEX).is_file():
        message = f"which file? the cache holds {', '.join(here[:4])}, and offline nothing rules out others: write {repository}/{here[0]}"
        return InputError("SEVERAL_FILES", repository, "model.rwkv_name", message)
    part = " as a whole" if here and not file else ""
    message = f"is not in the local cache{part}, and HF_HUB_OFFLINE=1 keeps the hub out; {REMEDY}"
    return InputError("OFFLINE", repository, "model.rwkv_name", message)


def wanted(files: Sequence[str], file: str, repository: str) -> list[str]:
    """Of a repository's files those to fetch. Raises InputError (MISSING_FILE, SEVERAL_FILES) that names what there is."""
    beside = [name for name in files if "/" not in name and name.endswith(".json")]
    weights = [name for name in files if "/" not in name and name.endswith(WEIGHTS)]
    if file:
        if file not in files:
            raise InputError("MISSING_FILE", repository, "model.rwkv_name", f"has no file {file}; its weights: {', '.join(weights[:4])}")
        return [file, *beside]
    indexed = INDEX in beside
    safe = [WHOLE] if WHOLE in weights and not indexed else [name for name in weights if name.endswith(".safetensors")] or weights
    if not safe:
        raise InputError("MISSING_FILE", repository, "model.rwkv_name", f"holds no {' or '.join(WEIGHTS)} file")
    if len(safe) > 1 and not indexed:
        message = f"which of {len(safe)} files? write {repository}/{safe[0]}, or another of them"
        raise InputError("SEVERAL_FILES", repository, "model.rwkv_name", message)
    return [*safe, *beside]
