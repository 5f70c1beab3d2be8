"""The MQTT server: a complete broker whose application is the authority.

    endpoint      a connection on its transport, and its application instance
    endpoints     all of them: deadlines, counts
    server_state  what they share
    connection    CONNECT to DISCONNECT: packets and events in, packets and events out   } no socket, no clock
    session       what outlives a connection: subscriptions, messages under way, queue   }
    broker        subscriptions, retained messages, wills, takeover                      }
    codec ...     bytes <-> packets                                                      }

The events between server and application are specified in docs/events.md.
"""

import asyncio
import functools
import logging
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar

from protocols.asgi import Application
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.codec.packets import Properties
from protocols.mqtt.endpoint import Endpoint
from protocols.mqtt.endpoints import Endpoints
from protocols.mqtt.operator_commands import OperatorCommands
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.recovery import Clock, Recovery
from protocols.mqtt.server_state import ListenerContext, ServerState
from protocols.mqtt.storage.committer import Committer
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.redis import RedisStore
from protocols.mqtt.storage.rows import Store, StoreError
from protocols.mqtt.storage.sqlite import SqliteStore
from protocols.mqtt.trace import Trace
from protocols.server import CannotServeError, Command, Listener, ProtocolServer, Tunnel
from protocols.sockets import Listening, listen_at_all

__all__ = ["BrokerOptions", "MqttOptions", "MqttServer"]

logger = logging.getLogger("gateway.mqtt")

TUNNEL_PATH = "/mqtt"

STORE_FILE = "mqtt.sqlite3"


def make_store(name: str, data_dir: Path | None) -> Store | None:
    """Where the broker keeps sessions and retained messages, by the option `store`; None if they end with the process:
    so the option says, or there is no directory to keep them in."""
    match name:
        case "memory":
            return None
        case "sqlite":
            return None if data_dir is None else SqliteStore(data_dir / STORE_FILE)
        case url:
            return RedisStore(url, place=f"{socket.gethostname()}:{(data_dir or Path()).resolve()}")


