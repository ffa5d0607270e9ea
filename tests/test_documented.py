"""What the documentation shows is run as it is written, and names only what exists."""

from __future__ import annotations

import pytest
from documented import commands_in, own_texts, own_weights, pages, run

from lgdlm.cli.commands import COMMANDS, parse
from lgdlm.cli.compose import compose

PAGES = [page for page in pages() if commands_in(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_runs(page, tmp_path):
    own_texts(tmp_path)
    own_weights(tmp_path, page)
    for command in commands_in(page):
        if not command.long:
            done = run(command, tmp_path, small=True)
            assert done.returncode == 0, f"{command.page}:{command.line}: {command.text}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.nightly
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_long_command_of_a_page_runs(page, tmp_path):
    own_texts(tmp_path)
    own_weights(tmp_path, page)
    for command in commands_in(page):
        done = run(command, tmp_path, small=False)
        assert done.returncode == 0, f"{command.page}:{command.line}: {command.text}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_composes(page):
    """Also those that are too long to run: their keys and values are read against the schema."""
    for command in commands_in(page):
        words = command.words()
        if words[0] == "lgdlm":
            request = parse(words[1 : words.index("|") if "|" in words else None])
            compose(request.words, request.config_name)


def test_the_pages_show_every_command():
    shown = {command.words()[1] for page in PAGES for command in commands_in(page) if command.words()[0] == "lgdlm"}
    assert set(COMMANDS) <= shown
