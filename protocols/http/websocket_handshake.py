"""The opening handshake of RFC 6455 §4.2, server side. Sans I/O."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from protocols.http.aiohttp_parsers import RequestHead
from protocols.http.request import Refusal
from protocols.http.response import HeadEncoder

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
