"""What ThingsBoard's device API has besides telemetry: attributes, commands and calls, as they are read and written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.profiles import AttributesRequest, Call, PayloadError, profile_of

PROFILE = profile_of("thingsboard")


def test_attributes_follow_the_rules_for_values() -> None:
    payload = b'{"a": "21", "b": "2.5", "c": null, "d": "x", "e": {"f": [1]}, "g": 18446744073709551616, "h": true}'

    assert PROFILE.decode_attributes(payload) == {
        "a": 21, "b": 2.5, "d": "x", "e": {"f": [1]}, "g": "18446744073709551616", "h": True,
    }  # fmt: skip


def test_a_request_names_keys_by_scope_in_a_payload_or_a_query() -> None:
    wanted = AttributesRequest(frozenset({"a", "b"}), frozenset({"c"}))

    assert PROFILE.decode_attributes_request(b'{"clientKeys": "a,b", "sharedKeys": "c"}') == wanted
    assert PROFILE.decode_attributes_query(b"clientKeys=a,b&sharedKeys=c") == wanted
    assert PROFILE.decode_attributes_request(b"{}") == AttributesRequest()


def test_answers_and_notices_are_written_as_thingsboard_writes_them() -> None:
    assert json.loads(PROFILE.encode_attributes_answer({"a": 1}, {})) == {"client": {"a": 1}}
    assert json.loads(PROFILE.encode_deleted_attributes(["k"])) == {"deleted": ["k"]}
    assert json.loads(PROFILE.encode_command("m", [1])) == {"method": "m", "params": [1]}
    assert json.loads(PROFILE.encode_command("m", None, 7)) == {"id": 7, "method": "m", "params": None}
    assert json.loads(PROFILE.encode_error("why")) == {"error": "why"}


def test_a_call_has_a_method_and_may_have_params() -> None:
    assert PROFILE.decode_call(b'{"method": "now"}') == Call("now")
    with pytest.raises(PayloadError, match="method"):
        PROFILE.decode_call(b'{"method": 5}')


READINGS = st.dictionaries(st.text("abc", min_size=1), st.integers(-9, 9) | st.booleans() | st.text("xyz"))


@given(st.dictionaries(st.text("ABC", min_size=1, max_size=200), st.lists(READINGS)))
def test_telemetry_of_devices_is_to_each_what_it_would_be_from_itself(content: dict[str, list[dict[str, Any]]]) -> None:
    read = PROFILE.decode_gateway_telemetry(json.dumps(content).encode())

    assert read == {name: PROFILE.decode_telemetry(json.dumps(items).encode()) for name, items in content.items()}


@pytest.mark.parametrize(
    ("read", "payload", "why"),
    [
        ("decode_gateway_telemetry", b'{"A": {"t": 1}}', "an array for 'A', got an object"),
        ("decode_gateway_telemetry", b'{"A": [1]}', "JSON objects for 'A', got a number"),
        ("decode_gateway_telemetry", b'{"": []}', "name of a device"),
        ("decode_gateway_telemetry", json.dumps({"A": [dict.fromkeys(map(str, range(10_001)), 1)]}).encode(), "10001"),
        ("decode_gateway_attributes", b'{"A": 1}', "a JSON object for 'A'"),
        ("decode_gateway_connect", b'{"device": 1}', "name of a device"),
        ("decode_gateway_connect", b'{"device": "A", "type": ""}', '"type"'),
        ("decode_gateway_attributes_request", b'{"id": 1, "device": "A"}', '"key"'),
        ("decode_gateway_attributes_request", b'{"id": true, "device": "A", "key": "k"}', '"id"'),
        ("decode_gateway_answer", b'{"device": "A"}', '"id"'),
    ],
)
def test_what_a_gateway_says_wrong_is_refused_with_the_device(read: str, payload: bytes, why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        getattr(PROFILE, read)(payload)


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)).map(repr))
@pytest.mark.parametrize(
    "read",
    [
        "decode_attributes",
        "decode_attributes_request",
        "decode_attributes_query",
        "decode_answer",
        "decode_call",
        "decode_gateway_connect",
        "decode_gateway_telemetry",
        "decode_gateway_attributes",
        "decode_gateway_attributes_request",
        "decode_gateway_answer",
        "decode_gateway_claims",
    ],
)
def test_no_payload_raises_anything_but_payload_error(read: str, payload: Any) -> None:
    try:
        getattr(PROFILE, read)(payload if isinstance(payload, bytes) else payload.encode("utf-8", "replace"))
    except PayloadError:
        pass
