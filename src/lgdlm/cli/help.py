"""What `--help` prints, from the table of commands and the schema: no network library is loaded for it."""

from __future__ import annotations

import json
import shutil
import textwrap

from lgdlm.cli.commands import COMMANDS, Command
from lgdlm.cli.compose import shipped_configs
from lgdlm.config import MODELS
from lgdlm.schema import Key, groups, keys_of

FLAGS = """\
  --config-name NAME   a shipped configuration, or a .yaml file of yours
  --quiet              no progress
  --debug              the traceback of an error
  --help               this, or the keys of a command
"""
VERSION = "  --version            which lgdlm this is\n"


def overview() -> str:
    """`lgdlm --help`: the commands."""
    rows = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: lgdlm COMMAND [key=value ...] [--config-name NAME] [--quiet] [--debug] [--help]\n\n"
        f"{rows}\n\n{FLAGS}{VERSION}\nlgdlm COMMAND --help lists its keys. Configurations: {', '.join(shipped_configs())}\n"
    )


def of_command(name: str) -> str:
    """`lgdlm COMMAND --help`: every key it reads, with type, default and meaning."""
    command = COMMANDS[name]
    argument = f" [{command.argument}]" if command.argument else ""
    flags = "".join(f"  {flag:<20} the same with --config-name {choice}\n" for flag, choice in command.flags.items())
    flags += "".join(f"  {flag:<20} the same as {word}\n" for flag, word in command.short.items())
    parts = [f"usage: lgdlm {name}{argument} [key=value ...]\n\n{command.summary}\n\n{flags}{FLAGS}", _own_note(command)]
    for group in command.groups:
        parts.append(_table(group, keys_of(groups()[group])))
        if group == "model":
            shared = keys_of(groups()["model"])
            parts += [_table(f"model={m}", own) for m, kind in MODELS.items() if (own := _beyond(keys_of(kind), shared))]
    return "\n".join(part for part in parts if part)


def _own_note(command: Command) -> str:
    own = command.groups[0]
    return f"Keys of {own} may be written without `{own}.`; defaults below are those without a configuration.\n"


def _beyond(keys: dict[str, Key], shared: dict[str, Key]) -> dict[str, Key]:
    return {name: key for name, key in keys.items() if name not in shared}


def _table(group: str, keys: dict[str, Key]) -> str:
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    prefix = group.partition("=")[0]
    lines = [group]
    for name, key in keys.items():
        default = json.dumps(key.default)
        text = key.help + (f" ({' | '.join(key.choices)})" if len(key.choices) > 1 else "")
        lines.append(f"  {prefix}.{name}  <{key.type_name}>  {default}")
        lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"
