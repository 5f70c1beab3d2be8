"""A byte stream carried in the binary messages of a WebSocket, and the transport that its protocol is given."""

import asyncio
from collections.abc import Callable
from typing import Any

from protocols.asgi import Scope
from protocols.http.listener import ListenerContext
from protocols.http.refusals import Refusal
from protocols.http.websocket_connection import SHUTDOWN_TIMEOUT_S, WebSocketConnection
from protocols.http.websocket_wire import BINARY_OPCODE, Offer, accept_response, frame
from protocols.server import Tunnel


def open_tunnel(
    tunnel: Tunnel,
    context: ListenerContext,
    transport: asyncio.Transport,
    offer: Offer,
    scope: Scope,
    take_early_bytes: Callable[[], bytes],
) -> Refusal | None:
    """Gives the transport to a tunnel. Returns a refusal if the client does not offer its subprotocol."""
    known = (tunnel.subprotocol, *tunnel.other_subprotocols)
    selected = next((name for name in known if name in offer.subprotocols), None)
    if selected is None:
        return Refusal("subprotocol", f"of subprotocols this path has {', '.join(known)}")
    connection = TunnelConnection(context, tunnel.protocol_factory())
    connection.attach(transport, scope["client"])
    transport.set_protocol(connection)
    connection.write(accept_response(context.encoder, offer, subprotocol=selected))
    connection.opened()
    connection.start(TunnelTransport(connection, scope))
    early = take_early_bytes()
    if early:
        connection.data_received(early)
    return None


class TunnelConnection(WebSocketConnection):
    """The WebSocket of a tunnel; its user is an asyncio protocol."""

    __slots__ = ("_protocol", "_shutting_down")

    def __init__(self, context: ListenerContext, protocol: asyncio.Protocol) -> None:
        super().__init__(context)
        self._shutting_down = False
        self._protocol: asyncio.Protocol | None = protocol

    def start(self, transport: "TunnelTransport") -> None:
        """Tells the protocol that its connection is made."""
        assert self._protocol is not None
        self._protocol.connection_made(transport)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Gives the stream to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol | None:
        """Who has the stream; None when it has ended."""
        return self._protocol

    def on_text(self, text: str) -> None:
        """A byte stream has no text [MQTT5-6.0.0-1]."""
        self.fail(1003, "binary messages only")

    def on_binary(self, data: bytes) -> None:
        """The next bytes of the stream, wherever its packets begin [MQTT5-6.0.0-2]."""
        if self._protocol is not None:
            self._protocol.data_received(data)

    def on_end(self, code: int, reason: str) -> None:
        """The stream has ended, for the protocol as a TCP connection does."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            # later, as transports do: the protocol may be in the middle of its own close()
            self.connections.loop.call_soon(protocol.connection_lost, None)

    def shut_down(self) -> None:
        """The server that the stream belongs to closes too, and has a moment to say goodbye in its own words."""
        if self.is_open:
            self._shutting_down = True
            self.deadline = self.connections.now + SHUTDOWN_TIMEOUT_S
        else:
            self.leave(SHUTDOWN_TIMEOUT_S)

    def deadline_passed(self) -> None:
        """Also the end of that moment."""
        if self._shutting_down:
            super().shut_down()
        else:
            super().deadline_passed()

    def pause_writing(self) -> None:
        """Passed on."""
        super().pause_writing()
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Passed on."""
        super().resume_writing()
        if self._protocol is not None:
            self._protocol.resume_writing()


class TunnelTransport(asyncio.Transport):
    """What `protocols.server.Tunnel` promises to a protocol."""

    def __init__(self, connection: TunnelConnection, scope: Scope) -> None:
        super().__init__()
        self._connection = connection
        self._scheme = "wss" if scope["scheme"] == "https" else "ws"
        self._client = scope["client"]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the connection beneath; "peername" is the client that a trusted proxy told."""
        if name == "scheme":
            return self._scheme
        if name == "peername" and self._client is not None:
            return self._client
        return self._connection.transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends one binary message."""
        if self._connection.is_open and data:
            self._connection.write(frame(BINARY_OPCODE, bytes(data)))

    def writelines(self, list_of_data: Any) -> None:
        """Sends the pieces in one message."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Closes in order, after what has been written."""
        self._connection.close(1000)

    def abort(self) -> None:
        """Cuts the connection."""
        self._connection.transport.abort()

    def is_closing(self) -> bool:
        """Whether close or abort has been called, or the peer has closed."""
        return not self._connection.is_open or self._connection.transport.is_closing()

    def pause_reading(self) -> None:
        """Stops reading; what has been read of the socket, up to a few messages, is still delivered."""
        self._connection.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        self._connection.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of the connection beneath."""
        self._connection.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """As of the connection beneath."""
        return self._connection.transport.get_write_buffer_size()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Gives the stream to another protocol."""
        assert isinstance(protocol, asyncio.Protocol)
        self._connection.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who has the stream."""
        protocol = self._connection.get_protocol()
        assert protocol is not None
        return protocol

    def can_write_eof(self) -> bool:
        """False: a WebSocket has no half-close."""
        return False
