"""What a WebSocket server writes, sans I/O: the opening handshake (RFC 6455 §4.2), and frames, which are unmasked,
unfragmented and uncompressed (RFC 6455 §5.2)."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from protocols.http.aiohttp_parsers import RequestHead
from protocols.http.refusals import Refusal
from protocols.http.response import HeadEncoder

TEXT_OPCODE: Final = 0x81
BINARY_OPCODE: Final = 0x82
CLOSE_OPCODE: Final = 0x88
PING_OPCODE: Final = 0x89
PONG_OPCODE: Final = 0x8A

LONGEST_REASON_BYTES: Final = 123

_SHORT_TEXT: Final = [bytes((TEXT_OPCODE, size)) for size in range(126)]

_last_message: tuple[str | bytes, bytes] = ("", b"\x81\x00")
"""The message framed last, and its frame: a message to many connections is the same object each time. One tuple, so
that a server in another thread cannot see half of it."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_OURS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)


# The opening handshake


class Offer(NamedTuple):
    """What a client offers in its handshake."""

    accept: bytes
    """The value of Sec-WebSocket-Accept that answers its key."""
    subprotocols: Sequence[str]


def offer_of(head: RequestHead) -> Offer | Refusal:
    """Reads an upgrade request: the offer, or what is wrong with it."""
    if head.method != "GET" or head.version != (1, 1):
        return Refusal("bad_handshake", "a WebSocket is asked for with GET, by HTTP/1.1")
    if head.headers.getall("Sec-WebSocket-Version", ()) != ["13"]:
        return Refusal("websocket_version", headers=((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")))
    keys = head.headers.getall("Sec-WebSocket-Key", ())
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal("bad_handshake", "Sec-WebSocket-Key is missing, there twice, or not 16 bytes in base64")
    offered = ",".join(head.headers.getall("Sec-WebSocket-Protocol", ()))
    return Offer(
        base64.b64encode(hashlib.sha1(keys[0].encode("ascii") + _GUID, usedforsecurity=False).digest()),
        [name for name in (part.strip() for part in offered.split(",")) if name],
    )


def _is_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept_response(
    encoder: HeadEncoder,
    offer: Offer,
    *,
    subprotocol: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """The 101 response. Raises ValueError for a subprotocol that was not offered and a header that is not the
    application's to set."""
    lines = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", offer.accept),
    ]
    if subprotocol is not None:
        if subprotocol not in offer.subprotocols:
            # what was offered is not said: a subprotocol may be a token, and this text comes into a log
            raise ValueError(f"subprotocol {subprotocol!r} was not offered by the client")
        lines.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    for name, value in headers:
        if name.lower() in _OURS:
            raise ValueError(f"'websocket.accept' must not set the header {name!r}")
        lines.append((name, value))
    return encoder.encode_upgrade(lines)


# Frames


def message_frame(message: str | bytes) -> bytes:
    """The frame of a text (str) or binary (bytes) message; for the object that was framed last, the same frame."""
    global _last_message
    last = _last_message
    if message is last[0]:
        return last[1]
    if isinstance(message, str):
        payload = message.encode("utf-8")
        size = len(payload)
        framed = _SHORT_TEXT[size] + payload if size < 126 else frame(TEXT_OPCODE, payload)
    else:
        framed = frame(BINARY_OPCODE, message)
        if type(message) is not bytes:
            return framed  # the content of another type can change under the same identity
    _last_message = (message, framed)
    return framed


def frame(first_byte: int, payload: bytes) -> bytes:
    """A frame with FIN and the opcode in `first_byte`."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (first_byte, size, payload)
    if size < 65536:
        return b"%c~%b%b" % (first_byte, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (first_byte, size.to_bytes(8, "big"), payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A close frame; without a code, an empty one. A reason too long for a control frame is cut, between characters."""
    if code is None:
        return frame(CLOSE_OPCODE, b"")
    text = reason.encode("utf-8")[:LONGEST_REASON_BYTES].decode("utf-8", "ignore")
    return frame(CLOSE_OPCODE, code.to_bytes(2, "big") + text.encode("utf-8"))


def may_close_with(code: int) -> bool:
    """Whether a close code may be on the wire (RFC 6455 §7.4; 1012 to 1014 by IANA's registry)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, 1005, 1006})
