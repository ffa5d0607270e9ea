"""One line, one exit code: whatever a file name or a message holds, the line stays one line, short and recognisable."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lgdlm.errors import LINE_BYTES, CheckpointError, Diverged, InputError, LgdlmError, LockedError, PeerLost, Stopped, StorageError

EXIT_CODES = {InputError: 2, CheckpointError: 3, LockedError: 4, StorageError: 5, Diverged: 6, PeerLost: 7, Stopped: 130}
ANY = st.text(st.characters(codec=None), max_size=600)  # lone surrogates and control characters included
CODES = st.from_regex(r"\A[A-Z][A-Z0-9_]{0,23}\Z")
FIELDS = st.from_regex(r"\A[a-z_][a-z0-9_.]{0,79}\Z")


@given(code=CODES, where=ANY, field=ANY, message=ANY)
@example(code="X", where="\ud800" * 300, field="\x1b[31m", message="\u2028\n\r\x00" * 100)
@example(code="X", where="\U0001f600" * 200, field="f", message="\u202e" * 300)
@settings(max_examples=300, deadline=None)
def test_any_text_gives_one_short_printable_line(code, where, field, message):
    line = InputError(code, where, field, message).line()
    assert len(line.encode("utf-8")) <= LINE_BYTES == 300
    assert line.isprintable(), "no newline, escape sequence, bidirectional mark or lone surrogate"
    assert line.splitlines() == [line]
    assert line.startswith(f"error: E_{code} ")


@given(code=CODES, where=ANY, field=FIELDS, message=ANY)
@settings(max_examples=200, deadline=None)
def test_code_and_field_always_survive(code, where, field, message):
    line = InputError(code, where, field, message).line()
    assert re.match(rf"error: E_{code} .* {re.escape(field)}: ", line) or line.startswith(f"error: E_{code}  {field}: ")


@given(where=st.text("abc/._-", max_size=90), field=FIELDS.filter(lambda f: len(f) < 30), message=st.text("xyz ", max_size=130))
@settings(max_examples=100, deadline=None)
def test_what_fits_is_not_touched(where, field, message):
    assert InputError("NAN_LATENT", where, field, message).line() == f"error: E_NAN_LATENT {where} {field}: {message}"


def test_a_long_place_keeps_its_end_and_leaves_the_message_whole():
    line = InputError("NO_FILE", "/data/" + "deep/" * 100 + "latents/train/x.npy#7", "latent_path", "expected a file").line()
    assert line.startswith("error: E_NO_FILE ...")
    assert line.endswith("deep/latents/train/x.npy#7 latent_path: expected a file")
    assert 290 <= len(line) <= LINE_BYTES, "no room is wasted"


def test_a_long_message_is_cut_at_its_end():
    line = InputError("BAD_VALUE", "config.yaml:3", "loss.loss_type", "expected one of " + "l2t, " * 200).line()
    assert line.startswith("error: E_BAD_VALUE config.yaml:3 loss.loss_type: expected one of l2t, ")
    assert line.endswith("...")
    assert len(line) == LINE_BYTES


def test_both_long_share_the_line():
    line = InputError("X", "p" * 400 + "END", "field", "m" * 400).line()
    assert "END field: mmmmm" in line
    assert line.endswith("m...")


CONTROL = {"a\nb": r"a\nb", "\x1b[2J": r"\x1b[2J", "\x00": r"\x00", "\u202e": r"\u202e", "\udcff": r"\udcff", "\x85": r"\x85"}


@pytest.mark.parametrize(("raw", "shown"), CONTROL.items())
def test_control_characters_are_shown_and_not_obeyed(raw, shown):
    assert InputError("X", raw, "f", raw).line() == f"error: E_X {shown} f: {shown}"


def test_words_of_any_language_are_left_alone():
    place, message = "\u6570\u636e/\u00e9.npy", "\u043d\u0435\u0442 \U0001f600"
    assert InputError("X", place, "f", message).line() == f"error: E_X {place} f: {message}"


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_every_kind_has_its_exit_code(kind):
    assert kind.exit_code == EXIT_CODES[kind]
    assert issubclass(kind, LgdlmError)
    assert not issubclass(kind, (ValueError, OSError)), "a broad except must not swallow it"


def test_no_kind_is_forgotten():
    assert set(LgdlmError.__subclasses__()) == set(EXIT_CODES)


@pytest.mark.parametrize("kind", [LgdlmError, *EXIT_CODES])
def test_an_error_survives_the_way_between_processes(kind):
    """A worker's exception is pickled; one that cannot be rebuilt takes the pool down with it."""
    error = kind("NAN_LATENT", "a/b.npy", "latent", "expected finite numbers")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.code, again.where, again.field, again.message) == (error.code, error.where, error.field, error.message)
    assert (again.line(), str(again), again.exit_code) == (error.line(), str(error), error.exit_code)
