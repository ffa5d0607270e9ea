"""Whoever does the work of `prepare`, the folder is the same to the byte, and a failure is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from documents import prepare_bytes
from encoder_world import WORDS, save_model
from engine_world import Sleep, Square
from folders import sentences

from lgdlm.cli.__main__ import main
from lgdlm.data import embedding_cache
from lgdlm.data.engine import ENGINES
from lgdlm.data.staging import CACHE
from lgdlm.errors import InputError, PeerLost

NIGHTLY_RAY = pytest.param("ray", marks=pytest.mark.nightly)
TASKS = [{"x": x} for x in range(20)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the work of these tests, wherever they are started."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path | None]:
    """Latents for the 240 texts, so that nothing is encoded."""
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).standard_normal((240, 12)).astype(np.float32))
    return {"latents": tmp_path / "latents.npy", "encoder": None}


@pytest.mark.parametrize("engine", ["local", NIGHTLY_RAY])
def test_results_come_in_the_order_of_the_tasks_from_several_workers(engine: str, tmp_path: Path) -> None:
    with ENGINES[engine](2) as workers:
        results = list(workers.map(Square(meet=str(tmp_path)), TASKS))
        assert [int(result["square"]) for result in results] == [x * x for x in range(20)]
        processes = {int(result["process"]) for result in results}
        assert len(processes) == 2
        assert os.getpid() not in processes
        assert list(workers.map(Square(), [])) == []


@pytest.mark.parametrize("engine", ["local", NIGHTLY_RAY])
def test_an_error_of_ours_arrives_as_it_was_at_its_task(engine: str) -> None:
    seen: list[int] = []
    with ENGINES[engine](2) as workers, pytest.raises(InputError) as refused:
        seen.extend(int(result["square"]) for result in workers.map(Square(bad=13), TASKS))
    assert refused.value.line() == "error: E_BAD_TEXT text id 13: is refused; leave it out"
    assert seen == [x * x for x in range(13)]
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("StreamingExecutor", "Prefetcher", "iter_threaded"))]
    assert left == [], "a thread that asks a Ray which is gone ends the process"


@pytest.mark.parametrize("engine", ["local", NIGHTLY_RAY])
def test_a_worker_that_dies_is_a_lost_peer(engine: str) -> None:
    with ENGINES[engine](2) as workers, pytest.raises(PeerLost) as lost:
        list(workers.map(Square(deadly=7), TASKS[:12]))
    assert lost.value.exit_code == 7
    assert "repeat the command" in lost.value.line()


def test_one_worker_is_this_process() -> None:
    with ENGINES["local"](1) as workers:
        assert workers is None


def test_without_ray_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "t.txt").write_text("\n".join(sentences(40)))
    code = main(
        ["prepare", str(tmp_path / "t.txt"), f"out={tmp_path / 'out'}", "source=file", "tokenizer=byte", "encoder=none", "engine=ray"]
    )
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "error: E_MISSING_PACKAGE ray prepare.engine: engine=ray needs it; run: pip install lgdlm[ray]"


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_tokens_are_the_same_whoever_makes_them(
    engine: str, texts: Path, tmp_path: Path, given: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_bytes(texts, tmp_path / "one", **given)
    monkeypatch.setattr("lgdlm.data.selection.BATCH", 32)  # several tasks
    prepare_bytes(texts, tmp_path / "two", **given, engine=engine, num_workers=2)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert not list((tmp_path / "two").glob(".*"))


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A tiny encoder that knows the words of 240 texts, fifty texts a chunk."""
    monkeypatch.setattr(embedding_cache.embed, "__defaults__", (50,))
    rng = np.random.default_rng(0)
    texts = {" ".join(rng.choice(WORDS, rng.integers(2, 9))): None for _ in range(240)}
    (tmp_path / "words.txt").write_text("\n".join(texts))
    model = save_model(tmp_path / "model", "bert")
    return {"path": tmp_path / "words.txt", "encoder": model, "family": "e5", "encoder_options": {"dtype": "float32"}}


@pytest.mark.parametrize("engine", [pytest.param("local", marks=pytest.mark.nightly), "ray"])
def test_vectors_are_the_same_whoever_makes_them(engine: str, tmp_path: Path, encoded: dict[str, object]) -> None:
    options = dict(encoded)
    texts = options.pop("path")
    one = prepare_bytes(texts, tmp_path / "one", **options)
    two = prepare_bytes(texts, tmp_path / "two", **options, engine=engine, num_workers=2)
    assert one.manifest.encoder["truncated"] == two.manifest.encoder["truncated"]
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.nightly
def test_what_one_engine_began_another_ends(tmp_path: Path, encoded: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(encoded)
    texts = options.pop("path")
    prepare_bytes(texts, tmp_path / "whole", **options)
    saved = embedding_cache.save_vectors

    def dies(encoder: object, part: list[str], start: int, path: Path) -> None:
        if start >= 100:
            raise KeyboardInterrupt
        saved(encoder, part, start, path)

    monkeypatch.setattr(embedding_cache, "save_vectors", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_bytes(texts, tmp_path / "out", **options)
    chunks = [path.stat().st_mtime_ns for path in (tmp_path / "out" / CACHE).rglob("*.npy")]
    assert len(chunks) == 2
    prepare_bytes(texts, tmp_path / "out", **options, num_workers=2)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_workers_do_not_outlive_who_started_them(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    code = (
        "from engine_world import Sleep\nfrom lgdlm.data.engine import Processes\n"
        f"if __name__ == '__main__':\n    list(Processes(2).map(Sleep({str(folder)!r}), [{{}}, {{}}]))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    tests = str(Path(__file__).parent.parent)
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": tests}, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: len(list(folder.iterdir())) == 2)
        workers = [int(path.name) for path in folder.iterdir()]
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        _until(lambda: not any(_alive(worker) for worker in workers))
    finally:
        parent.kill()
    assert Sleep(str(folder))  # what the script ran


def _until(condition: object) -> None:
    for _ in range(600):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.1)
    raise TimeoutError("nothing happened for a minute")


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
