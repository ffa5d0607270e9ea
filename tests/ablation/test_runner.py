"""Cells on disk, and the runner over commands that are played: what is skipped, resumed, recorded and refused."""

import json
import signal

import pytest
from ablation_world import cells_of, states, write_matrix

from lgdlm.ablation.cell import RECORD, fingerprint
from lgdlm.ablation.plan import minutes_left
from lgdlm.ablation.runner import in_own_process, reason_of, run_cells
from lgdlm.errors import InputError, LockedError, StorageError
from lgdlm.training.signals import Interrupted


class Played:
    """A `Launch` that does nothing but note the words, leave results behind, and answer with planned exit codes."""

    def __init__(self, codes=None):
        self.words, self.codes = [], codes or {}

    def __call__(self, words, log, watch):
        watch()
        self.words.append(words)
        code = self.codes.get((words[0], log.parent.parent.name, log.parent.name), 0)
        with log.open("a") as said:
            said.write("note: nothing\nerror: E_DIVERGED run step 3: planned\n" if code else "done\n")
        if words[0] == "evaluate" and not code:
            (log.parent / "results.json").write_text("{}")
        return code


@pytest.fixture
def matrix(tmp_path):
    return write_matrix(tmp_path / "m.yaml", tmp_path / "data")


def test_every_cell_is_trained_and_evaluated_once_seeds_outside(matrix, tmp_path):
    cells, played = cells_of(matrix, tmp_path / "out"), Played()
    assert [cell.name for cell in cells] == ["narrow, seed 1", "wide, seed 1", "narrow, seed 2", "wide, seed 2"]
    seen = []
    run_cells(cells, launch=played, on_progress=lambda cell, done: seen.append((cell.name, done)))
    assert states(cells) == ["finished"] * 4
    assert [words[0] for words in played.words] == ["train", "evaluate"] * 4
    assert all("training.resume=auto" in words for words in played.words[::2])
    assert seen[-1] == ("wide, seed 2", 4)
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    run_cells(cells, launch=played)
    assert len(played.words) == 8, "what is finished is not run again"


def test_a_failed_cell_is_recorded_with_its_reason_and_the_rest_goes_on(matrix, tmp_path):
    cells, played = cells_of(matrix, tmp_path / "out"), Played({("train", "wide", "seed_1"): 6, ("evaluate", "narrow", "seed_2"): -9})
    run_cells(cells, launch=played)
    assert states(cells) == ["finished", "failed", "failed", "finished"]
    assert (cells[1].record().exit_code, cells[1].record().reason) == (6, "E_DIVERGED run step 3: planned")
    commands = len(played.words)
    run_cells(cells, launch=played)
    assert len(played.words) == commands, "a failure is a result"
    run_cells(cells, launch=Played(), retry_failed=True)
    assert states(cells) == ["finished"] * 4
    assert cells[1].record().reason == ""


@pytest.mark.parametrize(
    ("code", "kind"), [(4, LockedError), (5, StorageError), (143, Interrupted), (130, Interrupted), (-15, Interrupted)]
)
def test_what_would_stop_every_cell_ends_the_ablation(matrix, tmp_path, code, kind):
    cells = cells_of(matrix, tmp_path / "out")
    with pytest.raises(kind) as stopped:
        run_cells(cells, launch=Played({("train", "wide", "seed_1"): code}))
    assert stopped.value.exit_code == (143 if code == -15 else code)
    assert states(cells) == ["finished", "started", "not started", "not started"]
    run_cells(cells, launch=Played())
    assert states(cells) == ["finished"] * 4


@pytest.mark.parametrize(("during", "state"), [("train", "started"), ("evaluate", "finished")])
def test_after_a_signal_no_further_command_begins(matrix, tmp_path, during, state):
    cells, played = cells_of(matrix, tmp_path / "out"), Played()

    def told(words, log, watch):
        if words[0] == during:
            signal.raise_signal(signal.SIGTERM)
            assert watch() == signal.SIGTERM, "the command is told"
        return played(words, log, watch)

    with pytest.raises(Interrupted):
        run_cells(cells, launch=told)
    assert played.words[-1][0] == during
    assert states(cells) == [state, *["not started"] * 3]


