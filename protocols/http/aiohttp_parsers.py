"""aiohttp's two C parsers, alone, behind a surface of our own: the one module that knows aiohttp's internals.

What aiohttp gives are fast, strict, well-fuzzed parsers (llhttp, and its compiled WebSocket reader); what it would take
for them is a request object, a stream reader and two tasks per request. So the parsers are fed here by hand. What they
leave open is closed here: an unmasked frame, a message begun within another, a message of exactly the limit. The names
used are private to aiohttp and move between its minor releases; pyproject.toml pins the range, and
tests/unit/protocols/http/test_aiohttp_parsers.py says which behaviour we rely on.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import WSMsgType
from aiohttp._http_parser import HttpRequestParser  # type: ignore[import-not-found]
from aiohttp._websocket.reader_c import (  # type: ignore[import-not-found]
    WebSocketDataQueue,
    WebSocketReader,
)
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD

TEXT: Final = WSMsgType.TEXT
BINARY: Final = WSMsgType.BINARY
PING: Final = WSMsgType.PING
PONG: Final = WSMsgType.PONG
CLOSE: Final = WSMsgType.CLOSE

UNLIMITED: Final = 2**30
"""The parser's own flow control is not used: the inbox of the application pauses the socket."""

MAX_MESSAGE_BYTES: Final = 2**32 - 2
"""The reader keeps its limit in an unsigned int, and excludes it."""


class RequestHead(Protocol):
    """What the parser tells of a request before its body."""

    method: str
    path: str
    """The request target as it came."""
    version: tuple[int, int]
    headers: Any
    """A case-insensitive multi-dict of strings."""
    raw_headers: Sequence[tuple[bytes, bytes]]
    should_close: bool
    upgrade: bool
    chunked: bool


class BadRequestError(Exception):
    """Raised when the bytes of the peer are not HTTP/1.1, or pass a limit.

    `reason` is that of a `Refusal`, `rule` which rule it is about, in words and without a byte of the peer's.
    """

    def __init__(self, reason: str, rule: str = "") -> None:
        super().__init__(reason, rule)
        self.reason = reason
        self.rule = rule


class _NoFlowControl:
    """Stands where the parser expects aiohttp's protocol, which it tells to pause and resume."""

    def pause_reading(self) -> None:
        """Never needed: the parser's stream has no limit, the inbox has."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called at the end of each body, and when a stream has been emptied."""


_NO_FLOW_CONTROL = _NoFlowControl()
_NO_LOOP: Final = object()
"""A body's stream keeps the loop for those who wait for it; nobody does here."""


