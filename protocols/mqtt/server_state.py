"""What the connections of one MQTT server share: the broker, the application, and what is counted."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from protocols.asgi import Application
from protocols.connection_base import Connection, Connections
from protocols.limits import ConnectionLimits
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.statistics import Statistics
from protocols.mqtt.storage.committer import Committer
from protocols.mqtt.trace import Tracing


class ListenerContext:
    """A listener, or the tunnel: what its connections have in common."""

    __slots__ = ("connection_limits", "extensions", "options", "scheme", "server_state")

    def __init__(self, server_state: "ServerState", options: MqttOptions, scheme: str) -> None:
        """`scheme` is that of the scope, unless the transport knows better (a tunnel's does)."""
        self.server_state = server_state
        self.options = options
        self.scheme = scheme
        self.extensions = {
            "mqtt.limits": {
                "max_packet_bytes": options.max_packet_bytes,
                "receive_maximum": options.receive_maximum,
                "max_messages_per_s": options.max_messages_per_s,
            }
        }
        """Those of a scope, but for what the transport knows."""
        self.connection_limits = ConnectionLimits(
            connections=options.max_connections,
            per_address=options.max_connections_per_address,
            per_s=options.max_connects_per_s,
        )


def _no_time() -> float:
    raise RuntimeError("the server has not been started")


class ServerState:
    """Of one server: what its connections are given, and what they count."""

    def __init__(self, application: Application, state: Mapping[str, Any], broker: Broker) -> None:
        self.application = application
        self.state = state
        self.broker = broker
        self.connections: Connections[Any] = Connections()
        self.statistics = Statistics(broker)
        self.tracing = Tracing()
        self.committer: Committer | None = None
        """Who keeps what outlives the process, if anything does."""
        self.time: Callable[[], float] = _no_time
        """The loop's, once the server is started: what each packet asks for."""
        self.unanswered: set[Connection] = set()
        """Those whose publishes a server that closes lets the application answer."""
        self.all_answered = asyncio.Event()

    def answered(self, connection: Connection) -> None:
        """The application has answered all publishes of the connection."""
        self.unanswered.discard(connection)
        if not self.unanswered:
            self.all_answered.set()
