"""What the connections of an HTTP listener have in common, those that became WebSockets too."""

from collections.abc import Mapping
from typing import Any, Final

from protocols import metrics
from protocols.asgi import Application
from protocols.bytes_in_hand import UNCOUNTED_BYTES, BytesInHand
from protocols.connection_base import Connection, Connections
from protocols.http.aiohttp_parsers import FrameCollector
from protocols.http.options import HttpOptions
from protocols.http.refusals import peer_log
from protocols.http.request import Forwarding
from protocols.http.response import HeadEncoder
from protocols.limits import ConnectionLimits
from protocols.server import Tunnel
from protocols.sockets import peer_name
from protocols.trusted_peers import TrustedPeers

AHEAD: Final = 2
"""A reason not to read: what has come ahead of its turn is more than PIPELINE_BYTES."""


class Counts:
    """What is counted in plain integers on the way, of one server: a metric's lock costs more than a frame."""

    __slots__ = ("received_messages", "responses", "sent_messages")

    def __init__(self) -> None:
        self.responses: dict[int, int] = {}
        """How many of each status."""
        self.received_messages = 0
        self.sent_messages = 0

    def response(self, status: int) -> None:
        """A response with this status is on its way."""
        self.responses[status] = self.responses.get(status, 0) + 1

    def export(self, now: float = 0.0) -> None:
        """Adds them to the metrics; once a tick, and at the end."""
        for status, count in self.responses.items():
            metrics.http_responses.labels(status).inc(count)
        self.responses.clear()
        if self.received_messages:
            metrics.websocket_messages.labels("received").inc(self.received_messages)
            self.received_messages = 0
        if self.sent_messages:
            metrics.websocket_messages.labels("sent").inc(self.sent_messages)
            self.sent_messages = 0


class ListenerContext:
    """What the connections of one listener are served with."""

    __slots__ = (
        "application",
        "bytes_in_hand",
        "collector",
        "connection_limits",
        "connections",
        "counts",
        "encoder",
        "forwarding",
        "options",
        "scheme",
        "state",
        "tunnels",
        "unchecked_bytes",
    )

    def __init__(
        self,
        application: Application,
        options: HttpOptions,
        connections: "Connections[ListenerConnection]",
        counts: Counts,
        *,
        tls: bool,
        state: Mapping[str, Any],
        tunnels: Mapping[str, Tunnel],
    ) -> None:
        self.application = application
        self.options = options
        self.connections = connections
        self.counts = counts
        self.scheme = "https" if tls else "http"
        self.state = state
        self.tunnels = tunnels
        self.encoder = HeadEncoder(options.server_header)
        self.forwarding = Forwarding(options.trusted_proxies)
        self.collector = FrameCollector()
        proxies = TrustedPeers(options.trusted_proxies)
        self.connection_limits = ConnectionLimits(
            connections=options.max_connections, per_address=options.max_connections_per_address, proxies=proxies
        )
        self.unchecked_bytes = min(UNCOUNTED_BYTES, options.max_body_bytes)
        """A body that is there at once and no longer exceeds nothing."""
        self.bytes_in_hand = BytesInHand(
            in_all=options.max_body_bytes_in_all, per_address=options.max_body_bytes_per_address, proxies=proxies
        )


class ListenerConnection(Connection):
    """A connection of the listener."""

    __slots__ = ("context",)

    connections: "Connections[ListenerConnection]"

    def __init__(self, context: ListenerContext) -> None:
        super().__init__(context.connections, write_timeout_s=context.options.write_timeout_s)
        self.context = context

    def write_stalled(self) -> None:
        """Cuts the client off, which is counted and logged."""
        metrics.http_aborted.labels("slow_client").inc()
        message = "cut off %s: it did not take what it was sent within %g s"
        peer_log.warning(self.client, message, peer_name(self.client), self.write_timeout_s)
        super().write_stalled()
