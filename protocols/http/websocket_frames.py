"""WebSocket frames as a server writes them: unmasked, unfragmented, uncompressed (RFC 6455 §5.2)."""

from typing import Final

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