class MqttServer(ProtocolServer):
    """Serves MQTT 3.1, 3.1.1 and 5.0 over TCP, TLS, Unix sockets and, by its tunnel, WebSocket; on asyncio's own loop
    and on uvloop. All listeners share one broker."""

    protocol: ClassVar[str] = "mqtt"
    Options: ClassVar[type] = MqttOptions
    ServerOptions: ClassVar[type] = BrokerOptions

    answer_grace_s: ClassVar[float] = 5.0
    """How long `close` lets the application answer the publishes that it has: what is stored and not acknowledged is
    sent again."""

    def __init__(
        self,
        application: Application,
        listeners: Sequence[Listener],
        *,
        state: Mapping[str, Any],
        tunnels: Mapping[str, Tunnel] | None = None,
        server_options: BrokerOptions | None = None,
        store: Store | None = None,
    ) -> None:
        """`store` takes the place of the one that the options name."""
        super().__init__(application, listeners, state=state, tunnels=tunnels, server_options=server_options)
        broker_options: BrokerOptions = self.server_options
        if store is None:
            store = make_store(broker_options.store, state.get("data_dir"))
        self._options: list[MqttOptions] = [listener.options for listener in listeners]
        self.broker = Broker(
            broker_options,
            journal=None if store is None else Journal(),
        )
        self._server_state = ServerState(application, state, self.broker)
        self._endpoints = Endpoints(self._server_state)
        self._store = store
        self._servers: Sequence[Listening] = ()

    async def start(self) -> None:
        try:
            await self._restore()
        except StoreError as error:
            raise CannotServeError(f"cannot keep MQTT sessions: {error}") from error
        factories = [
            functools.partial(
                Endpoint,
                ListenerContext(self._server_state, listener.options, "mqtts" if listener.ssl_context else "mqtt"),
            )
            for listener in self.listeners
        ]
        self._endpoints.start(shortest_timeout_s=min((one.shortest_timeout_s for one in self._options), default=5.0))
        try:
            self._servers = await listen_at_all(self.listeners, factories)
        except BaseException:
            self._endpoints.stop()
            if self._server_state.committer is not None:
                self._server_state.committer.close()
            raise

    async def _restore(self) -> None:
        """Takes back what outlived the process before this one."""
        journal, loop = self.broker.journal, asyncio.get_running_loop()
        if self._store is None or journal is None:
            return
        committer = Committer(self._store, journal, on_taken=self._endpoints.cut_kept)
        rows = await committer.open()
        recovery = Recovery(self.broker, journal, self._first_options, Clock(loop.time(), time.time()))
        recovery.run(rows)
        self._server_state.committer = committer
        if len(self.broker.sessions) or len(self.broker.retained):
            logger.info(
                "restored %d MQTT sessions with %d messages, and %d retained messages",
                len(self.broker.sessions),
                recovery.deliveries,
                len(self.broker.retained),
            )

    @property
    def _first_options(self) -> MqttOptions:
        """Those of the first listener, for sessions and connections that are of none."""
        return self._options[0] if self._options else MqttOptions()

    @property
    def addresses(self) -> Sequence[str]:
        return [server.address for server in self._servers]

    @property
    def committer(self) -> Committer | None:
        """What writes the broker's journal to its store, from `start` on; None if nothing is kept."""
        return self._server_state.committer

    def offered_tunnels(self) -> Mapping[str, Tunnel]:
        """MQTT over WebSocket at /mqtt [MQTT5-6.0.0-4], with the options of the first listener. Clients of MQTT 3.1,
        from before there was a rule, ask for "mqttv3.1"."""
        factory = functools.partial(Endpoint, ListenerContext(self._server_state, self._first_options, "ws"))
        return {TUNNEL_PATH: Tunnel("mqtt", factory, other_subprotocols=("mqttv3.1",))}

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """Publishes to every subscriber of this server. Returns to how many. Raises ValueError or TypeError for what
        MQTT cannot say. To be called in the server's loop; `gateway.mqtt.publish` is the way from elsewhere."""
        return self.broker.publish(topic, payload, qos, retain, properties, now=self._server_state.time())

    def trace(self, client_id: str, *, payloads: bool = False) -> AbstractContextManager[Trace]:
        """Watches a client, known by the identity of its session or by what it calls itself, connected or not. To be
        used in the server's loop. Entering raises TooManyTracesError."""
        return self._endpoints.traced(Trace(client_id, payloads=payloads))

    def owners(self) -> Collection[str]:
        """Those who have a session or a retained message."""
        return [owner.name for owner in self.broker.owners]

    def forget_owners(self, reasons: Mapping[str, str]) -> None:
        """Ends their sessions, with what waits for them, and removes the messages that they have retained."""
        self.broker.forget_owners(reasons, self._server_state.time())

    def failures(self) -> Mapping[str, str]:
        """Whether what is to outlive the process is kept."""
        if self.broker.journal is None:
            return {}
        is_failing = self.broker.journal.failure is not None
        return {"mqtt sessions": "cannot be kept; clients that have one wait" if is_failing else "ok"}

    def commands(self) -> Mapping[str, Command]:
        return OperatorCommands(self._server_state, self._endpoints).commands()

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Publishes are answered first; then wills are published, while there are subscribers."""
        self.stop_accepting()
        if not self._servers:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.answer_grace_s):
                    await self._endpoints.wait_for_answers()
            if self._server_state.committer is not None:
                await self._server_state.committer.flush()
            self._say_goodbye()
            await self._server_state.connections.wait_until_empty()
            if self._server_state.committer is not None:
                await self._server_state.committer.flush()
        except asyncio.CancelledError:
            self._server_state.connections.abort_all()
            raise
        finally:
            self._endpoints.stop()
            if self._server_state.committer is not None:
                self._server_state.committer.close()

    def _say_goodbye(self) -> None:
        now = self._server_state.time()
        endpoints = list(self._endpoints.open)
        for endpoint in endpoints:
            endpoint.connection.publish_will(now)
        self.broker.publish_pending_wills(now)
        for endpoint in endpoints:
            endpoint.connection.shut_down(now)
