"""The command line from outside: exit codes, the one line of error, and what is not loaded."""

from __future__ import annotations

import errno
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from lgdlm.cli.__main__ import Terminated, main
from lgdlm.cli.commands import COMMANDS, parse
from lgdlm.config import Config
from lgdlm.errors import CheckpointError, Diverged, InputError, LockedError, PeerLost, StorageError
from lgdlm.schema import all_keys, groups, keys_of

ONE_LINE = re.compile(r"error: E_[A-Z0-9_]+ .+: .+\n")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Puts a function in the place of `lgdlm train` and runs the command line in this process."""

    def run(body, *words):
        module = ModuleType("lgdlm.cli.train")
        module.run = body
        monkeypatch.setitem(sys.modules, "lgdlm.cli.train", module)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return main(["train", *words])

    return run


def raises(problem):
    def body(config):
        raise problem

    return body


def test_a_command_gets_one_configuration_and_its_code_is_returned(command):
    seen = []
    assert command(lambda config: seen.append(config) or 7, "seed=5", "training.loss_type=l2t", "model=mmdit") == 7
    assert isinstance(seen[0], Config)
    assert (seen[0].training.seed, seen[0].loss.loss_type, seen[0].model.denoiser) == (5, "l2t", "mmdit")


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (InputError("NAN_LATENT", "a.npy", "latent", "is NaN"), 2),
        (CheckpointError("HASH", "model.safetensors", "sha256", "differs"), 3),
        (LockedError("LOCKED", "run", "lock", "is held"), 4),
        (StorageError("STORAGE", "run", "write", "is full"), 5),
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), 5),
        (OSError(errno.EROFS, "Read-only file system", "run/x"), 5),
        (PermissionError(errno.EACCES, "Permission denied", "run/x"), 5),
        (Diverged("DIVERGED", "run", "loss", "is NaN"), 6),
        (PeerLost("PEER", "rank 1", "gloo", "is gone"), 7),
        (RuntimeError("defect\nof \x1b[31mours" + "x" * 900), 1),
        (FileNotFoundError(errno.ENOENT, "No such file", "forgotten"), 1),
    ],
)
def test_a_failure_is_one_line_and_one_code(command, capsys, problem, code):
    assert command(raises(problem)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert ONE_LINE.fullmatch(said.err)
    assert len(said.err.encode()) <= 301
    assert said.err.rstrip("\n").isprintable()


@pytest.mark.parametrize(("problem", "code", "name"), [(KeyboardInterrupt(), 130, "SIGINT"), (Terminated(), 143, "SIGTERM")])
def test_a_signal_is_one_line_and_its_code(command, capsys, problem, code, name):
    assert command(raises(problem)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: E_INTERRUPTED command {name}: ")


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")])
def test_what_does_not_fit_says_what_to_lower(command, capsys, problem):
    assert command(raises(problem)) == 2
    assert "E_MEMORY machine memory: there is not enough for this; lower training.train_batch_size" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_still_ends_in_the_line(command, capsys):
    assert command(raises(RuntimeError("defect")), "--debug") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: E_DEFECT ")


def test_a_defect_keeps_its_traceback_in_the_file_it_names(command, capsys):
    command(raises(RuntimeError("a defect of ours")))
    path = re.search(r"traceback in (\S+)", capsys.readouterr().err)[1]
    assert "RuntimeError: a defect of ours" in Path(path).read_text()


def test_only_the_first_rank_speaks(command, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert command(raises(InputError("X", "a", "b", "c"))) == 2
    assert capsys.readouterr().err != "", "a number that stands in the environment without a job makes nobody silent"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(raises(InputError("X", "a", "b", "c"))) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "'train'"),
        (["help"], "lgdlm --help"),
        (["train", "--quite"], "'--quiet'"),
        (["train", "--quick"], "--quiet"),
        (["train", "stray"], "key=value"),
        (["sample", "RUN", "stray"], "key=value"),
        (["train", "sede=1"], "'training.seed'"),
        (["train", "lr=1"], "'optimizer.lr'"),
        (["train", "--config-name"], "is expected after it"),
        (["train", "--config-name", "mmditt"], "'mmdit'"),
        ([], "a command is expected"),
    ],
)
def test_bad_usage_is_2_and_names_the_nearest(words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert ONE_LINE.fullmatch(error)


def test_a_bare_word_and_a_bare_key_belong_to_the_command():
    request = parse(["sample", "RUN", "mode=t2l", "prompts=a=b.txt", "--quiet", "model.max_seq_len=8"])
    assert request.words == ["sampling.checkpoint=RUN", "sampling.mode=t2l", "sampling.prompts=a=b.txt", "model.max_seq_len=8"]
    assert request.quiet
    assert parse(["prepare", "tokenizer=byte"]).words == ["prepare.tokenizer=byte"]  # a group of this name, too
    assert parse(["--quiet", "train", "denoiser_type=rwkv", "model=rwkv7"]).words == ["denoiser_type=rwkv", "model=rwkv7"]


def test_flags_choose_a_configuration():
    assert parse(["demo"]).config_name == "demo"
    assert parse(["demo", "--quick"]).config_name == "demo_quick"
    assert parse(["train", "--config-name=mmdit"]).config_name == parse(["train", "--config-name", "mmdit"]).config_name == "mmdit"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_names_real_groups_keys_and_modules(name):
    command = COMMANDS[name]
    assert set(command.groups) <= set(groups())
    assert command.argument is None or command.argument in all_keys()
    assert callable(importlib.import_module(f"lgdlm.cli.{name}").run)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_key_with_its_default(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for group in COMMANDS[name].groups:
        for key in keys_of(groups()[group]):
            assert re.search(rf"^  {group}\.{key}  <", out, re.M), f"{group}.{key}"
    assert ("model.kernel" in out) == ("model" in COMMANDS[name].groups)


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", out, re.M) for name in COMMANDS)
    assert "--version" in out
    for name in ("train", "sample", "evaluate"):
        assert main([name, "--help"]) == 0
        assert "--fallback" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["trian"], ["train", "sede=1"]])
def test_help_and_refusals_load_no_heavy_library(words):
    heavy = ("torch", "transformers", "numpy")
    code = f"import sys; from lgdlm.cli.__main__ import main; main({words!r}); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_starts_without_hydra():
    code = (
        "import sys; from lgdlm.cli.__main__ import main; main(['train', '--help']); print('hydra' in sys.modules, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_module_and_the_script_are_the_same_command(lgdlm):
    assert lgdlm("--version").stdout.strip() == importlib.import_module("lgdlm").__version__
    failed = lgdlm("train", "sede=1")
    assert failed.returncode == 2
    assert ONE_LINE.fullmatch(failed.stderr)


def test_the_environment_is_set_before_torch_is_loaded(command, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    seen = {}
    assert command(lambda config: seen.update(os.environ) or 0) == 0
    assert (seen["HF_HUB_OFFLINE"], seen["THP_MEM_ALLOC_ENABLE"]) == ("1", "1")
