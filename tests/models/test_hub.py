"""Where weights are found: a path is a path, a name is the cache first, and offline says so."""

from __future__ import annotations

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
    assert locate("someone/rwkv7", revision, None) == cache
    assert locate("someone/rwkv7/small.pth", revision, None) == cache / "small.pth"


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
