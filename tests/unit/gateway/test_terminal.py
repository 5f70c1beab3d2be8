"""What commands write is text, whoever has chosen it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.terminal import as_text, echo

HOSTILE = "\x1b[31mred\x1b]0;owned\x07\n2026 forged line\t\u202e\x9b31m\ud800\x00"


@given(st.text(st.characters(exclude_categories=[])))
def test_whatever_there_is_in_a_text_it_is_printable_and_printable_text_is_as_it_was(text: str) -> None:
    assert as_text(text).isprintable()
    if text.isprintable():
        assert as_text(text) == text


def test_only_what_is_not_printable_is_escaped() -> None:
    assert as_text("сенсор\x1b[31m°C") == "сенсор\\x1b[31m°C"


@pytest.mark.parametrize("err", [False, True])
def test_a_line_is_one_line_with_its_fields_apart(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE, "connected", 1.5, err=err)

    out, error = capsys.readouterr()
    (line,) = (error if err else out).splitlines()
    assert line.split("\t")[1:] == ["connected", "1.5"]
    assert line.replace("\t", "").isprintable()
