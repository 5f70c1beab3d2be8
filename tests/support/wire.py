"""Connections of the HTTP server without sockets: bytes in, bytes out, time by hand."""

import asyncio
from collections.abc import Mapping
from typing import Any

from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.connection_base import Connections
from protocols.http.connection import HttpConnection
from protocols.http.listener import Counts, ListenerConnection, ListenerContext
from protocols.http.options import HttpOptions
from protocols.server import Tunnel


class FakeTransport(asyncio.Transport):
    """A transport that keeps what is written and lets a test play the peer."""

    def __init__(self, **extra: Any) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 8000), **extra})
        self.written = bytearray()
        self.writes = 0
        self.protocol: asyncio.Protocol | None = None
        self.reading_paused = False
        self.eof_written = False
        self.closed = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if not self.closed:
            self.written += data

    def can_write_eof(self) -> bool:
        return self._extra.get("ssl_object") is None

    def write_eof(self) -> None:
        self.eof_written = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self._lose()

    def abort(self) -> None:
        self.aborted = True
        self._lose()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def _lose(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(lambda: self.protocol and self.protocol.connection_lost(None))


class Client:
    """The client's end of one connection to a server that runs `application`."""

    def __init__(
        self,
        application: Application,
        *,
        tunnels: Mapping[str, Tunnel] | None = None,
        state: Mapping[str, Any] | None = None,
        tls: bool = False,
        extra: Mapping[str, Any] | None = None,
        context: ListenerContext | None = None,
        **options: Any,
    ) -> None:
        self.context = context or self._context(
            application, HttpOptions(**options), tls=tls, state=state or {}, tunnels=tunnels or {}
        )
        self.connections = self.context.connections
        self.transport = FakeTransport(**(extra or {}))
        self.transport.protocol = HttpConnection(self.context)
        self.transport.protocol.connection_made(self.transport)

    @staticmethod
    def _context(application: Application, options: HttpOptions, **facts: Any) -> ListenerContext:
        counts = Counts()
        connections: Connections[ListenerConnection] = Connections()
        connections.start(shortest_timeout_s=1, on_tick=counts.export)
        connections.stop()  # from here on `wait` is the clock
        return ListenerContext(application, options, connections, counts, **facts)

    async def send(self, data: bytes) -> bytes:
        """Sends `data`, lets the server work, and returns what it has written since the last call."""
        assert self.transport.protocol is not None
        self.transport.protocol.data_received(data)
        return await self.receive()

    async def receive(self) -> bytes:
        """Lets the server work, and returns what it has written since the last call."""
        for _ in range(12):
            await asyncio.sleep(0)
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    async def leave(self) -> None:
        """Goes away without a word."""
        self.transport.close()
        await self.receive()

    async def wait(self, seconds: float) -> bytes:
        """Lets time pass."""
        self.connections.expire(self.connections.now + seconds)
        return await self.receive()

    def shut_down(self) -> None:
        """The server begins to close."""
        self.connections.closing = True
        for connection in list(self.connections.open):
            connection.shut_down()

    @property
    def closed(self) -> bool:
        return self.transport.closed


class Recorder:
    """An application that keeps its scope and events, and does what a test sends it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.events: list[Event] = []
        self.sends: list[Send] = []
        self.finished = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.sends.append(send)
        try:
            while True:
                event = await receive()
                self.events.append(event)
                if event["type"].endswith(".disconnect"):
                    return
        finally:
            self.finished += 1

    @property
    def send(self) -> Send:
        """The `send` of the latest scope."""
        return self.sends[-1]

    async def respond(
        self, body: bytes = b"", *, status: int = 200, more_body: bool = False, headers: Any = ()
    ) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await self.send({"type": "http.response.body", "body": body, "more_body": more_body})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, and answers with what it was."""
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event["body"]
        if not event["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b" " + body})


def masked(first_byte: int, payload: bytes = b"", *, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((first_byte, 0x80 | size))
    elif size < 65536:
        head = bytes((first_byte, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first_byte, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
