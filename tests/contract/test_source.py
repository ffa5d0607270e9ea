"""The source runs no code of others: no pickle, `eval`, remote code or shell. Read from its syntax tree, and tried on bad examples."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lgdlm

DOORS = ("cycle_vae_impl", "latentDLM_mmdit", "rwkv_diffusion_rnn")  # packages at the root of the checkout
SOURCE = Path(lgdlm.__file__).parent
ROOT = SOURCE.parents[1]
FILES = sorted(path for folder in (SOURCE, *(ROOT / name for name in DOORS)) for path in folder.rglob("*.py"))
OLD_CHECKPOINTS = {"models/pretrained.py"}  # where a .pth of others is read, by torch's list of harmless types
FOR_OTHERS = {"training/export.py"}  # where a .pth is written, a table of tensors, for programs that read nothing else

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "code", "runpy", "pty"}
HARMLESS = {"pickle.UnpicklingError"}
BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
CALLS = {
    "os.system", "os.popen", "commands.getoutput", "asyncio.create_subprocess_shell", "pydoc.locate", "runpy.run_path",
    "importlib.util.spec_from_file_location", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
    "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object",
    "OmegaConf.register_new_resolver", "omegaconf.OmegaConf.register_new_resolver", "datasets.load_dataset", "load_dataset",
    "tempfile.mktemp", "tarfile.open", "shutil.unpack_archive", "pandas.read_pickle", "pd.read_pickle", "numpy.fromregex",
}  # fmt: skip
RUNNERS = ("os.exec", "os.spawn", "os.posix_spawn")  # and whatever follows
UNSAFE_LOADERS = {"Loader", "FullLoader", "UnsafeLoader", "BaseLoader", "CLoader", "CFullLoader", "CUnsafeLoader"}
FETCHERS = {"from_pretrained", "snapshot_download", "hf_hub_download", "cached_file"}
MAY_FETCH = {"models/hub.py"}  # when the user asks for it


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an expression that is one; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := name_of(node.value)):
        return f"{before}.{node.attr}"
    return ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def faults(tree: ast.AST, file: str = "") -> Iterator[tuple[int, str]]:
    """(line, what) of everything that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if (node.module or "").split(".")[0] in MODULES and not set(names) <= HARMLESS:
                yield node.lineno, f"from {node.module} import"
            yield from ((node.lineno, name) for name in names if name in CALLS or name.startswith(RUNNERS))
            yield from ((node.lineno, n) for n in names if n.startswith("yaml.") and n.rpartition(".")[2] in UNSAFE_LOADERS)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in MODULES - {"pickle"})
            yield from ((node.lineno, "import pickle as") for a in node.names if a.name == "pickle" and a.asname)
        elif isinstance(node, ast.Attribute):
            name = name_of(node)
            if name.startswith("pickle.") and name not in HARMLESS:
                yield node.lineno, name
            if name.startswith("yaml.") and name.split(".")[1] in UNSAFE_LOADERS:
                yield node.lineno, name
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.lineno, node.id
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in call_faults(node, file))
        elif isinstance(node, ast.keyword | ast.arg | ast.Subscript | ast.Dict):
            yield from ((getattr(node, "lineno", 0), what) for what in option_faults(node))


def call_faults(node: ast.Call, file: str) -> Iterator[str]:
    name = name_of(node.func)
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in CALLS or name.startswith(RUNNERS):
        yield name
    if name in ("np.load", "numpy.load") and len(node.args) > 2:
        yield f"{name} with allow_pickle by place"
    if (
        name.rpartition(".")[2] in FETCHERS
        and file not in MAY_FETCH
        and None not in options
        and not is_constant(options.get("local_files_only"), True)
    ):
        yield f"{name} without local_files_only"
    if name == "torch.save" and file not in FOR_OTHERS:
        yield name
    if name == "torch.load" and not (is_constant(options.get("weights_only"), True) and file in OLD_CHECKPOINTS):
        yield "torch.load"
    if name.rpartition(".")[2] == "import_module" and not from_our_package(node.args[0] if node.args else None):
        yield "import_module of a name from outside"
    if name.startswith("subprocess.") and None in options:
        yield f"{name} with options from outside"


