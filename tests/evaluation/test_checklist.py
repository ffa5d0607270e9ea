"""Boxes are ticked by what proves them, and by nothing else."""

from __future__ import annotations

import pytest
from documented import ROOT
from training_world import data_folder, train

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.cli.checklist import BOX, PROOFS, SPAN, prove
from lgdlm.cli.commands import parse
from lgdlm.errors import InputError
from lgdlm.evaluation import Results
from lgdlm.evaluation.metric import METRICS

SHIPPED = ROOT / "rwkv_diffusion_rnn" / "eval_checklist.md"
QUICK = ["num_samples=8", "num_steps=2", "latent_steps=2", "bootstrap=0", "likelihood_draws=2", "judge=false"]


def some_results():
    results = Results({}, {}, 0, {})
    results.numbers = [{"name": "a", "value": 1.0, "baselines": {"unigram": 2.0}}, {"name": "b", "value": 3.0, "baselines": {}}]
    return results


def tried(tmp_path, *proofs):
    """The reason of each proof, and the lines of the copy."""
    lines = ["# Title", *(f"- [ ] What {i}. `{proof}`" for i, proof in enumerate(proofs)), "Some words. `rm -rf`"]
    (tmp_path / "list.md").write_text("\n".join(lines) + "\n")
    (tmp_path / "run").mkdir(exist_ok=True)
    boxes, copy = prove(tmp_path / "list.md", some_results(), {"out": str(tmp_path)}, tmp_path / "run")
    assert copy == tmp_path / "run" / "list.md"
    assert (tmp_path / "list.md").read_text() == "\n".join(lines) + "\n", "the list itself is left as it is"
    return [box.reason for box in boxes], copy.read_text().splitlines()


def test_numbers_are_compared(tmp_path):
    reasons, lines = tried(
        tmp_path, "results a < b", "results a < a/unigram", "results b <= 3", "results b < a", "results 2 > c", "results a"
    )
    assert reasons[:3] == [None] * 3
    assert reasons[3:] == ["3 < 1 does not hold", "c was not measured", "'a' is no comparison of two numbers"]
    assert lines[0] == "# Title"
    assert lines[1] == "- [x] What 0. `results a < b`"
    assert lines[4] == "- [ ] What 3. `results b < a`  (not proven: 3 < 1 does not hold)"
    assert lines[-1] == "Some words. `rm -rf`"


def test_a_command_proves_by_its_exit_code(tmp_path):
    reasons, _ = tried(
        tmp_path, "lgdlm --version", "lgdlm check {out}/nothing", "lgdlm evaluate x checklist=y", "lgdlm demos", "lgdlm check --help"
    )
    assert reasons[0] == "lgdlm has no command '--version'"
    assert reasons[1].startswith("exit code 2: error: E_")
    assert str(tmp_path) in reasons[1]
    assert reasons[2] == "a checklist does not prove itself"
    assert reasons[3] == "lgdlm has no command 'demos'"
    assert reasons[4] is None


def test_tests_prove_by_passing(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    good, bad, gone, outside, option = tried(
        tmp_path, "pytest tests/test_it.py::test_good", "pytest tests/test_it.py", "pytest tests/test_gone.py", "pytest tests/../x.py",
        "pytest tests/test_it.py -k good",
    )[0]  # fmt: skip
    assert good is None
    assert "pytest ended with 1: 1 failed" in bad
    assert gone == "tests/test_gone.py is no test of this checkout"
    assert outside == "tests/../x.py is no test of this checkout"
    assert option == "-k is no test of this checkout"


def test_without_a_checkout_a_test_proves_nothing(tmp_path):
    (reason,) = tried(tmp_path, "pytest tests/test_it.py")[0]
    assert reason.startswith("no folder of tests")


@pytest.mark.parametrize("line", ["- [ ] no proof", "- [ ] `rm -rf /`", "- [ ] `python x.py`", "no box at all", "- [ ] ` `"])
def test_what_is_no_list_of_boxes_is_refused(tmp_path, line):
    (tmp_path / "list.md").write_text(line + "\n")
    with pytest.raises(InputError, match="BAD_CHECKLIST"):
        prove(tmp_path / "list.md", some_results(), {}, tmp_path)


def test_a_ticked_copy_can_be_tried_again(tmp_path):
    _, lines = tried(tmp_path, "results a < b", "results b < a")
    (tmp_path / "run/again").mkdir()
    boxes, copy = prove(tmp_path / "run/list.md", some_results(), {}, tmp_path / "run/again")
    assert copy.read_text().splitlines() == lines
    assert [box.proof for box in boxes] == ["results a < b", "results b < a"]


def test_the_shipped_list_names_what_exists():
    proofs = [SPAN.findall(line)[-1] for line in SHIPPED.read_text().splitlines() if BOX.fullmatch(line)]
    assert len(proofs) >= 15
    for proof in proofs:
        kind, *words = proof.split()
        assert kind in PROOFS
        if kind == "results":
            assert {word.partition("/")[0] for word in words if word not in "<=>=" and not word.isdigit()} <= set(METRICS)
        elif kind == "lgdlm":
            assert parse(words).command == words[0]
        else:
            assert all((ROOT / word).is_file() for word in words)


def test_the_shipped_list_names_what_an_evaluation_measures(tmp_path):
    """A number that nothing measures would leave its box empty on every checkpoint."""
    assert train(data_folder(tmp_path / "data"), tmp_path, "training.num_train_steps=2") == 0
    boxes = [line for line in SHIPPED.read_text().splitlines() if BOX.fullmatch(line) and "`results" in line]
    (tmp_path / "numbers.md").write_text("".join(line + "\n" for line in boxes))
    assert main(["evaluate", str(tmp_path / "run"), f"checklist={tmp_path}/numbers.md", "--quiet", *QUICK]) in (0, 3)
    tried = (tmp_path / "run/numbers.md").read_text().splitlines()
    assert len(tried) == len(boxes) >= 7
    assert [line for line in tried if "- [x]" not in line and "does not hold" not in line] == []


def test_a_checkpoint_is_tried_and_its_copy_lies_in_its_run(tmp_path, capsys):
    data = data_folder(tmp_path / "data")
    assert train(data, tmp_path, "training.num_train_steps=2") == 0
    progress._silent = False
    (tmp_path / "mine.md").write_text(
        "".join(line + "\n" for line in SHIPPED.read_text().splitlines() if BOX.fullmatch(line) and "`lgdlm" in line)
    )
    assert main(["evaluate", str(tmp_path / "run"), f"checklist={tmp_path}/mine.md", *QUICK]) == 0
    assert (tmp_path / "run/mine.md").read_text().count("- [x]") == 4
    assert "4 of 4 boxes proven" in capsys.readouterr().err
    (tmp_path / "mine.md").write_text(
        "- [ ] Never. `results nelbo_given_latent < 0`\n- [ ] Whole. `lgdlm check model.checkpoint_path={checkpoint}`\n"
    )
    assert main(["evaluate", str(tmp_path / "run"), f"checklist={tmp_path}/mine.md", *QUICK]) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: E_CHECKLIST")
    assert "1 of 2 boxes are not proven" in last
    assert (tmp_path / "run/mine.md").read_text().startswith("- [ ] Never. `results nelbo_given_latent < 0`  (not proven: ")
    assert main(["evaluate", str(tmp_path / "run"), f"checklist={tmp_path}/gone.md", *QUICK]) == 2
