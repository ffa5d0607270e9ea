"""The commands, as a table: what each does, which keys it reads, where a bare word goes.

    lgdlm sample RUN mode=l2t   ->   sample, sampling.checkpoint=RUN, sampling.mode=l2t

`COMMANDS[name]` runs `lgdlm.cli.<name>.run(config: Config) -> int`, imported only then: `--help` loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lgdlm.compat import CHOSEN
from lgdlm.errors import InputError
from lgdlm.schema import groups, keys_of, nearest


@dataclass(frozen=True)
class Command:
    """`groups` are the keys it reads: the first is its own, whose keys may be written without the group's name."""

    summary: str
    groups: tuple[str, ...]
    argument: str | None = None  # the key that a word without `=` sets
    config_name: str = "default"
    flags: dict[str, str] = field(default_factory=dict)  # a flag and the shipped configuration it chooses
    short: dict[str, str] = field(default_factory=dict)  # a flag and the word it stands for
    passes_on: bool = False  # words of other groups are for the runs that it starts: run(config, words)
    told_words: bool = False  # it asks which keys were said: run(config, words); a configuration that was named says all of them


TRAINING_GROUPS = ("training", "data", "tokenizer", "model", "loss", "optimizer", "logging")

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "the whole path on real text: prepare, train, sample, evaluate, report",
        (*TRAINING_GROUPS, "sampling", "evaluation", "prepare"),
        config_name="demo",
        flags={"--quick": "demo_quick"},
    ),
    "prepare": Command("text to tokens and latents; goes on where it stopped", ("prepare",), argument="prepare.input"),
    "check": Command(
        "read a data folder or a checkpoint completely, report every problem, change nothing",
        ("data", "model", "tokenizer"),
        argument="data.latent_dir",
        told_words=True,
    ),
    "convert": Command(
        "the per-sample layout to the packed one, and back; RWKV-7 weights to and from ours",
        ("prepare", "data", "tokenizer", "model"),
        argument="prepare.input",
        config_name="convert",
    ),
    "train": Command("any objective, any denoiser", TRAINING_GROUPS, short={"--fallback": "training.fallback=true"}),
    "sample": Command(
        "text from latents, latents from text, or both",
        ("sampling",),
        argument="sampling.checkpoint",
        short={"--fallback": "sampling.fallback=true"},
    ),
    "evaluate": Command(
        "every metric beside its baselines",
        ("evaluation", "data"),
        argument="evaluation.checkpoint",
        short={"--fallback": "evaluation.fallback=true"},
    ),
    "ablate": Command(
        "a matrix of runs: variants x seeds, compared in pairs; words of other groups go to every run",
        ("ablation",),
        argument="ablation.matrix",
        passes_on=True,
    ),
    "flops": Command("what the configured denoiser computes, a token and a text", ("model", "tokenizer")),
    "report": Command("one self-contained HTML page of a run", ("evaluation",), argument="evaluation.checkpoint"),
}


@dataclass(frozen=True)
class Request:
    """A command line, taken apart."""

    command: str
    words: list[str]
    config_name: str
    help: bool = False
    quiet: bool = False
    debug: bool = False
    passed_on: list[str] | None = None  # of a command that passes words on, or asks which there were


def parse(arguments: list[str]) -> Request:
    """The request that the words after `lgdlm` make. InputError (USAGE) for an unknown command or flag, or a stray word."""
    name = next((a for a in arguments if not a.startswith("-")), "")
    if name == "help":
        raise InputError("USAGE", "command-line", name, "no such command; lgdlm --help lists them, lgdlm COMMAND --help its keys")
    if name and name not in COMMANDS:
        raise InputError("USAGE", "command-line", name, f"no such command; {nearest(name, COMMANDS)}")
    rest = list(arguments)
    if name:
        rest.remove(name)
    command = COMMANDS.get(name)
    options: dict[str, bool] = {}
    config_name = command.config_name if command else "default"
    words: list[str] = []
    stray = 0
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag == "--config-name":
            if not equals and not rest:
                raise InputError("USAGE", "command-line", flag, "a name or a .yaml file is expected after it")
            config_name = value if equals else rest.pop(0)
        elif word in ("--help", "-h", "--quiet", "--debug"):
            options["help" if word == "-h" else word[2:]] = True
        elif command and word in command.flags:
            config_name = command.flags[word]
        elif command and word in command.short:
            words.append(command.short[word])
        elif word.startswith("-"):
            known = ["--help", "--quiet", "--debug", "--config-name", *((*command.flags, *command.short) if command else ())]
            raise InputError("USAGE", "command-line", word, f"no such flag; {nearest(word, known)}")
        elif equals:
            words.append(_full(word, command))
        else:
            stray += 1
            if not command or command.argument is None or stray > 1:
                raise InputError("USAGE", "command-line", word, "a word of the form key=value is expected")
            words.append(f"{command.argument}={word}")
    passed_on = None
    if command and command.passes_on:
        own = f"{command.groups[0]}."
        words, passed_on = [w for w in words if w.startswith(own)], [w for w in words if not w.startswith(own)]
    elif command and command.told_words and config_name == command.config_name:
        passed_on = list(words)
    return Request(name, words, config_name, **options, passed_on=passed_on)


def _full(word: str, command: Command | None) -> str:
    """A key of the command's own group may stand without it: `mode=l2t` for `sampling.mode=l2t`."""
    name = word.partition("=")[0]
    if command is None or "." in name:
        return word
    own = command.groups[0]
    elsewhere = name in groups() or name in CHOSEN
    return word if elsewhere and name not in keys_of(groups()[own]) else f"{own}.{word}"
