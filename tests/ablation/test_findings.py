"""From planted values on disk to the table, the sentences and the plots."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from ablation_world import cells_of, states, write_matrix

from lgdlm.ablation.column import OVER, column_of
from lgdlm.ablation.drawing import figures_of, front
from lgdlm.ablation.findings import comparisons_of, failure_of, findings_of, write_findings
from lgdlm.ablation.matrix_file import read_matrix
from lgdlm.ablation.page import page_of, table_of, write_page
from lgdlm.config import Config, RWKV7Model
from lgdlm.errors import InputError
from lgdlm.evaluation.metric import METRICS
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.run_record import read_run
from lgdlm.models.flops import formula
from lgdlm.schema import to_yaml

COLUMNS = ["nelbo_given_latent", "t2l_r2_one_step", {"log": "grad_norm", "over": "max", "better": "lower"}, {"run": "parameters"}]


def plant(cell, nelbo, r2, norms, parameters=1000):
    """A finished cell with these numbers."""
    cell.begin()
    facts = {"train": 90, "evaluated": 8}
    results = Results({"parameters": parameters}, facts, 42, {"num_steps": 2})
    for name, value in (("nelbo_given_latent", nelbo), ("t2l_r2_one_step", r2)):
        metric = METRICS[name]
        about = {"name": name, "label": metric.label, "group": metric.group, "unit": metric.unit, "better": metric.better}
        results.numbers.append({**about, "value": value, "low": None, "high": None, "standard_error": None, "baselines": {}})
    results.write(cell.folder / "results.json")
    lines = [json.dumps({"step": i, "loss": 1 / i, "grad_norm": norm}) for i, norm in enumerate(norms, start=1)]
    (cell.folder / "training_log.jsonl").write_text("\n".join(lines) + "\n")
    cell.note("finished", 90.0)


@pytest.fixture
def planted(tmp_path):
    """Wide: NELBO lower by 0.1 on every seed, R2 without a trend; huge: one run of three failed."""
    variants = {"narrow": {}, "wide": {"set": {"model.hidden_size": 32}}, "huge": {"set": {"model.hidden_size": 64}, "against": "wide"}}
    pareto = [{"x": "parameters", "y": "nelbo_given_latent"}]
    path = write_matrix(tmp_path / "m.yaml", tmp_path / "data", variants=variants, columns=COLUMNS, pareto=pareto)
    cells = cells_of(path, tmp_path / "out", (1, 2, 3))
    base = {1: 5.0, 2: 6.0, 3: 4.0}
    for cell in cells:
        name, seed = cell.variant.name, cell.seed
        if name == "huge" and seed == 2:
            cell.begin()
            cell.note("failed", 9.0, 6, "E_DIVERGED out/huge step 3: planned")
            continue
        nelbo = base[seed] - {"narrow": 0, "wide": 0.1, "huge": 0.05}[name] + 0.001 * (seed - 2) * (name == "wide")
        plant(cell, nelbo, 0.5 + 0.1 * math.sin(seed * len(name)), [1.0, 3.0, 2.0], 1000 * len(name))
    matrix = read_matrix(str(path))
    return matrix, cells, findings_of(matrix, "small", cells, {"optimizer.lr": "0.1"})


def test_planted_differences_are_judged(planted):
    _, cells, found = planted
    rows = {row["variant"]: row for row in found["rows"]}
    assert rows["wide"]["cells"]["nelbo_given_latent"]["verdict"] == "better"
    assert rows["wide"]["cells"]["nelbo_given_latent"]["difference"]["mean"] == pytest.approx(-0.1)
    assert rows["wide"]["cells"]["t2l_r2_one_step"]["verdict"] == "no difference shown"
    assert rows["wide"]["cells"]["grad_norm_max"]["mean"] == 3.0
    assert rows["wide"]["cells"]["parameters"]["verdict"] is None, "a fact is no merit"
    assert rows["narrow"]["cells"]["nelbo_given_latent"]["mean"] == 5.0
    assert rows["narrow"]["sentence"].endswith("compared with it.")
    assert (rows["huge"]["finished"], rows["huge"]["runs"], rows["huge"]["against"]) == (2, 3, "wide")
    assert "1 of 3 runs failed (diverged); worse in NELBO" in rows["huge"]["sentence"]
    assert rows["huge"]["cells"]["nelbo_given_latent"]["difference"]["n"] == 2
    assert len(comparisons_of(found)) == 6
    assert states(cells).count("failed") == 1


def test_the_table_shows_every_number_and_bold_where_something_was_shown(planted):
    _, _, found = planted
    lines = table_of(found).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 3}
    wide = next(line for line in lines if "`wide`" in line)
    assert re.search(r"\| 4\.9 \(2\.4 to 7\.4\)<br>\*\*-0\.1000 \(-0\.1025 to -0\.0975\)\*\* \|", wide)
    assert wide.count("**") == 2
    assert "| 2/3 |" in next(line for line in lines if "`huge`" in line)


def test_a_page_says_how_it_was_made_what_failed_and_what_chance_would_do(planted, tmp_path):
    matrix, cells, found = planted
    figures = figures_of(found, matrix, cells)
    files = write_page(found, figures, tmp_path / "docs" / "wide.md")
    page = files[0].read_text(encoding="utf-8")
    assert page.isascii()
    assert "Is wider better?" in page
    assert "`lgdlm ablate matrix=m scale=small 'seeds=[1,2,3]' optimizer.lr=0.1`" in page
    assert "8 of 9 runs finished, 1 min 30 s each" in page
    shown = sum(verdict in ("better", "worse") for verdict in comparisons_of(found))
    assert f"Of 6 comparisons {shown} do; by chance alone about 0.3 would." in page
    assert "- huge, seed 2: E_DIVERGED out/huge step 3: planned" in page
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert (
        shown
        == [file.name for file in files[1:]]
        == ["wide-differences.svg", "wide-loss-curves.svg", "wide-nelbo_given_latent-by-parameters.svg"]
    )
    with pytest.raises(InputError, match="md"):
        write_page(found, {}, tmp_path / "page.html")


def test_plots_are_whole_svgs_with_a_mark_for_every_run(planted):
    matrix, cells, found = planted
    figures = figures_of(found, matrix, cells)
    for svg in figures.values():
        ElementTree.fromstring(svg)
    assert figures["differences"].count('class="seed"') == 3 * (3 + 2), "three judged columns, a ring a pair"
    assert figures["loss-curves"].count('class="raw') == 8
    assert figures["nelbo_given_latent-by-parameters"].count("<circle") == 3


def test_the_front_is_what_nothing_beats_in_both():
    points = {"a": (1.0, 5.0), "b": (2.0, 4.0), "c": (3.0, 4.0), "d": (2.5, 6.0), "e": (4.0, 1.0)}
    assert front(points, "lower", "lower") == ["a", "b", "e"]
    assert front(points, "higher", "lower") == ["e"]
    assert front({"a": (1.0, 1.0), "b": (1.0, 1.0)}, "lower", "lower") == ["a", "b"]


def test_a_number_that_no_run_has_is_a_dash(planted):
    matrix, cells, _ = planted
    for cell in cells:
        if (cell.folder / "results.json").is_file():
            results = json.loads((cell.folder / "results.json").read_text())
            results["numbers"] = [entry for entry in results["numbers"] if entry["name"] != "t2l_r2_one_step"]
            (cell.folder / "results.json").write_text(json.dumps(results))
    found = findings_of(matrix, "small", cells, {})
    assert all("t2l_r2_one_step" not in row["cells"] for row in found["rows"])
    assert all("| - |" in line for line in table_of(found).splitlines()[2:])
    assert "T2L" not in page_of(found, []).split("- narrow")[1]
    assert "T2L" not in figures_of(found, matrix, cells)["differences"]


def test_nothing_finished_is_an_error_that_names_the_first_failure(tmp_path):
    path = write_matrix(tmp_path / "m.yaml", tmp_path)
    cells = cells_of(path, tmp_path / "out")
    with pytest.raises(InputError, match="none has been started"):
        findings_of(read_matrix(str(path)), "small", cells, {})
    for cell in cells:
        cell.begin()
        cell.note("failed", 1.0, 2, "E_LATENT_DIM manifest.json latent_dim: expected 3")
    with pytest.raises(InputError, match="none of 4 runs finished; the first: E_LATENT_DIM"):
        findings_of(read_matrix(str(path)), "small", cells, {})


def test_findings_survive_the_disk(planted, tmp_path):
    found = planted[2]
    assert table_of(json.loads(write_findings(found, tmp_path / "x").read_text())) == table_of(found)


def test_a_series_is_summed_up_as_its_name_says():
    falling, turning = np.linspace(10, 1, 100), np.concatenate([np.linspace(10, 1, 50), np.linspace(1, 7, 50)])
    assert OVER["rise"](falling) == 0.0
    assert OVER["rise"](turning) == pytest.approx(7 - 1, abs=1.5)
    assert OVER["tail"](falling) == pytest.approx(falling[-10:].mean())
    assert (OVER["last"](turning), OVER["max"](turning), OVER["median"](np.array([1.0, 9.0, 2.0]))) == (7.0, 10.0, 2.0)
    assert OVER["rise"](np.array([3.0])) == 0.0


def test_a_column_takes_its_words_from_what_it_shows(tmp_path):
    metric = column_of("l2t_bleu", tmp_path)
    assert (metric.label, metric.better, metric.name) == ("L2T BLEU", "higher", "l2t_bleu")
    series = column_of({"log": "l2t/nelbo", "over": "tail", "better": "lower"}, tmp_path)
    assert (series.name, series.label, series.better) == ("l2t/nelbo_tail", "NELBO, l2t (tail)", "lower")
    assert column_of({"run": "parameters", "label": "Size"}, tmp_path).label == "Size"


@pytest.mark.parametrize("causality", ["bidirectional", "causal", "block_causal"])
def test_the_cost_of_a_token_is_the_formulas(tmp_path, causality):
    model = RWKV7Model(hidden_size=64, n_blocks=2, max_seq_len=64, latent_dim=4, causality=causality, block_size=8)
    (tmp_path / "config.yaml").write_text(to_yaml(Config(model=model)))
    Results({"parameters": 1}, {"tokenizer": {"vocab_size": 128}}, 42, {}).write(tmp_path / "results.json")
    expected = formula(model, 128, rows=1, length=64, asked=64).total / 64
    assert column_of({"run": "flops"}, tmp_path).value(read_run(tmp_path)) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("E_DIVERGED a b: c", "diverged"), ("E_LATENT_DIM x", "latent dim"), ("ended by signal SIGKILL", "ended by signal SIGKILL")],
)
def test_a_failure_in_a_word(reason, kind):
    assert failure_of(reason) == kind


def test_a_series_of_any_mode_is_read_in_the_order_of_its_steps(tmp_path):
    """Modes take turns; what validation measured is not theirs."""
    rows = [{"step": 1, "l2t/text_accuracy": 1.0}, {"step": 2, "unconditional/text_accuracy": 2.0, "validation/text_accuracy": 9.0}]
    rows += [{"step": 3, "l2t/text_accuracy": 3.0}, {"step": 4, "t2l/latent_loss": 9.0}]
    (tmp_path / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = read_run(tmp_path)
    found = {over: column_of({"log": "*/text_accuracy", "over": over}, tmp_path) for over in ("last", "mean")}
    assert [found[over].value(record) for over in found] == [3.0, 2.0]
    assert found["last"].name == "text_accuracy_last"
    assert "*" not in found["last"].label
    assert column_of({"log": "*/text_loss", "over": "last"}, tmp_path).value(record) is None
