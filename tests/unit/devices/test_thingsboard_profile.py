"""The payloads of ThingsBoard's device API v1: which readings are in them, and what is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from devices.profiles import MAX_DEPTH, PayloadError, Point, profile_of
from devices.profiles.thingsboard import MAX_KEY_LENGTH, MAX_POINTS, MAX_TS

decode = profile_of("thingsboard").decode_telemetry

TS = 1_700_000_000_000


def points(content: Any) -> list[Point]:
    """The points of what a device sends as this JSON."""
    return decode(json.dumps(content).encode())


def value(text: str) -> tuple[float | None, str | None]:
    """What is stored of a value that a device writes as this text."""
    ((key, ts, number, stored),) = decode(b'{"k":' + text.encode() + b"}")
    assert (key, ts) == ("k", None)
    return number, stored


class TestForms:
    def test_an_object_of_values_is_stamped_by_the_server(self) -> None:
        assert points({"temperature": 21.5, "on": True}) == [
            ("temperature", None, 21.5, None),
            ("on", None, 1.0, "true"),
        ]

    def test_an_array_of_such_objects(self) -> None:
        assert points([{"a": 1}, {"b": 2}]) == [("a", None, 1.0, None), ("b", None, 2.0, None)]

    def test_an_object_with_the_time_of_its_values(self) -> None:
        assert points({"ts": TS, "values": {"a": 1, "b": 2}}) == [("a", TS, 1.0, None), ("b", TS, 2.0, None)]

    def test_an_array_of_those(self) -> None:
        content = [{"ts": TS, "values": {"a": 1}}, {"ts": TS + 1, "values": {"a": 2}}]

        assert points(content) == [("a", TS, 1.0, None), ("a", TS + 1, 2.0, None)]

    def test_an_array_may_mix_them(self) -> None:
        assert points([{"ts": TS, "values": {"a": 1}}, {"a": 2}]) == [("a", TS, 1.0, None), ("a", None, 2.0, None)]

    @pytest.mark.parametrize("content", [{}, [], [{}], {"ts": TS, "values": {}}])
    def test_nothing_in_it_is_no_fault(self, content: Any) -> None:
        assert points(content) == []

    def test_ts_and_values_alone_are_keys_like_any_other(self) -> None:
        assert points({"ts": 5}) == [("ts", None, 5.0, None)]
        assert points({"values": {"a": 1}}) == [("values", None, None, '{"a":1}')]

    def test_white_space_around_it_does_not_matter(self) -> None:
        assert decode(b' \r\n{ "a" :\t1 } ') == [("a", None, 1.0, None)]


class TestValues:
    @pytest.mark.parametrize(
        ("text", "number", "stored"),
        [
            ("21.5", 21.5, None),
            ("-3", -3.0, None),
            ("0", 0.0, None),
            ("true", 1.0, "true"),
            ("false", 0.0, "false"),
            ('"open"', None, '"open"'),
            ('""', None, '""'),
            ('{"lat": 1, "lon": [2, 3]}', None, '{"lat":1,"lon":[2,3]}'),
            ("[1, null]", None, "[1,null]"),
            ('"grün €"', None, '"grün €"'),
        ],
    )
    def test_values_are_kept_as_a_number_or_as_json(self, text: str, number: float | None, stored: str | None) -> None:
        assert value(text) == (number, stored)

    def test_null_is_skipped(self) -> None:
        assert points({"a": None, "b": 1}) == [("b", None, 1.0, None)]

    @pytest.mark.parametrize(
        ("text", "number"),
        [('"21.5"', 21.5), ('"-7"', -7.0), ('"007"', 7.0), ('".5"', 0.5), ('"-0.25"', -0.25)],
    )
    def test_a_string_that_is_a_number_becomes_one(self, text: str, number: float) -> None:
        assert value(text) == (number, None)

    @pytest.mark.parametrize("text", ['"1e5"', '"1."', '"+1"', '" 1"', '"1 "', '"NaN"', '"Infinity"', '"0x10"', '"٣"'])
    def test_any_other_string_stays_one(self, text: str) -> None:
        assert value(text) == (None, text)

    @pytest.mark.parametrize("number", [2**53, -(2**53)])
    def test_an_integer_that_a_double_holds_exactly_is_a_number(self, number: int) -> None:
        assert value(str(number)) == (float(number), None)
        assert value(f'"{number}"') == (float(number), None)

    @pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63)])
    def test_a_larger_one_of_64_bits_keeps_all_its_digits(self, number: int) -> None:
        assert value(str(number)) == (float(number), str(number))
        assert value(f'"{number}"') == (float(number), str(number))

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**19, 10**30])
    def test_one_beyond_64_bits_is_a_string(self, number: int) -> None:
        assert value(str(number)) == (None, f'"{number}"')
        assert value(f'"{number}"') == (None, f'"{number}"')

    def test_a_number_of_a_hundred_thousand_digits_costs_no_time(self) -> None:
        digits = "9" * 100_000

        assert value(digits) == (None, f'"{digits}"')
        assert value(f'"{digits}"') == (None, f'"{digits}"')

    def test_a_decimal_of_sixteen_places_is_a_number_and_one_of_more_is_a_string(self) -> None:
        assert value("0.1234567890123456") == (0.1234567890123456, None)
        assert value("0.12345678901234567") == (None, '"0.12345678901234567"')
        assert value('"0.12345678901234567"') == (None, '"0.12345678901234567"')

    @pytest.mark.parametrize(
        ("text", "number"), [("1e3", 1000.0), ("2.5E-3", 0.0025), ("1E+2", 100.0), ("1e-16", 1e-16)]
    )
    def test_an_exponent_is_read(self, text: str, number: float) -> None:
        assert value(text) == (number, None)

    @pytest.mark.parametrize("text", ["1e400", "-1e400", "1e-17", "1e-999999999", f"1e{10**30}", f"-1e-{10**30}"])
    def test_what_no_double_holds_is_a_string(self, text: str) -> None:
        assert value(text) == (None, f'"{text}"')


class TestRefused:
    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            (b"", "empty"),
            (b"{", "not JSON"),
            (b'{"a": 1} x', "not JSON"),
            (b'{"a": "\xff"}', "not JSON"),
            (b'\xff{"b": 1234567890123456}', "not JSON"),
            (b'{"a": "\\ud800"}', "not JSON"),
            (b'{"a": "\\ud800", "b": 1234567890123456}', "not JSON"),
            (b"1", "expected a JSON object or array, got a number"),
            (b'"a"', "expected a JSON object or array, got a string"),
            (b"null", "expected a JSON object or array, got null"),
            (b"[1]", "expected an array of JSON objects, got a number"),
            (b'[{"a": 1}, [2]]', "expected an array of JSON objects, got an array"),
            (b'{"ts": 1, "values": 5}', '"values" is to be a JSON object, got a number'),
            (b'{"ts": 1, "values": null}', '"values" is to be a JSON object, got null'),
            (b'{"ts": nan, "values": {}}', '"ts" is to be milliseconds since 1970, got null'),
            (b'{"ts": [1], "values": {}}', '"ts" is to be milliseconds since 1970, got an array'),
            (b'{"ts": -1, "values": {}}', "\"ts\" is to be milliseconds since 1970, got '-1'"),
        ],
    )
    def test_what_is_no_telemetry_with_the_reason(self, payload: bytes, why: str) -> None:
        with pytest.raises(PayloadError, match=why):
            decode(payload)

    @pytest.mark.parametrize(
        "ts",
        ["-1", "-0.5e1", '"now"', '"-1"', "null", "true", str(MAX_TS + 1), "1" * 400, "1e400", '"' + "1" * 400 + '"'],
    )
    def test_a_time_that_is_none_is_refused(self, ts: str) -> None:
        with pytest.raises(PayloadError, match='"ts" is to be milliseconds'):
            decode(b'{"ts": ' + ts.encode() + b', "values": {"a": 1}}')

    @pytest.mark.parametrize(
        "ts", ["0", "1700000000000", "1.7e12", "1700000000000.0", "1700000000000.75", str(MAX_TS), '"1700000000000"']
    )
    def test_a_time_that_is_a_number_or_its_digits_is_taken(self, ts: str) -> None:
        ((_, stamped, _, _),) = decode(b'{"ts": ' + ts.encode() + b', "values": {"a": 1}}')
        assert stamped == int(float(ts.strip('"')))

    @pytest.mark.parametrize("key", ["", "k" * (MAX_KEY_LENGTH + 1), "nul\0"])
    def test_a_key_that_cannot_be_stored_is_refused(self, key: str) -> None:
        with pytest.raises(PayloadError, match="a key has 1 to 255 characters"):
            points({key: 1})

    def test_the_longest_key_is_taken(self) -> None:
        assert points({"k" * MAX_KEY_LENGTH: 1})

    def test_more_values_than_a_message_may_have(self) -> None:
        assert len(points([{"a": 1}] * MAX_POINTS)) == MAX_POINTS
        with pytest.raises(PayloadError, match=f"{MAX_POINTS + 1} values in one message"):
            points([{"a": 1}] * (MAX_POINTS + 1))

    @pytest.mark.parametrize("number", [b"1", b"12345678901234567"])
    @pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
    def test_what_is_nested_too_deeply(self, bracket: bytes, number: bytes) -> None:
        with pytest.raises(PayloadError):
            decode(b'{"a":' + bracket * 100_000 + number)

    def test_nothing_is_taken_of_a_message_with_one_fault(self) -> None:
        with pytest.raises(PayloadError):
            decode(b'[{"a": 1}, {"ts": -1, "values": {"a": 1}}]')


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.from_regex(r"-?\d*\.?\d*")
    return st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["ts", "values"]), inner)
    )


@given(st.binary())
def test_no_bytes_raise_anything_but_payload_error(payload: bytes) -> None:
    check(payload)


@given(json_values())
def test_no_json_raises_anything_but_payload_error(content: Any) -> None:
    check(json.dumps(content).encode())
    check(json.dumps([content, {"ts": TS, "values": {"k": content}}, {"k": content}]).encode())
    check(json.dumps({"ts": content, "values": {"k": content}}).encode())


def check(payload: bytes) -> None:
    """Whatever is decoded can be stored as it is, and shown as JSON."""
    try:
        decoded = decode(payload)
    except PayloadError:
        return
    for key, ts, number, text in decoded:
        assert 1 <= len(key) <= MAX_KEY_LENGTH
        assert ts is None or 0 <= ts <= MAX_TS
        assert number is None or math.isfinite(number)
        assert number is not None or text is not None
        if text is not None:
            json.loads(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_of_64_bits_keeps_its_value(number: int) -> None:
    stored_number, text = value(str(number))

    assert number == (int(text) if text is not None else stored_number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_that_is_written_shortest_keeps_its_value(number: float) -> None:
    text = json.dumps(number)
    stored_number, stored = value(text)

    assert stored == f'"{text}"' if stored_number is None else stored_number == number


class TestNoJsonByTheBook:
    """It is read as ThingsBoard reads it, or more kindly; see test_lenient_json."""

    def test_a_sensor_that_has_measured_nothing_does_not_take_the_others_with_it(self) -> None:
        before = missing()

        assert decode(b'{"out":11.5,"in":nan}') == [("out", None, 11.5, None)]
        assert decode(b'{"ts": %d, "values": {"in": NaN, "long": 12345678901234567}}' % TS) == [
            ("long", TS, 12345678901234567.0, "12345678901234567")
        ]
        assert missing() == before + 2

    @pytest.mark.parametrize(
        ("payload", "expected"),
        [
            (b"{temperature:25}", ("temperature", None, 25.0, None)),
            (b"{'a': '21.5'}", ("a", None, 21.5, None)),
            (b'\xef\xbb\xbf{"a": 1}', ("a", None, 1.0, None)),
            (b'{"a": .5,}', ("a", None, 0.5, None)),
            (b'{"a": +1}', ("a", None, 1.0, None)),
            (b"{a: 18446744073709551616}", ("a", None, None, '"18446744073709551616"')),
            (b"{a: 1e400}", ("a", None, None, '"1e400"')),
            (b"{a: {b: nan}}", ("a", None, None, '{"b":null}')),
        ],
    )
    def test_values_are_stored_by_the_same_rules(self, payload: bytes, expected: Point) -> None:
        assert decode(payload) == [expected]

    def test_the_position_of_a_fault_is_that_in_the_message(self) -> None:
        for payload in (b'\xef\xbb\xbf{"a" 1}', '{"€" 1}'.encode()):
            with pytest.raises(PayloadError, match=rf"not JSON: expected a colon \(byte {payload.index(b'1')}\)"):
                decode(payload)


class TestDepth:
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("{a:", "}")])
    @pytest.mark.parametrize(
        "form", ['{"k": %s}', '[{"ts": 1, "values": {"k": %s}}]', '{"k": %s, "n": 1234567890123456}']
    )
    def test_a_value_has_at_most_so_many_levels(self, form: str, opening: str, closing: str) -> None:
        assert decode((form % (opening * MAX_DEPTH + "1" + closing * MAX_DEPTH)).encode())
        for depth in (MAX_DEPTH + 1, 200, 950, 5000):
            with pytest.raises(PayloadError, match=r"nested (too deeply|deeper than)"):
                decode((form % (opening * depth + "1" + closing * depth)).encode())


def missing() -> float:
    return REGISTRY.get_sample_value("gateway_numbers_missing_total") or 0
