"""The head of an HTTP/1.1 response, from an ASGI event to bytes: framing, validation, standard headers."""

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

LARGEST_NAME_CACHE: Final = 1024

_WITHOUT_BODY: Final = frozenset({204, 304})


# What a response header means to the server. Plain integers: an enumeration costs half a microsecond per response.
_ORDINARY: Final = 0
_CONTENT_LENGTH: Final = 1
_DATE: Final = 2
_SERVER: Final = 3
_CONNECTION: Final = 4
_TRANSFER_ENCODING: Final = 5

_ROLES: Final = {
    b"content-length": _CONTENT_LENGTH,
    b"date": _DATE,
    b"server": _SERVER,
    b"connection": _CONNECTION,
    b"transfer-encoding": _TRANSFER_ENCODING,
}

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus if status >= 200
}


Head: TypeAlias = tuple[bytes, int | None, bool, bool]
"""An encoded head and what it promises: its bytes; how many bytes of body must follow, None if it does not say;
whether they come in chunks; whether the connection is kept. A plain tuple, for the cost of a named one."""


class HeadEncoder:
    """Encodes response heads, with the Date and Server header that an application did not set itself."""

    def __init__(self, server: str, *, clock: Callable[[], float] = time.time) -> None:
        """`server` is the value of the Server header; empty: none is sent."""
        self._server_line = b"server: %b\r\n" % server.encode("ascii") if server else b""
        self._clock = clock
        self._second = -1
        self._date_line = b""
        self._standard_lines = b""
        self._roles: dict[bytes, int] = dict(_ROLES)

    def encode(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body_length: int | None,
        http_10: bool,
        keep_alive: bool,
    ) -> Head:
        """The head of a final response (RFC 9112 §4, §6).

        `body_length` is the length of a body that is complete, None of one to be streamed: that gets chunks, or over
        HTTP/1.0 ends with the connection. A Content-Length of the application wins over both. Raises ValueError for
        what must not be on the wire.
        """
        lines = [_STATUS_LINES.get(status) or _status_line(status)]
        known = self._roles.get
        content_length: int | None = None
        own_date = own_server = False
        for name, value in headers:
            role = known(name)
            if role is None:
                role = self._learn(name)
            if role:
                if role == _CONTENT_LENGTH:
                    if content_length is not None or not value.isdigit():
                        raise ValueError("the response has a bad or second Content-Length")
                    content_length = int(value)
                elif role == _DATE:
                    own_date = True
                elif role == _SERVER:
                    own_server = True
                else:  # how a message ends is the server's to say
                    keep_alive = keep_alive and not (role == _CONNECTION and b"close" in value.lower())
                    continue
            lines.append(b"%b: %b\r\n" % (name, value))

        chunked = False
        if content_length is None and status not in _WITHOUT_BODY:
            if body_length is not None:
                content_length = body_length
                lines.append(b"content-length: %d\r\n" % body_length)
            elif http_10:
                keep_alive = False
            else:
                chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        elif http_10:
            lines.append(b"connection: keep-alive\r\n")
        return self._join(lines, own_date, own_server), content_length, chunked, keep_alive

    def encode_upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head of a 101 response with these headers. Raises ValueError as `encode` does."""
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n"]
        for name, value in headers:
            if self._roles.get(name) is None:
                self._learn(name)
            lines.append(b"%b: %b\r\n" % (name, value))
        return self._join(lines, own_date=False, own_server=False)

    def _join(self, lines: list[bytes], own_date: bool, own_server: bool) -> bytes:
        """The head of these lines. Each has one CR LF, its own; any more came in a value of the application, which
        RFC 9110 §5.5 forbids."""
        count = len(lines)
        text = b"".join(lines)
        if text.count(b"\n") != count or text.count(b"\r") != count or b"\0" in text:
            raise ValueError("a response header contains CR, LF or NUL")
        return text + self._standard(own_date, own_server)

    def _learn(self, name: bytes) -> int:
        role = _ROLES.get(name.lower(), _ORDINARY)
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if len(self._roles) < LARGEST_NAME_CACHE:
            self._roles[bytes(name)] = role
        return role

    def _standard(self, own_date: bool, own_server: bool) -> bytes:
        """The lines that each response has, and the empty line that ends the head."""
        now = self._clock()
        if not self._second <= now < self._second + 1:
            self._second = int(now)
            self._date_line = b"date: %b\r\n" % formatdate(self._second, usegmt=True).encode("ascii")
            self._standard_lines = self._date_line + self._server_line + b"\r\n"
        if own_date or own_server:
            return (b"" if own_date else self._date_line) + (b"" if own_server else self._server_line) + b"\r\n"
        return self._standard_lines


def _status_line(status: int) -> bytes:
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise ValueError(f"{status!r} is not the status of a final response")
    return b"HTTP/1.1 %d \r\n" % status


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a response with these headers is one of server-sent events, which have no end of their own."""
    return any(value.startswith(b"text/event-stream") for name, value in headers if name.lower() == b"content-type")


def plain_response(
    status: int, text: str = "", *, server: HeadEncoder, extra: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A whole response of the server's own that ends the connection. It repeats nothing of the request; `text` says
    why."""
    phrase = f"{status} {HTTPStatus(status).phrase}"
    body = f"{phrase}: {text}\n".encode() if text else f"{phrase}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *extra]
    return server.encode(status, headers, body_length=len(body), http_10=False, keep_alive=False)[0] + body
