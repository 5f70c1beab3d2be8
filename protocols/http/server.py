"""The server of HTTP and WebSocket: its listeners, and its way out."""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

from protocols.connection_base import Connections
from protocols.http.connection import HttpConnection
from protocols.http.listener import Counts, ListenerConnection, ListenerContext
from protocols.http.options import HttpOptions
from protocols.server import Listener, ProtocolServer
from protocols.sockets import Listening, listen_at_all


class HttpServer(ProtocolServer):
    """Serves HTTP and WebSocket; runs on asyncio's own loop and on uvloop."""

    protocol: ClassVar[str] = "http"
    Options: ClassVar[type] = HttpOptions
    carries_tunnels: ClassVar[bool] = True

    response_grace_s: ClassVar[float] = 5.0
    """How long `close` lets responses end before it tells their applications that the client has gone."""

    _servers: Sequence[Listening] = ()
    _connections: Connections[ListenerConnection] | None = None
    _counts: Counts

    async def start(self) -> None:
        """See ProtocolServer."""
        self._counts = Counts()
        connections: Connections[ListenerConnection] = Connections()
        shortest_s = min((listener.options.shortest_timeout_s for listener in self.listeners), default=4.0)
        connections.start(shortest_timeout_s=shortest_s, on_tick=self._counts.export)
        try:
            factories = [self._factory(listener, connections) for listener in self.listeners]
            self._servers = await listen_at_all(self.listeners, factories)
        except BaseException:
            connections.stop()
            raise
        self._connections = connections

    def _factory(
        self, listener: Listener, connections: Connections[ListenerConnection]
    ) -> Callable[[], HttpConnection]:
        context = ListenerContext(
            self.application,
            listener.options,
            connections,
            self._counts,
            tls=listener.ssl_context is not None,
            state=self.state,
            tunnels=self.tunnels,
        )
        return functools.partial(HttpConnection, context)

    @property
    def addresses(self) -> Sequence[str]:
        """See ProtocolServer."""
        return [server.address for server in self._servers]

    def stop_accepting(self) -> None:
        """See ProtocolServer."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """See ProtocolServer. Event streams end at once, other responses have `response_grace_s`."""
        self.stop_accepting()
        connections, self._connections = self._connections, None
        if connections is None:
            return
        grace = connections.loop.call_later(self.response_grace_s, _give_up, connections)
        try:
            await connections.close()
        finally:
            grace.cancel()
            self._counts.export()


def _give_up(connections: Connections[ListenerConnection]) -> None:
    for connection in list(connections.open):
        if isinstance(connection, HttpConnection):
            connection.give_up()