def option_faults(node: ast.AST) -> Iterator[str]:
    """Options that may only be false, however they are handed over: keyword, default, dictionary entry, assignment."""
    if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle", "shell") and not is_constant(node.value, False):
        yield node.arg
    if isinstance(node, ast.arg) and node.arg in ("trust_remote_code", "allow_pickle"):
        yield f"{node.arg} as a parameter"
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if (
                isinstance(key, ast.Constant)
                and key.value in ("trust_remote_code", "allow_pickle", "shell")
                and not is_constant(value, False)
            ):
                yield str(key.value)
            if isinstance(key, ast.Constant) and key.value == "local_files_only" and not is_constant(value, True):
                yield "local_files_only"


def from_our_package(argument: ast.expr | None) -> bool:
    """Whether a name that is imported at run time begins with `lgdlm.`, in a literal or an f-string."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
    return isinstance(first, ast.Constant) and str(first.value).startswith("lgdlm.")


def named(path: Path) -> str:
    """A file of the package by its path there, one of a door by its path in the checkout."""
    return path.relative_to(SOURCE if path.is_relative_to(SOURCE) else ROOT).as_posix()


def test_every_package_is_read() -> None:
    assert {named(path).partition("/")[0] for path in FILES} >= {*DOORS, "data", "training", "cli", "doors"}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_runs_no_code_of_others(path: Path) -> None:
    found = list(faults(ast.parse(path.read_text(encoding="utf-8")), named(path)))
    assert not found


def test_assignments_of_options_are_false() -> None:
    """`options["trust_remote_code"] = False` and nothing else."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Subscript):
                key = target.slice.value if isinstance(target.slice, ast.Constant) else None
                assert key not in ("trust_remote_code", "allow_pickle") or is_constant(node.value, False), f"{path}:{node.lineno}"


BAD = [
    "import pickle as p",
    "import dill",
    "import joblib.numpy_pickle",
    "from pickle import loads",
    "from marshal import load",
    "import shelve",
    "import pickle\npickle.loads(x)",
    "import pickle\nf = pickle.Unpickler",
    "eval(x)",
    "f = eval",
    "exec(x)",
    "compile(x, '', 'exec')",
    "__import__(x)",
    "torch.load(x)",
    "torch.load(x, weights_only=True)",
    "torch.load(x, weights_only=flag)",
    "np.load(x, allow_pickle=True)",
    "np.load(x, allow_pickle=flag)",
    "f(trust_remote_code=True)",
    "f(trust_remote_code=flag)",
    "f(**{'trust_remote_code': True})",
    "def f(trust_remote_code=False): pass",
    "yaml.load(x)",
    "yaml.load(x, Loader=yaml.Loader)",
    "class L(yaml.FullLoader): pass",
    "yaml.unsafe_load(x)",
    "subprocess.run(x, shell=True)",
    "subprocess.run(x, shell=flag)",
    "subprocess.run(x, **options)",
    "os.system(x)",
    "os.popen(x)",
    "os.execvpe(x, y, z)",
    "from os import posix_spawn",
    "asyncio.create_subprocess_shell(x)",
    "builtins.eval(x)",
    "from yaml import FullLoader",
    "np.load(x, None, True)",
    "f(**{'shell': True})",
    "AutoModel.from_pretrained(x)",
    "snapshot_download(x, local_files_only=flag)",
    "f(**{'local_files_only': False})",
    "importlib.import_module(x)",
    "import_module(f'{x}.y')",
    "hydra.utils.instantiate(x)",
    "from hydra.utils import instantiate",
    "torch.save(x, y)",
    "torch.hub.load(x)",
    "OmegaConf.register_new_resolver('x', f)",
    "datasets.load_dataset(x)",
    "tempfile.mktemp()",
]
FINE = [
    "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
    "model.eval()",
    "np.load(x, allow_pickle=False)",
    "np.load(x)",
    "re.compile(x)",
    "yaml.safe_load(x)",
    "class L(yaml.SafeLoader): pass",
    "subprocess.run([x], timeout=1)",
    "importlib.import_module(f'lgdlm.cli.{x}')",
    "f(trust_remote_code=False)",
    "schema.compose(x)",
    "AutoModel.from_pretrained(x, local_files_only=True)",
    "AutoModel.from_pretrained(x, **options)",
    "np.load(x, 'r')",
]


@pytest.mark.parametrize("code", BAD)
def test_the_reading_finds_what_is_bad(code: str) -> None:
    assert list(faults(ast.parse(code)))


@pytest.mark.parametrize("code", FINE)
def test_the_reading_lets_pass_what_is_fine(code: str) -> None:
    assert not list(faults(ast.parse(code)))
