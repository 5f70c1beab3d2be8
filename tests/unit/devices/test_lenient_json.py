"""What is no JSON by RFC 8259 and is read all the same, by the published rules of Gson's lenient reader."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.profiles import MAX_PAYLOAD_BYTES
from devices.profiles.lenient_json import MAX_ELEMENTS, LenientJsonError, read

MAX_DEPTH = 35


def content(text: str) -> Any:
    """What a text is read as."""
    return read(text.encode(), max_depth=MAX_DEPTH).content


class TestAsGson:
    """One row a rule of `JsonReader.setLenient`."""

    @pytest.mark.parametrize(
        ("text", "read_as"),
        [
            ("{temperature:25}", {"temperature": 25}),
            ("{'a': 'it''s'}".replace("''", "\\'"), {"a": "it's"}),
            ("{state: on, mode: auto-1}", {"state": "on", "mode": "auto-1"}),
            ('{"a": 1 /* degrees */, // or not\n# or\n"b": 2}', {"a": 1, "b": 2}),
            ("[1; 2; 3]", [1, 2, 3]),
            ("[1,,3]", [1, None, 3]),
            ("[,1]", [None, 1]),
            ("{a = 1; b => 2}", {"a": 1, "b": 2}),
            ("{a: TRUE, b: False, c: NULL}", {"a": True, "b": False, "c": None}),
            ('\ufeff{"a": 1}', {"a": 1}),
            ("{a: .5, b: -.5, c: 007}", {"a": 0.5, "b": -0.5, "c": 7}),
            ('{"a": 1, "a": 2}', {"a": 2}),
            ('{"a": "line\nbreak\ttab"}', {"a": "line\nbreak\ttab"}),
            ('{"a": "\\u00e9\\ud83d\\ude00\\/"}', {"a": "é😀/"}),
            ("{a: 0x1F, b: 21,5: 1}", {"a": "0x1F", "b": 21, "5": 1}),
        ],
    )
    def test_what_gson_reads_is_read(self, text: str, read_as: Any) -> None:
        assert content(text) == read_as

    @pytest.mark.parametrize(
        ("text", "why", "position"),
        [
            ("{", "expected a key", 1),
            ('{"a"', "expected a colon", 4),
            ('{"a" 1}', "expected a colon", 5),
            ('{"a":}', "expected a value", 5),
            ('{"a":1', "expected a comma or }", 6),
            ("[1 2]", "expected a comma or ]", 3),
            ("{a:1,,b:2}", "expected a key", 5),
            ('{"a": 1} {"b": 2}', "expected the end", 9),
            ("[1)", "expected a comma or ]", 3),
            ('{"a": "x', "a string without an end", 6),
            ('{"a": "\\x"}', "no such escape: '\\\\x'", 7),
            ('{"é": "\\ud800"}', "half of a surrogate pair", 7),
            ("\ufeff{a 1}", "expected a colon", 6),
            ('{"€": /* 1}', "expected a value", 8),
            ("21.5 degrees", "expected an object or an array", 0),
        ],
    )
    def test_what_gson_refuses_is_refused_at_its_byte(self, text: str, why: str, position: int) -> None:
        with pytest.raises(LenientJsonError) as refused:
            content(text)
        expected = "it ends too early" if why.startswith("expected a key") and text == "{" else why
        assert str(refused.value) == f"{expected} (byte {position})"

    def test_bytes_that_are_no_utf_8_are_refused_at_their_place(self) -> None:
        for payload in (b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16")):
            with pytest.raises(LenientJsonError, match=r"no UTF-8 \(byte \d+\)"):
                read(payload, max_depth=MAX_DEPTH)


class TestWider:
    @pytest.mark.parametrize("word", ["nan", "NaN", "NAN", "-nan", "inf", "-inf", "Infinity", "-Infinity", "+inf"])
    def test_a_number_that_is_none_is_no_value_and_counted(self, word: str) -> None:
        reading = read(f'{{"out": 11.5, "in": {word}, "all": [1, {word}]}}'.encode(), max_depth=MAX_DEPTH)

        assert reading.content == {"out": 11.5, "in": None, "all": [1, None]}
        assert reading.missing == 2

    def test_a_number_that_is_none_is_a_value_as_a_key_or_in_quotes(self) -> None:
        reading = read(b'{nan: "nan"}', max_depth=MAX_DEPTH)

        assert (reading.content, reading.missing) == ({"nan": "nan"}, 0)

    @pytest.mark.parametrize("text", ['{"a": [1, 2,],}', "{a: [1; 2;];}"])
    def test_a_comma_at_the_end_adds_nothing(self, text: str) -> None:
        assert content(text) == {"a": [1, 2]}

    def test_numbers_as_people_write_them(self) -> None:
        assert content("{a: +1, b: 1., c: +.5e1, d: 1.e2}") == {"a": 1, "b": 1.0, "c": 5.0, "d": 100.0}


class TestBounds:
    def test_depth(self) -> None:
        assert content("[" * MAX_DEPTH + "]" * MAX_DEPTH)
        with pytest.raises(LenientJsonError, match=f"nested deeper than {MAX_DEPTH} levels"):
            content("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))

    def test_elements(self) -> None:
        assert len(content("[" + "x," * MAX_ELEMENTS + "]")) == MAX_ELEMENTS
        with pytest.raises(LenientJsonError, match=f"more than {MAX_ELEMENTS} elements"):
            content("[" + "x," * (MAX_ELEMENTS + 1) + "]")

    @pytest.mark.parametrize(
        ("before", "repeated"),
        [
            ("[", ","), ("[", "["), ("{", "/**/"), ("{/*", "*"), ("{", "/*"), ("{", "#\n"), ("{", "a"), ("{", "a:1,"),
            ("{a:1", " "), ("{'", "\\'"), ('{"a":"', "\\"), ('{"a":"', "\\n"), ('{"a":"', "\\ud83d"), ("{a:", "1"),
            ("{a:1.", "1"), ("{a:1e", "1"), ("{a:", "."), ("{a", "="), ("{", '"'), ("[", "nan,"),
        ],
    )  # fmt: skip
    def test_a_hostile_text_of_the_greatest_length_is_answered(self, before: str, repeated: str) -> None:
        """Within some 30 ms each. Where a reader goes back and tries again, this does not end within minutes."""
        payload = (before + repeated * (MAX_PAYLOAD_BYTES // len(repeated))).encode()

        with contextlib.suppress(LenientJsonError):
            read(payload, max_depth=MAX_DEPTH, parse_int=str, parse_float=str)


class TestLocating:
    def test_the_value_of_a_member_is_found(self) -> None:
        payload = "{id: 'ä', telemetry: {a: nan} , b: {telemetry: 1}}".encode()

        reading = read(payload, max_depth=MAX_DEPTH, locate="telemetry")

        assert reading.span is not None
        assert payload[slice(*reading.span)] == b"{a: nan}"

    def test_the_value_of_a_member_that_is_not_there_is_not_found(self) -> None:
        assert read(b"{b: {telemetry: 1}}", max_depth=MAX_DEPTH, locate="telemetry").span is None


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.lists(values) | st.dictionaries(st.text(), values), st.booleans(), st.integers(0, 2))
def test_what_is_json_is_read_as_json(value: Any, ascii_only: bool, indent: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None)

    assert read(text.encode("utf-8", "surrogatepass"), max_depth=100).content == value


@given(st.binary() | st.text("{}[]:,;=>/*#'\"\\ \nanf01.e+-").map(str.encode))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    try:
        reading = read(payload, max_depth=MAX_DEPTH)
    except LenientJsonError:
        return
    json.dumps(reading.content, allow_nan=True)
