"""Matrix files: the shipped ones compose at every scale, and what cannot be meant is refused with its place."""

import re
from pathlib import Path

import pytest
import yaml
from ablation_world import cells_of, write_matrix

from lgdlm.ablation.matrix_file import read_matrix, shipped_matrices
from lgdlm.ablation.plan import plan_cells
from lgdlm.cli.compose import compose
from lgdlm.errors import InputError
from lgdlm.schema import as_dict

SCALES = ("small", "demo", "full")


@pytest.mark.parametrize("name", shipped_matrices())
@pytest.mark.parametrize("scale", SCALES)
def test_a_shipped_matrix_composes_at_every_scale(name, scale):
    matrix = read_matrix(name)
    cells = plan_cells(matrix, scale, [1, 2], Path("out"), {}, compose)
    assert len(cells) == 2 * len(matrix.variants)
    assert len({cell.folder for cell in cells}) == len(cells)
    for cell in cells:
        keys = as_dict(cell.config)
        assert keys["training"]["seed"] == cell.seed
        assert cell.config.data.latent_dir == cell.config.prepare.out, "its data can be prepared"
        for name_, value in cell.variant.set.items():
            group, _, key = name_.partition(".")
            assert (keys["model"]["denoiser"] if name_ == "model" else keys[group][key]) == value


@pytest.mark.parametrize("name", shipped_matrices())
def test_variants_of_a_shipped_matrix_differ_in_what_they_set_alone(name):
    cells = plan_cells(read_matrix(name), "small", [1], Path("out"), {}, compose)
    varied = {key for cell in cells for key in cell.variant.set}
    for cell in cells[1:]:
        for group, keys in as_dict(cell.config).items():
            other = as_dict(cells[0].config)[group]
            found = {f"{group}.{key}" for key in keys.keys() & other.keys() if keys[key] != other[key]}
            assert found <= varied | {"logging.save_dir", "model.denoiser"}


def test_the_documented_matrix_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    matrix = read_matrix(str(tmp_path / "mine.yaml"))
    assert [variant.against for variant in matrix.variants] == ["none", "none", "tenth"]
    cells = plan_cells(matrix, "small", [1], tmp_path, {}, compose)
    assert [cell.config.model.dropout for cell in cells] == [0.0, 0.1, 0.2]
    shown = set(re.findall(r"^\| `(\w+)` \| .*$", page.partition("| matrix |")[2].partition("\n\n")[0], re.M))
    assert shown == set(shipped_matrices())


def test_later_settings_win(tmp_path):
    path = write_matrix(
        tmp_path / "m.yaml", tmp_path,
        set={"optimizer.lr": 1.0, "optimizer.beta1": 0.5},
        scales={"small": {"minutes": 1, "set": {"optimizer.lr": 2.0, "model.hidden_size": 64}}},
        variants={"narrow": {}, "wide": {"set": {"model.hidden_size": 128}}},
    )  # fmt: skip
    narrow, wide = cells_of(path, tmp_path, (1,), **{"optimizer.beta2": "0.25"})
    assert (narrow.config.optimizer.lr, narrow.config.optimizer.beta1, narrow.config.optimizer.beta2) == (2.0, 0.5, 0.25)
    assert (narrow.config.model.hidden_size, wide.config.model.hidden_size) == (64, 128)
    assert narrow.config.evaluation.num_samples == 300, "the shipped scale lies below the matrix's own"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"referense": "a"}, "referense", "'reference'"),
        ({"reference": "wider"}, "reference", "'wide'"),
        ({"variants": {"narrow": {}, "w": {"against": "narow"}}}, "variants.w.against", "'narrow'"),
        ({"variants": {"narrow": {}, "../x": {}}}, "variants.../x", "names a folder"),
        ({"variants": {"narrow": {"sets": {}}}}, "variants.narrow.sets", "'set'"),
        ({"columns": ["nelbo_given_z"]}, "columns", "nelbo_given_latent"),
        ({"columns": [{"log": "loss", "over": "median", "better": "less"}]}, "columns", "lower"),
        ({"columns": [{"log": "loss", "over": "first"}]}, "columns", "median"),
        ({"columns": [{"run": "parameter"}]}, "columns", "'parameters'"),
        ({"columns": [{"run": "parameters", "over": "last"}]}, "columns", "means nothing"),
        ({"columns": ["l2t_bleu", "l2t_bleu"]}, "columns", "each once"),
        ({"pareto": [{"x": "parameters", "y": "loss"}]}, "pareto.y", "a column"),
        ({"scales": {"small": {"minutes": 0}}}, "scales.small.minutes", "minutes of a run"),
        ({"scales": {"tiny": {"set": {}}}}, "scales.tiny.minutes", "minutes of a run"),
        ({"equal_parameters": 2}, "equal_parameters", "share"),
        ({"question": None}, "question", "text"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, changes, field, said):
    path = write_matrix(tmp_path / "m.yaml", tmp_path, **changes)
    with pytest.raises(InputError) as refused:
        read_matrix(str(path))
    assert refused.value.field == field
    assert said in refused.value.message
    assert refused.value.where == str(path)


def test_a_missing_part_a_missing_file_and_broken_yaml_are_refused(tmp_path):
    path = write_matrix(tmp_path / "m.yaml", tmp_path)
    found = yaml.safe_load(path.read_text())
    for key in ("question", "config", "reference", "variants", "columns"):
        path.write_text(yaml.safe_dump({k: v for k, v in found.items() if k != key}))
        with pytest.raises(InputError, match=f"{key}: is missing"):
            read_matrix(str(path))
    path.write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_matrix(str(path))
    for name in ("fussion", str(tmp_path / "none.yaml")):
        with pytest.raises(InputError, match="fusion"):
            read_matrix(name)


@pytest.mark.parametrize("key", ["model.hidden_size", "training.seed", "logging.run_name", "evaluation.out", "training.resume"])
def test_a_word_that_would_undo_the_matrix_is_refused(tmp_path, key):
    path = write_matrix(tmp_path / "m.yaml", tmp_path)
    with pytest.raises(InputError) as refused:
        cells_of(path, tmp_path, **{key: "7"})
    assert refused.value.field == key


def test_unknown_scales_and_repeated_seeds_are_refused(tmp_path):
    matrix = read_matrix(str(write_matrix(tmp_path / "m.yaml", tmp_path)))
    for scale, seeds, field in (("huge", [1], "ablation.scale"), ("small", [1, 1], "ablation.seeds"), ("small", [], "ablation.seeds")):
        with pytest.raises(InputError) as refused:
            plan_cells(matrix, scale, seeds, tmp_path, {}, compose)
        assert refused.value.field == field
