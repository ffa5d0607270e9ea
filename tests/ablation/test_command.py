"""`lgdlm ablate` on a tiny world: four runs, a table, a second call that runs nothing, a run that diverges."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from ablation_world import cells_of, here, states, write_matrix
from training_world import data_folder, events_of, log_of

from lgdlm.ablation.runner import run_cells
from lgdlm.cli import ablate
from lgdlm.cli.__main__ import main

SAVED = "training.save_every_n_steps=2"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def launched(monkeypatch):
    """The command's runs stay in this process; returns the words of each."""
    words = []

    def launch(asked, log, watch):
        words.append(asked[0])
        return here(asked, log, watch)

    monkeypatch.setattr(ablate, "run_cells", partial(run_cells, launch=launch))
    return words


def test_a_matrix_from_the_command_line_to_the_table(data, tmp_path, launched, capsys):
    poisoned = {"training.poison_ids": ",".join(f"s{i}" for i in range(80)), "training.max_skipped_steps": 1}
    variants = {"narrow": {}, "wide": {"set": {"model.hidden_size": 32}}, "doomed": {"set": poisoned}}
    matrix = write_matrix(tmp_path / "m.yaml", data, variants=variants)
    words = ["ablate", str(matrix), f"out={tmp_path / 'out'}", "seeds=[1,2]", f"docs={tmp_path / 'docs' / 'm.md'}", "optimizer.lr=0.01"]
    assert main(words) == 0
    said = capsys.readouterr()
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["finished"] for row in found["rows"]] == [2, 2, 0]
    assert "2 of 2 runs failed (diverged)" in found["rows"][2]["sentence"]
    assert found["rows"][1]["cells"]["nelbo_given_latent"]["difference"]["n"] == 2
    assert all(row["sentence"] in said.out for row in found["rows"])
    assert "doomed, seed 1: failed" in said.err
    page = (tmp_path / "docs" / "m.md").read_text()
    assert page == (tmp_path / "out" / "table.md").read_text().replace("table-", "m-")
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["m-differences.svg", "m-loss-curves.svg", "m.md"]
    assert "lr: 0.01" in (tmp_path / "out" / "wide" / "seed_2" / "config.yaml").read_text()

    commands = len(launched)
    assert main(words) == 0
    assert len(launched) == commands, "nothing was left to run"
    assert main([*words, "training.num_train_steps=7"]) == 2
    assert "training.num_train_steps was 6, is 7" in capsys.readouterr().err


def test_a_dry_run_shows_the_plan_and_touches_nothing(data, tmp_path, launched, capsys):
    matrix = write_matrix(tmp_path / "m.yaml", data)
    assert main(["ablate", str(matrix), f"out={tmp_path / 'out'}", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "Is wider better?" in said
    assert "wide: model.hidden_size=32  " in said
    assert "6 runs, about 6 min 0 s to go" in said
    assert not launched
    assert not (tmp_path / "out").exists()


def test_sizes_that_should_be_equal_and_are_not_are_refused(data, tmp_path, launched, capsys):
    matrix = write_matrix(tmp_path / "m.yaml", data, equal_parameters=0.01)
    assert main(["ablate", str(matrix), f"out={tmp_path / 'out'}"]) == 2
    assert "equal_parameters" in capsys.readouterr().err
    assert not launched


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "conditioning"),
        (["fussion"], "'fusion'"),
        (["fusion", "scale=huge"], "small, demo, full"),
        (["fusion", "model.fusion=sum"], "variants of fusion differ"),
        (["fusion", "modell.fusion=sum"], "unknown key"),
        (["fusion", "seeds=[]"], "different seeds"),
    ],
)
def test_bad_usage_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", *words]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_terminated_ablation_goes_on_where_it_stopped(data, tmp_path):
    """From outside: SIGTERM to the command stops its run with a checkpoint; the same command ends what was begun."""
    matrix = write_matrix(tmp_path / "m.yaml", data, steps=4000, variants={"narrow": {}})
    words = [str(matrix), f"out={tmp_path / 'out'}", "seeds=[1]"]
    command = [sys.executable, "-m", "lgdlm", "ablate", *words]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    (cell,) = cells_of(matrix, tmp_path / "out", (1,))
    while not cell.last_logged():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 143, said
    assert "0 of 1 runs are finished" in said
    assert states([cell]) == ["started"]
    stopped = events_of(cell.folder, "signal_received")[0]["step"]
    assert 0 < stopped < 4000

    short = write_matrix(tmp_path / "short.yaml", data, steps=stopped + 3, variants={"narrow": {}})
    (shorter,) = cells_of(short, tmp_path / "out", (1,))
    shorter.note("started", cell.record().seconds)  # as if that had been asked for from the start
    run_cells([shorter], launch=here)
    assert states([shorter]) == ["finished"]
    assert [record["step"] for record in log_of(shorter.folder)] == list(range(1, stopped + 4))
    assert events_of(shorter.folder, "resumed")[0]["step"] == stopped
