"""The envelope of a message on a WebSocket, which has no topics: {"id": any, word: content}.

A word stands for what a topic or a path says on the other wires. A message that is no envelope is bare telemetry.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from devices.profiles import MAX_DEPTH, Match, Meaning, PayloadError, is_too_deep
from devices.profiles.lenient_json import LenientJsonError, read

MAX_ID_BYTES: Final = 100
_ENVELOPE_DEPTH: Final = MAX_DEPTH + 4
"""{"id": ..., "telemetry": [{"ts": ..., "values": {...}}]}"""

TELEMETRY: Final = "telemetry"
SUBSCRIBE: Final = "subscribe"
DELIVERED: Final = "delivered"

MEANINGS: Final[Mapping[str, Meaning]] = {
    TELEMETRY: Meaning.TELEMETRY,
    "attributes": Meaning.CLIENT_ATTRIBUTES,
    "attributesRequest": Meaning.ATTRIBUTES_REQUEST,
    "call": Meaning.CALL,
    "answer": Meaning.COMMAND_ANSWER,
    "claim": Meaning.CLAIM,
}
"""What the content is, by the word. An answer has the number of its command beside it, as "to"."""

_WORDS: Final = frozenset({*MEANINGS, SUBSCRIBE, DELIVERED})


class Envelope(msgspec.Struct, gc=False):
    """What a message says."""

    id: Any
    """To answer with."""
    word: str
    content: bytes
    """JSON, for the profile to read."""
    to: str = ""

    @property
    def match(self) -> Match:
        """What a topic would have said. Raises KeyError for words that are the wire's own."""
        return Match(MEANINGS[self.word], {"id": self.to})


class _Telemetry(msgspec.Struct, forbid_unknown_fields=True):
    """What devices say most in an envelope, by a shorter way."""

    id: msgspec.Raw
    telemetry: msgspec.Raw


_decode_telemetry = msgspec.json.Decoder(_Telemetry).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def open_envelope(payload: bytes, count: int) -> Envelope:
    """The envelope of a message; bare telemetry has the id `count`. Raises PayloadError for an id that is too long or
    too deep, and for more words than one."""
    if payload[:1] == b"[":
        return Envelope(count, TELEMETRY, payload)
    if payload[:5] == b'{"id"':
        try:
            said = _decode_telemetry(payload)
        except (msgspec.DecodeError, RecursionError):
            pass  # something else as well: see below
        else:
            return Envelope(_answer_id(bytes(said.id)), TELEMETRY, bytes(said.telemetry))
    try:
        members = _decode_members(payload)
    except (msgspec.ValidationError, RecursionError):
        return Envelope(count, TELEMETRY, payload)
    except msgspec.DecodeError:
        return open_leniently(payload, count)
    if "id" not in members:
        return Envelope(count, TELEMETRY, payload)
    word = _word_of(members)
    if word is None:
        return Envelope(count, TELEMETRY, payload)
    to = bytes(members["to"]).decode(errors="replace").strip('"') if "to" in members else ""
    return Envelope(_answer_id(bytes(members["id"])), word, bytes(members[word]), to)


def open_leniently(payload: bytes, count: int) -> Envelope:
    """The same for lenient JSON. Blanks keep the content in its place, for the positions in errors."""
    try:
        content, _, span = read(payload, max_depth=_ENVELOPE_DEPTH, locate=TELEMETRY)
        word = _word_of(content) if type(content) is dict and "id" in content else None
        if word is not None and word != TELEMETRY:
            span = read(payload, max_depth=_ENVELOPE_DEPTH, locate=word).span
    except LenientJsonError:
        return Envelope(count, TELEMETRY, payload)
    if word is None or span is None or type(content) is not dict:
        return Envelope(count, TELEMETRY, payload)
    start, end = span
    answer_id = _answer_id(msgspec.json.encode(content["id"]))
    return Envelope(answer_id, word, b" " * start + payload[start:end], str(content.get("to", "")))


def _word_of(members: Mapping[str, Any]) -> str | None:
    words = _WORDS.intersection(members)
    if len(words) > 1:
        raise PayloadError(f"a message says one thing, not {' and '.join(sorted(words))}")
    return next(iter(words), None)


def _answer_id(given: bytes) -> msgspec.Raw:
    if len(given) > MAX_ID_BYTES:
        raise PayloadError(f"an id has at most {MAX_ID_BYTES} bytes")
    if given[0] in b"[{" and is_too_deep(msgspec.json.decode(given)):
        raise PayloadError(f"an id has at most {MAX_DEPTH} levels")
    return msgspec.Raw(given)
