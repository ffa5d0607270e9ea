"""Where weights are found: a path is a path, a name is the cache first, and offline says so."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from lgdlm.errors import InputError
from lgdlm.models.hub import locate, wanted

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds one snapshot of `someone/rwkv7` under the branch `main`; the hub itself is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--rwkv7"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "small.pth").write_bytes(b"")
    return snapshot


def test_a_path_is_never_a_name(tmp_path: Path, cache: Path) -> None:
    assert locate("someone/rwkv7", None, str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="MISSING_FILE"):
        locate("someone/rwkv7", None, str(tmp_path / "someone" / "rwkv7"))
    assert locate(None, None, None) is None


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_name_is_found_in_the_cache(cache: Path, revision: str | None) -> None:
    assert locate("someone/rwkv7/small.pth", revision, None) == cache / "small.pth"
    (cache / "model.safetensors").write_bytes(b"")
    assert locate("someone/rwkv7", revision, None) == cache / "model.safetensors"
    shards(cache, there=2)
    assert locate("someone/rwkv7", revision, None) == cache


def shards(folder: Path, there: int) -> list[str]:
    """An index of two shards, of which as many are there; the names of what belongs to the repository."""
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    for name in names[:there]:
        (folder / name).write_bytes(b"")
    return [*names, "model.safetensors.index.json"]


@pytest.mark.parametrize("others", [[], ["large.pth"], ["part.safetensors"]])
def test_what_was_fetched_by_its_file_name_does_not_stand_for_its_repository(cache: Path, others: list[str]) -> None:
    for name in others:
        (cache / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"SEVERAL_FILES .*write someone/rwkv7/") as refused:
        locate("someone/rwkv7", None, None)
    assert all(name in refused.value.line() for name in ("small.pth", *others))


@pytest.mark.parametrize(("name", "revision"), [("someone/other", None), ("someone/rwkv7", "dev"), ("someone/rwkv7/large.pth", None)])
def test_what_is_not_cached_is_an_offline_error_that_says_what_to_do(cache: Path, name: str, revision: str | None) -> None:
    with pytest.raises(InputError) as refused:
        locate(name, revision, None)
    assert refused.value.code == "OFFLINE"
    for remedy in ("model.rwkv_local_path", "model.rwkv_name=null"):
        assert remedy in refused.value.line()


@pytest.mark.parametrize("name", ["rwkv7", "/x", "someone/", "someone/a b"])
def test_a_name_has_an_owner(cache: Path, name: str) -> None:
    with pytest.raises(InputError, match="CONFIG"):
        locate(name, None, None)


class Hub:
    def __init__(self, cache: Path):
        self.cache, self.files, self.asked = cache, list[str](), list[list[str]]()

    def fetched(self) -> list[str]:
        """What was fetched since the last question; looking into the cache fetches nothing."""
        names = [name for asked in self.asked for name in asked]
        self.asked.clear()
        return names


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub with `someone/rwkv7` as the test says; what is asked for is put beside what the cache holds."""
    there = Hub(cache)

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str] | None = None, **_: object) -> str:
        for name in allow_patterns or []:
            (cache / name).touch()
        there.asked.append(allow_patterns or [])
        return str(cache)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: there.files)
    return there


def test_a_download_that_was_interrupted_between_shards_is_completed(hub: Hub) -> None:
    hub.files = [*shards(hub.cache, there=1), "README.md"]
    assert locate("someone/rwkv7", None, None) == hub.cache
    assert hub.fetched() == hub.files[:3]
    assert locate("someone/rwkv7", None, None) == hub.cache
    assert hub.fetched() == [], "now it is whole"


def test_offline_some_shards_are_not_the_weights(cache: Path) -> None:
    shards(cache, there=1)
    with pytest.raises(InputError, match=r"OFFLINE .*as a whole.*model.rwkv_local_path"):
        locate("someone/rwkv7", None, None)


def test_online_the_repository_is_asked_what_a_bare_name_means(hub: Hub) -> None:
    """Whatever one file of it was fetched before."""
    hub.files = ["small.pth", "large.pth"]
    with pytest.raises(InputError, match=r"SEVERAL_FILES .*someone/rwkv7/small.pth"):
        locate("someone/rwkv7", None, None)
    (hub.cache / "other.safetensors").touch()
    hub.files = ["small.pth", "config.json"]
    assert locate("someone/rwkv7", None, None) == hub.cache / "small.pth"
    hub.files = ["model.safetensors", "other.safetensors"]
    assert locate("someone/rwkv7", None, None) == hub.cache / "model.safetensors"
    assert hub.fetched()[-1] == "model.safetensors"


def test_online_only_the_weights_are_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def listed(self: object, repository: str, revision: str | None = None) -> list[str]:
        return ["README.md", "config.json", "a.pth", "b.pth", "modeling_rwkv7.py"]

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str] | None = None, **_: object) -> str:
        if allow_patterns is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        asked.update(repository=repository, revision=revision, files=allow_patterns)
        return str(cache)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    assert locate("someone/new/b.pth", "v1", None) == cache / "b.pth"
    assert asked == {"repository": "someone/new", "revision": "v1", "files": ["b.pth", "config.json"]}
    with pytest.raises(InputError, match=r"SEVERAL_FILES .*someone/new/a.pth"):
        locate("someone/new", None, None)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: (_ for _ in ()).throw(OSError("no route\nmore")))
    with pytest.raises(InputError, match=r"OFFLINE .*no route"):
        locate("someone/new", None, None)


def test_shards_are_one_set_of_weights() -> None:
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "old.pth"]
    assert wanted(files, "", "a/b") == [*files[:2], files[2]]
    with pytest.raises(InputError, match="MISSING_FILE"):
        wanted(["README.md"], "", "a/b")
    with pytest.raises(InputError, match=r"MISSING_FILE .*old.pth"):
        wanted(["old.pth"], "new.pth", "a/b")
