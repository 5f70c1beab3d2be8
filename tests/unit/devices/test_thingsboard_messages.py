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


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)).map(repr))
@pytest.mark.parametrize(
    "read",
    ["decode_attributes", "decode_attributes_request", "decode_attributes_query", "decode_answer", "decode_call"],
)
def test_no_payload_raises_anything_but_payload_error(read: str, payload: Any) -> None:
    try:
        getattr(PROFILE, read)(payload if isinstance(payload, bytes) else payload.encode("utf-8", "replace"))
    except PayloadError:
        pass