class RequestParser:
    """Parses the requests of one connection, one at a time: after each complete request it stops and keeps the rest.

    The caller feeds until a head comes, takes the body until it is complete, answers, and then feeds again (b"" if
    nothing has come meanwhile), so requests that a client pipelines cost no memory beyond their bytes.

    aiohttp's parser is never given a byte of the next request. It has a fault that this keeps out: it takes the last
    trailer field of a chunked body for the first header of the request that follows, which behind a proxy may be
    somebody else's. So what follows a chunked body gets a new parser.
    """

    __slots__ = ("_body_left", "_chunked", "_feed", "_kept", "_limits", "_payload", "_seen", "framing_bytes")

    def __init__(self, *, max_target_bytes: int, max_header_bytes: int, max_headers: int) -> None:
        self._limits = {
            "max_line_size": max_target_bytes,
            "max_field_size": max_header_bytes,
            "max_headers": max_headers,
        }
        self._renew()
        self._kept = b""
        self._payload: Any = None
        self._body_left = 0
        self.framing_bytes = 0
        """What has come of the current body and is none of it: chunk sizes, their extensions, trailers."""

    def _renew(self) -> None:
        parser = HttpRequestParser(_NO_FLOW_CONTROL, _NO_LOOP, UNLIMITED, auto_decompress=False, **self._limits)
        self._feed = parser.feed_data
        self._chunked = False
        self._seen = b""

    @property
    def has_body(self) -> bool:
        """Whether the body of the current request is still to be taken, in whole or in part."""
        return self._payload is not None

    @property
    def kept_bytes(self) -> int:
        """How much has come ahead of its turn, behind the current request."""
        return len(self._kept)

    def feed(self, data: bytes) -> RequestHead | None:
        """Parses `data`, or with b"" what was kept. Returns the head of a request that became complete in it.

        Raises BadRequestError; the parser is of no use after that.
        """
        if self._kept:
            data, self._kept = self._kept + data, b""
        try:
            if self._payload is None:
                head = self._feed_head(data)
                if head is not None:
                    self._feed_body(self._kept)
                return head
            self._feed_body(data)
        except LineTooLong:
            raise BadRequestError("head_too_large") from None
        except Exception as error:
            raise _bad_request(error, data) from None
        return None

    def _feed_head(self, data: bytes) -> RequestHead | None:
        """Feeds a head, and keeps what is behind it."""
        messages: Sequence[Any] = ()
        while data and not messages:  # a second round is for the empty lines that may precede a request
            part, data = self._cut(data)
            messages = self._feed(part)[0]
        self._kept = data
        if not messages:
            return None
        self._seen = b""
        head: RequestHead
        head, payload = messages[0]
        if payload is not EMPTY_PAYLOAD:
            self._payload = payload
            self._chunked = head.chunked
            self.framing_bytes = 0
            self._body_left = 0 if head.chunked else int(head.headers.get("Content-Length", 0))
        return head

    def _feed_body(self, data: bytes) -> None:
        """Feeds the rest of a body, and keeps what is behind it."""
        payload = self._payload
        if payload is None:
            return
        if not self._chunked:
            left = self._body_left
            self._body_left = left - len(data) if len(data) < left else 0
            self._feed(data[:left])
            self._kept = data[left:]
            return
        while data and not payload.is_eof():  # it ends where a line is empty, though not every empty line is its end
            part, data = self._cut(data)
            self.framing_bytes += len(part)
            self._feed(part)
        self._kept = data
        if payload.is_eof():
            self._renew()

    def _cut(self, data: bytes) -> tuple[bytes, bytes]:
        """Parts `data` behind the first empty line, which may have begun in what was seen before."""
        seen = self._seen
        found = (seen + data).find(b"\r\n\r\n")
        if found < 0:
            self._seen = (seen + data)[-3:]
            return data, b""
        end = found + 4 - len(seen)
        self._seen = b""
        return data[:end], data[end:]

    def take_body(self) -> tuple[bytes, bool]:
        """What has come of the body since the last call, and whether that was the end of it."""
        payload = self._payload
        if payload is None:
            return b"", True
        data: bytes = payload.read_nowait()
        if self._chunked:
            self.framing_bytes -= len(data)
        if not payload.is_eof():
            return data, False
        self._payload = None
        return data, True

    def take_upgraded(self) -> bytes:
        """The bytes that followed the head of an upgrade request; the parser is of no use after that."""
        tail, self._kept = self._kept, b""
        return tail


_OTHER_PROTOCOLS: Final = {
    b"\x16\x03": "this is TLS, which the listener does not speak",
    b"PROXY ": "this is a PROXY header, which the listener does not expect",
    b"\r\n\r\n\0\r\nQUIT\n": "this is a PROXY header, which the listener does not expect",
    b"PRI * HTTP/2": "this is HTTP/2, which is not spoken",
    b"\x10": "this is MQTT, perhaps, and the listener is one of HTTP",
}
"""How what is no HTTP/1.1 begins."""

_LINE_BREAK: Final = "a line does not end in CR LF"
_RULES: Final = {
    "Expected CRLF after version": "behind the HTTP version there is no CR LF",
    "Missing expected CR": _LINE_BREAK,
    "Missing expected LF": _LINE_BREAK,
    "Invalid header field char": _LINE_BREAK,
    "Invalid header token": "a header name is empty, has a character that it may not have (a space before the colon,"
    " perhaps), or has no colon",
    "Expected HTTP/, RTSP/ or ICE/": "behind the target there is no HTTP version in capitals (a space within the"
    " target, perhaps)",
    "Invalid method encountered": "the method is unknown (they are in capitals)",
    "Invalid HTTP version": "the HTTP version is neither 1.0 nor 1.1",
    "Unexpected whitespace after header value": "a header goes on in the next line",
    "Invalid char in url": "the target has a character that it may not have",
    "Unexpected char in url": "the target has a character that it may not have",
    "Invalid characters in url": "the target has a character that it may not have",
}
"""Rules of llhttp whose names do not say what a client has done, by how they begin."""

_LLHTTP: Final = re.compile(r"([ -~]+):\n\n")
"""The name of the rule, which is one of llhttp's constants; what follows it is the peer's."""
_AIOHTTP: Final = re.compile(r"Missing 'Host' header in request|Duplicate '[A-Za-z-]+' header found")
"""Rules of aiohttp's own, with names of headers that are its constants."""


def _bad_request(error: Exception, data: bytes) -> BadRequestError:
    text = str(error)
    if "Too many headers" in text:
        return BadRequestError("too_many_headers")
    for beginning, other in _OTHER_PROTOCOLS.items():
        if data.startswith(beginning):
            return BadRequestError("malformed", other)
    llhttp, aiohttp = _LLHTTP.search(text), _AIOHTTP.search(text)
    rule = llhttp[1].strip() if llhttp else aiohttp[0] if aiohttp else ""
    rule = next((plain for name, plain in _RULES.items() if rule.startswith(name)), rule)
    return BadRequestError("bad_host" if "'Host'" in rule else "malformed", rule)


