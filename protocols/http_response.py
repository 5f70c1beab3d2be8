"""The head of an HTTP/1.1 response, from an ASGI event to bytes: framing, validation, standard headers."""

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from enum import IntEnum
from http import HTTPStatus
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

LARGEST_NAME_CACHE: Final = 1024


class Role(IntEnum):
    """What a response header means to the server."""

    ORDINARY = 0
    CONTENT_LENGTH = 1
    TRANSFER_ENCODING = 2
    CONNECTION = 3
    DATE = 4
    SERVER = 5
    CONTENT_TYPE = 6


_ROLES: Final = {
    b"content-length": Role.CONTENT_LENGTH,
    b"transfer-encoding": Role.TRANSFER_ENCODING,
    b"connection": Role.CONNECTION,
    b"date": Role.DATE,
    b"server": Role.SERVER,
    b"content-type": Role.CONTENT_TYPE,
}

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus if status >= 200
}


class Head(NamedTuple):
    """An encoded response head and what it promises of the body."""

    data: bytes
    content_length: int | None
    """How many bytes of body must follow; None if the head does not say."""
    chunked: bool
    keep_alive: bool
    event_stream: bool


class HeadEncoder:
    """Encodes response heads, with the Date and Server header that an application did not set itself."""

    def __init__(self, server: str, *, clock: Callable[[], float] = time.time) -> None:
        """`server` is the value of the Server header; empty: none is sent."""
        self._server_line = b"server: %b\r\n" % server.encode("ascii") if server else b""
        self._clock = clock
        self._second = -1
        self._date_line = b""
        self._standard_lines = b""
        self._roles: dict[bytes, Role] = dict(_ROLES)

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
        lines = [_status_line(status)]
        roles = self._roles
        content_length: int | None = None
        own_date = own_server = event_stream = False
        for name, value in headers:
            role = roles.get(name)
            if role is None:
                role = self._learn(name)
            if role:
                match role:
                    case Role.CONTENT_LENGTH:
                        if content_length is not None or not value.isdigit():
                            raise ValueError("the response has a bad or second Content-Length")
                        content_length = int(value)
                    case Role.TRANSFER_ENCODING:
                        continue
                    case Role.CONNECTION:
                        if b"close" in value.lower():
                            keep_alive = False
                        continue
                    case Role.DATE:
                        own_date = True
                    case Role.SERVER:
                        own_server = True
                    case Role.CONTENT_TYPE:
                        event_stream = value.startswith(b"text/event-stream")
            lines.append(b"%b: %b\r\n" % (name, value))

        chunked = False
        if status in {204, 304}:
            body_length = None
        elif content_length is not None:
            pass
        elif body_length is not None:
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
        _refuse_injection(lines)
        lines.append(self._standard(own_date, own_server))
        lines.append(b"\r\n")
        return Head(b"".join(lines), content_length, chunked, keep_alive, event_stream)

    def encode_upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head of a 101 response with these headers. Raises ValueError as `encode` does."""
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n"]
        for name, value in headers:
            if self._roles.get(name) is None:
                self._learn(name)
            lines.append(b"%b: %b\r\n" % (name, value))
        _refuse_injection(lines)
        return b"".join([*lines, self._standard(own_date=False, own_server=False), b"\r\n"])

    def _learn(self, name: bytes) -> Role:
        role = _ROLES.get(name.lower(), Role.ORDINARY)
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if len(self._roles) < LARGEST_NAME_CACHE:
            self._roles[bytes(name)] = role
        return role

    def _standard(self, own_date: bool, own_server: bool) -> bytes:
        now = self._clock()
        if now - self._second >= 1 or now < self._second:
            self._second = int(now)
            self._date_line = b"date: %b\r\n" % formatdate(self._second, usegmt=True).encode("ascii")
            self._standard_lines = self._date_line + self._server_line
        if own_date or own_server:
            return (b"" if own_date else self._date_line) + (b"" if own_server else self._server_line)
        return self._standard_lines


def _status_line(status: int) -> bytes:
    line = _STATUS_LINES.get(status)
    if line is not None:
        return line
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise ValueError(f"{status!r} is not the status of a final response")
    return b"HTTP/1.1 %d \r\n" % status


def _refuse_injection(lines: list[bytes]) -> None:
    """Each line has one CR LF, its own; any more came in a value of the application [RFC 9110 §5.5]."""
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
        raise ValueError("a response header contains CR, LF or NUL")


def plain_response(status: int, *, server: HeadEncoder, extra: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole response of the server's own that ends the connection. It repeats nothing of the request."""
    body = f"{status} {HTTPStatus(status).phrase}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *extra]
    return server.encode(status, headers, body_length=len(body), http_10=False, keep_alive=False).data + body
