"""The door folders hold names and nothing else, every YAML of theirs is read, and the pages list what is accepted."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from documented import ROOT
from doors_world import BLOCK, DOORS, documented

from lgdlm.cli.compose import compose, shipped_configs
from lgdlm.compat import CHOSEN, LISTS, RENAMED
from lgdlm.idle_keys import IGNORED, ONLY, idle_in
from lgdlm.schema import all_keys

FOLDERS = (*DOORS, "preprocessed_data")
FILES = sorted(
    path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if path.parent != ROOT / "preprocessed_data" or "prepare" in path.name
)
YAMLS = [*sorted((ROOT / "src/lgdlm/configs").glob("*.yaml")), *sorted((ROOT / "cycle_vae_impl/configs").glob("*.yaml"))]
MOST_LINES = 6
START = re.compile(r"if __name__ == '__main__':\n    sys\.exit\(\w+\(\)\)")

# the flags that users know, by command
FLAGS = {
    "rwkv_diffusion_rnn/preprocess_tokenize_text.py": (
        "json_path output_dir tokenizer max_length workers cache_dir local_files_only trust_remote_code"
    ),
    "latentDLM_mmdit/sample_l2t_fixed.py": "checkpoint config npy_dir num_samples batch_size steps temperature seq_len output_dir",
    "latentDLM_mmdit/sample_t2l_fixed.py": (
        "checkpoint config text_file text_prompt num_samples batch_size steps guidance_scale output_dir max_length"
    ),
    "latentDLM_mmdit/sample_unconditional_fixed.py": (
        "checkpoint config num_latents text_steps latent_steps temperature seq_len output_dir"
    ),
    "cycle_vae_impl/entrypoints/smoke_cycle_vae_forward.py": "config device",
    "cycle_vae_impl/entrypoints/train_cycle_vae.py": "config override synthetic resume",
    "preprocessed_data/prepare_data_multi_gpu.py": (
        "output_dir datasets latent_model batch_size max_samples resume create_validation val_ratio"
    ),
}


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    inside: set[int] = set()
    if tree.body and isinstance(tree.body[0], ast.Expr) and isinstance(tree.body[0].value, ast.Constant):
        inside = set(range(1, (tree.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for number, line in lines if number not in inside and line.strip() and not line.strip().startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_door_holds_names_and_nothing_else(path):
    assert code_lines(path) <= MOST_LINES
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        starts = START.fullmatch(ast.unparse(node)) is not None
        assert imports or named or documented or starts, f"{path}:{node.lineno} is logic: it belongs to lgdlm.doors"
        if isinstance(node, ast.ImportFrom):
            assert str(node.module).startswith("lgdlm.doors."), "a door opens onto one room"


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_key_of_a_shipped_file_is_one_of_ours(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert not idle_in(values, path), "a shipped file asks for nothing that means nothing"
    for group, keys in values.items():
        if group != "defaults":
            assert isinstance(keys, Mapping)
            assert {f"{group}.{name}" for name in keys} <= set(all_keys())
    config = compose([], path.stem if path.stem in shipped_configs() and "src" in path.parts else str(path))
    assert config.model.latent_dim


def test_the_page_lists_every_old_key():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name in (*IGNORED, *ONLY, *RENAMED, *LISTS, *CHOSEN):
        assert f"`{name}" in page, f"{name} is accepted, and docs/commands.md does not say so"
    for path in FILES:
        if path.name != "__init__.py":
            assert path.stem in page or f"{path.parent.name}.{path.stem}" in page, f"{path} is not in docs/commands.md"


@pytest.mark.parametrize("command", FLAGS)
def test_every_known_flag_stands_in_a_documented_command(command):
    """The tests of this folder run those commands as they are written."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for match in BLOCK.finditer(page) for line in documented(match["title"])]
    shown = {word.removeprefix("--").replace("-", "_") for words in lines if command in words for word in words if word.startswith("--")}
    assert shown == set(FLAGS[command].split())


def test_an_imported_door_loads_the_core_alone():
    """From the root of a checkout, without any of the commands."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.parent.name not in ("preprocessed_data",)]
    modules = [module.removesuffix(".__init__") for module in modules]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {modules!r}]; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
