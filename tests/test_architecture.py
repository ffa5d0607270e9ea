"""The rooms import only what stands below them, and the light ones stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lgdlm

SOURCE = Path(lgdlm.__file__).parent

# a room may import its own files, every row above its own, and nothing else of ours
ROWS = [
    {"errors", "rng", "hardware", "key", "configs"},
    {"config", "batch", "strict_yaml", "idle_keys"},
    {"schema"},
    {"compat"},
    {"data"},
    {"diffusion"},
    {"models"},
    {"objectives", "sampling"},
    {"training", "evaluation"},
    {"ablation"},
    {"cli"},
    {"__main__", "doors"},
]
ALLOWED = {
    room: set().union(*ROWS[:i]) - ({"data"} if room in ("diffusion", "models") else set()) for i, row in enumerate(ROWS) for room in row
}

ONLY_COMMAND_LINE = {"hydra", "omegaconf"}
CORE = {"torch", "numpy", "hydra", "omegaconf", "safetensors", "huggingface_hub", "rich", "jinja2", "yaml", "lgdlm"}

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, at_load: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; `at_load`: of those that run when the file is imported."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (at_load and (lazy or typing_only)):
            nodes += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_rooms_below_its_own(path):
    room = room_of(path)
    if room == "__init__":
        assert not list(imports(path)), "importing lgdlm imports nothing"
        return
    assert room in ALLOWED, f"{room} has no row: a new room needs one"
    wrong = []
    for line, module in imports(path):
        if module.startswith("lgdlm."):
            other = module.split(".")[1]
            if other not in ALLOWED[room] | {room, "__version__"}:
                wrong.append(f"{path}:{line} {module}")
        elif module.split(".")[0] in ONLY_COMMAND_LINE and room != "cli":
            wrong.append(f"{path}:{line} {module}: configuration stops at the command line")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_extras_are_imported_where_they_are_used(path):
    outside = {
        f"line {line}: {module}"
        for line, module in imports(path, at_load=True)
        if module.split(".")[0] not in CORE | sys.stdlib_module_names
    }
    assert not outside, "only core dependencies may be imported when a file is loaded"


@pytest.mark.parametrize(
    "module", ["lgdlm", "lgdlm.config", "lgdlm.schema", "lgdlm.compat", "lgdlm.errors", "lgdlm.cli.compose", "lgdlm.cli.progress"]
)
def test_a_light_module_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'hydra', 'rich', 'yaml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_opens_with_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii(), "ASCII only"
    assert not text or ast.get_docstring(ast.parse(text)), "a file opens with its equation or its idea"


def test_the_page_of_the_house_lists_every_file():
    """docs/architecture.md, the table of rooms: a row a room, with the names of its files."""
    rows = [line.split("|") for line in (SOURCE.parents[1] / "docs/architecture.md").read_text(encoding="utf-8").splitlines()]
    listed = {row[1].strip().strip("`"): set(row[3].replace("`", " ").replace(",", " ").split()) for row in rows if len(row) == 5}
    names = {"lgdlm/": SOURCE} | {f"{path.relative_to(SOURCE)}/": path for path in SOURCE.rglob("*") if (path / "__init__.py").exists()}
    names.pop("configs/")
    for name, folder in names.items():
        found = {path.name for path in folder.iterdir() if path.suffix in (".py", ".cpp", ".hpp") and path.name != "__init__.py"}
        assert found <= listed[name], f"{name}: {sorted(found - listed[name])} are missing on the page"
        gone = {word for word in listed[name] if word.endswith((".py", ".cpp", ".hpp"))} - found
        assert not gone, f"{name}: {sorted(gone)} are on the page only"