def test_another_configuration_in_the_same_folder_is_refused_and_the_key_named(matrix, tmp_path):
    out = tmp_path / "out"
    run_cells(cells_of(matrix, out), launch=Played())
    with pytest.raises(InputError, match=r"training.num_train_steps was 6, is 7"):
        run_cells(cells_of(matrix, out, **{"training.num_train_steps": "7"}), launch=Played())
    (out / "narrow" / "seed_3").mkdir()
    (out / "narrow" / "seed_3" / "theirs").write_text("")
    with pytest.raises(InputError, match="something else"):
        run_cells(cells_of(matrix, out, (3,)), launch=Played())


def test_a_fingerprint_knows_what_is_computed_and_not_where(matrix, tmp_path):
    prints = [fingerprint(cells_of(matrix, tmp_path / place, (seed,))[0].config) for place, seed in (("a", 1), ("b", 1), ("a", 2))]
    assert prints[0] == prints[1] != prints[2]


def test_a_key_that_is_new_since_a_cell_was_made_stands_at_its_default(matrix, tmp_path):
    """A cell of an earlier schema: its configuration lacks a key, and its fingerprint was made without it."""
    run_cells(cells_of(matrix, tmp_path / "out"), launch=Played())
    for cell in cells_of(matrix, tmp_path / "out"):
        lines = (cell.folder / "cell.yaml").read_text().splitlines(keepends=True)
        (cell.folder / "cell.yaml").write_text("".join(line for line in lines if "poison_ids" not in line))
        record = json.loads((cell.folder / RECORD).read_text())
        (cell.folder / RECORD).write_text(json.dumps({**record, "fingerprint": "earlier"}))
    assert states(cells_of(matrix, tmp_path / "out")) == ["finished"] * 4
    with pytest.raises(InputError, match=r"training.poison_ids was '', is 's1'"):
        states(cells_of(matrix, tmp_path / "out", **{"training.poison_ids": "s1"}))


def test_moved_runs_are_still_finished_and_lost_results_are_not(matrix, tmp_path):
    run_cells(cells_of(matrix, tmp_path / "a"), launch=Played())
    (tmp_path / "a").rename(tmp_path / "b")
    cells = cells_of(matrix, tmp_path / "b")
    assert states(cells) == ["finished"] * 4
    (cells[0].folder / "results.json").unlink()
    assert states(cells)[0] == "started"
    (cells[1].folder / RECORD).write_text("{")
    with pytest.raises(InputError, match="no record"):
        states(cells)


def test_the_time_left_is_that_of_finished_cells_once_there_are_any(matrix, tmp_path):
    cells = cells_of(matrix, tmp_path / "out")
    assert minutes_left(cells, 3.0) == 12.0
    run_cells(cells[:1], launch=Played())
    record = json.loads((cells[0].folder / RECORD).read_text())
    (cells[0].folder / RECORD).write_text(json.dumps({**record, "seconds": 120.0}))
    assert minutes_left(cells, 3.0) == 6.0


def test_seconds_add_up_over_attempts(matrix, tmp_path):
    cell = cells_of(matrix, tmp_path / "out")[0]
    cell.begin()
    cell.note("started", 100.0)
    run_cells([cell], launch=Played())
    assert cell.record().seconds >= 100.0


def test_a_command_of_its_own_process_appends_what_it_says(tmp_path):
    log, seen = tmp_path / "log", []
    log.write_text("before\n")
    assert in_own_process(["train", "sede=1"], log, lambda: seen.append(1)) == 2
    said = log.read_text()
    assert said.startswith("before\n$ lgdlm train sede=1\n")
    assert reason_of(log, 0, 2).startswith("E_CONFIG command-line training.sede")


def test_a_process_without_a_last_line_is_described_by_its_end(tmp_path):
    (tmp_path / "log").write_text("error: E_OLD of an earlier attempt\nKilled\n")
    assert reason_of(tmp_path / "log", 35, -9) == "ended by signal SIGKILL"
    assert reason_of(tmp_path / "log", 35, 3) == "exit code 3"