class Message(NamedTuple):
    """One message or control frame: `kind` is TEXT, BINARY, PING, PONG or CLOSE.

    `data` is str for TEXT, bytes-like for BINARY, PING and PONG, and the close code for CLOSE, whose reason is
    `extra`. The reader makes tuples of this shape, not of this class.
    """

    kind: WSMsgType
    data: Any
    extra: str


class FrameError(Exception):
    """Raised when the peer breaks RFC 6455; `code` is the close code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameCollector(WebSocketDataQueue):  # type: ignore[misc]
    """Takes what a reader parses during one `feed_data`, which is synchronous: one serves all connections of a loop.

    aiohttp's queue would keep a deque per connection, count its size and stall the reader by it.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error: FrameError | None = None

    def feed_data(self, data: Any, size: int) -> None:
        self.messages.append(data)

    def exception(self) -> BaseException | None:
        return None

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        code = getattr(exc, "code", 1002)
        self.error = FrameError(int(code), _FRAME_REASONS.get(int(code), "protocol error"))


_FRAME_REASONS: Final = {1007: "invalid UTF-8", 1009: "message too big", 1002: "protocol error"}


class FrameReader:
    """Reads the frames that one client sends, and joins fragments into messages."""

    __slots__ = (
        "_collector",
        "_data_bytes",
        "_in_message",
        "_message_bytes",
        "_next_header",
        "_part_header",
        "_reader",
        "failed",
        "unfinished_bytes",
    )

    def __init__(self, collector: FrameCollector, *, max_message_bytes: int) -> None:
        self._collector = collector
        self._reader = WebSocketReader(collector, min(max_message_bytes, MAX_MESSAGE_BYTES) + 1, False, True)
        self._next_header = 0
        self._part_header = b""
        self._in_message = False
        self._data_bytes = -1  # payload of the present data frame; -1 in another one
        self._message_bytes = 0
        self.unfinished_bytes = -1
        """How many bytes of payload have come of a message that is not complete. -1 if the peer may rest: no message
        and no frame has begun."""
        self.failed: FrameError | None = None
        """Why the rest of the stream cannot be read, once it cannot."""

    def feed(self, data: bytes) -> Sequence[Message]:
        """The messages and control frames that became complete with `data`. Sets `failed` if the peer broke a rule:
        what came before the fault is returned all the same."""
        fault_at = self._find_fault(data)
        if fault_at is not None:
            data = data[:fault_at]
        self._reader.feed_data(data)
        collector = self._collector
        messages = collector.messages
        collector.messages = []
        if collector.error is not None:
            self.failed = collector.error
            collector.error = None
        elif fault_at is not None:
            self.failed = FrameError(1002, "frame not masked, or a message within a message")
        return messages

    def _find_fault(self, data: bytes) -> int | None:
        """Walks from frame header to frame header, for what the reader does not look at.

        Returns the offset of the first frame without a mask [RFC 6455 §5.1], or that begins a message within another
        [§5.4: the reader notices only if the first fragment was not empty]. Sets `unfinished_bytes`.
        """
        position = self._next_header
        carried = len(self._part_header)
        if carried:
            data = self._part_header + data
            self._part_header = b""
        end = len(data)
        while position + 1 < end:
            first, second = data[position], data[position + 1]
            if second < 0x80:
                return max(position - carried, 0)
            if second < 0xFE:
                header = 6  # 2 bytes, and 4 of mask
                payload = second - 0x80
            else:
                width = 2 if second == 0xFE else 8
                header = 6 + width
                if position + 2 + width > end:
                    break
                payload = int.from_bytes(data[position + 2 : position + 2 + width], "big")
            if first & 0x08 == 0:
                if first & 0x0F and self._in_message:
                    return max(position - carried, 0)
                self._message_bytes = payload + (0 if first & 0x0F else self._message_bytes)
                self._in_message = first < 0x80
                self._data_bytes = payload
            else:
                self._data_bytes = -1
            position += header + payload
        if position < end:
            self._part_header = data[position:]
            self._next_header = 0
            self._data_bytes = -1
        else:
            self._next_header = position - end
        if self._next_header or self._part_header or self._in_message:
            in_message = self._in_message or (self._data_bytes >= 0 and self._next_header)
            missing = min(self._next_header, max(self._data_bytes, 0))
            self.unfinished_bytes = self._message_bytes - missing if in_message else 0
        else:
            self.unfinished_bytes = -1
        return None
