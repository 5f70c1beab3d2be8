"""What a stored value is shown as: exact, unmistakable, and total."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.values import CUT, HEAD, name_text, number_text, shown, string_text, told

UNSEEN = ["\0", "\x07", "\x1b", "\x7f", "\x9b", "\n", "\u200b", "\u202e", "\u2028", "\u2066", "\ufeff", "\ud800"]

any_text = st.text(st.characters(exclude_categories=())) | st.text('"\\{}[]0123456789eE.,-+ tfnulars\x1b\u202e')
any_number = st.none() | st.floats()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (21.5, "21.5"),
        (22.0, "22"),
        (-0.0, "0"),
        (0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1234567.89, "1234567.89"),
        (-122.4194155, "-122.4194155"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (2.0**53, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (2.0**60, "1152921504606847000"),
        (1e21, "1e+21"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (math.inf, "Infinity"),
        (math.nan, "NaN"),
    ],
)
def test_a_number_is_written_as_javascript_writes_it(number: float, text: str) -> None:
    assert number_text(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_reads_back_as_the_same_number(number: float) -> None:
    assert float(number_text(number)) == number


@pytest.mark.parametrize("string", ["on", "21.5 °C", "12:30", "v1.2", "a, b", "ünï", "👨\u200d👩", "-", "e5", "x" * 40])
def test_a_string_that_is_nothing_else_stands_as_it_is(string: str) -> None:
    assert string_text(string) == string


MISTAKABLE = (
    '| |  on|on\t|21|21,5|-1.5e3|1 000|+5|.5|5 %|5%|0x1F|٣|NaN|-Infinity|true|False|null|no value|"|"on"|[1]|{}'
    "|\u22125|1\u00a0000|1\u202f000|1\u2019000|2e\u22123"
)


@pytest.mark.parametrize("string", MISTAKABLE.split("|"))
def test_a_string_that_could_be_taken_for_something_else_is_quoted(string: str) -> None:
    assert json.loads(string_text(string)) == string
    assert string_text(string).startswith('"')


@pytest.mark.parametrize("character", UNSEEN)
def test_what_is_not_seen_is_shown_as_its_escape(character: str) -> None:
    text = shown(None, msgspec.json.encode(f"a{character}b").decode() if character != "\ud800" else '"a\\ud800b"').text

    assert character not in text
    assert json.loads(text) == f"a{character}b"
    assert name_text(f"a{character}b").startswith("a\\u")


def test_a_whole_number_beyond_what_javascript_has_keeps_its_digits() -> None:
    assert shown(9.007199254740992e15, "9007199254740993").text == "9007199254740993"
    assert told(9.007199254740992e15, "9007199254740993") == ("9007199254740993", "9007199254740993")


def test_objects_and_arrays_are_shown_as_they_are_stored() -> None:
    assert shown(None, '{"b":1,"a":[1.50,12345678901234567890]}').text == '{"b":1,"a":[1.50,12345678901234567890]}'


def test_a_long_text_is_cut_and_its_size_is_told() -> None:
    deep = "[" * 950 + "]" * 950
    long = json.dumps("ü" * 250_000, ensure_ascii=False)

    assert shown(None, deep) == ("[" * CUT + "…", 1_900)
    assert shown(None, long) == ("ü" * (CUT - 1) + "…", 500_002)
    assert shown(None, long[:HEAD], 500_002) == shown(None, long)
    assert told(None, long[:HEAD], 500_002) == (None, "ü" * (CUT - 1) + "…", 500_002)


@given(any_number, st.none() | any_text)
def test_nothing_that_is_stored_is_too_much_for_a_page_or_a_stream(number: float | None, text: str | None) -> None:
    seen = shown(number, text).text

    assert seen.encode()
    assert len(seen) <= 8 * HEAD
    assert not set(UNSEEN) & set(seen)
    json.loads(msgspec.json.encode(told(number, text)))


@given(st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3)), st.data())
def test_the_beginning_of_any_value_is_shown_wherever_it_is_cut(value: Any, data: st.DataObject) -> None:
    text = msgspec.json.encode(["x" * data.draw(st.integers(CUT - 20, CUT)), value]).decode()
    string = msgspec.json.encode("x" * data.draw(st.integers(CUT - 20, CUT)) + str(value)).decode()

    for whole in (text, string):
        if len(whole) > CUT:
            size = len(whole.encode())
            assert shown(None, whole[:HEAD], size) == shown(None, whole)


@given(any_text, any_text)
def test_two_strings_never_look_alike(one: str, other: str) -> None:
    assert (string_text(one) == string_text(other)) == (one == other)
