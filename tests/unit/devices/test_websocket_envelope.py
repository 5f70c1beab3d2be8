"""The envelope of messages on a WebSocket. With the real server: tests/integration/devices/test_telling_devices.py."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.consumers.envelope import (
    DELIVERED,
    MEANINGS,
    SUBSCRIBE,
    TELEMETRY,
    Envelope,
    open_envelope,
    open_leniently,
)
from devices.handlers import HANDLERS
from devices.profiles import Meaning, PayloadError

WORDS = [*MEANINGS, SUBSCRIBE, DELIVERED]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5)
ENVELOPES = st.dictionaries(st.sampled_from(["id", "to", *WORDS]), JSON).map(
    lambda members: json.dumps(members).encode()
)


@given(st.binary() | ENVELOPES | ENVELOPES.map(lambda payload: payload.replace(b'"', b"'")))
def test_any_message_is_opened_or_refused(payload: bytes) -> None:
    for open_any in (open_envelope, open_leniently):
        try:
            envelope = open_any(payload, 7)
        except PayloadError:
            continue
        assert envelope.word in WORDS
        assert msgspec.json.encode(envelope.id)


def test_each_meaning_of_the_envelope_has_a_handler() -> None:
    assert set(MEANINGS.values()) - {Meaning.TELEMETRY} <= set(HANDLERS)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_beside_an_id_says_what_the_content_is(word: str) -> None:
    strict = open_envelope(b'{"id": "a", "%s": [1, 2], "to": 17}' % word.encode(), 7)
    lenient = open_envelope(b"{id: a, %s: [1, 2], to: 17}" % word.encode(), 7)

    for envelope in (strict, lenient):
        assert (bytes(envelope.id), envelope.word, envelope.to) == (b'"a"', word, "17")
        assert envelope.content.lstrip() == b"[1, 2]"


@pytest.mark.parametrize(
    "payload", [b'{"attributes": {"a": 1}}', b'{"id": 5, "t": 1}', b"{call: 1}", b"[1]", b"5", b""]
)
def test_what_has_no_id_or_no_word_is_bare_telemetry(payload: bytes) -> None:
    assert open_envelope(payload, 7) == Envelope(7, TELEMETRY, payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"id": 1, "call": 1, "telemetry": 2}',
        b'{"call": 1, "id": 1, "telemetry": 2}',
        b"{id: 1, call: 1, telemetry: 2}",
    ],
)
def test_a_message_says_one_thing(payload: bytes) -> None:
    with pytest.raises(PayloadError, match="one thing, not call and telemetry"):
        open_envelope(payload, 7)
