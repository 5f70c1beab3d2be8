"""protocol = "amqtt": the plug-in."""

import asyncio
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from amqtt.broker import Broker
from amqtt.errors import BrokerError, PluginError

from protocols import metrics
from protocols.amqtt.connection import AmqttConnection, Streams
from protocols.amqtt.options import AmqttOptions, broker_config
from protocols.amqtt.plugin import ApplicationPlugin
from protocols.asgi import Application
from protocols.limits import ConnectionLimits
from protocols.log_lines import PeerLog
from protocols.server import Listener, ProtocolServer, Tunnel
from protocols.sockets import Listening, client_address, listen_at_all, peer_name

peer_log = PeerLog("gateway.amqtt")

MAX_TASKS: Final = 1_000

for _name in ("amqtt", "transitions"):  # a line for each connection, and for each state of a session
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.WARNING)


class AmqttServer(ProtocolServer):
    """Serves MQTT 3.1.1 by amqtt. All listeners share one broker, and may name one configuration of it."""

    protocol: ClassVar[str] = "amqtt"
    Options: ClassVar[type] = AmqttOptions

    def __init__(
        self,
        application: Application,
        listeners: Sequence[Listener],
        *,
        state: Mapping[str, Any],
        tunnels: Mapping[str, Tunnel] | None = None,
        server_options: Any = None,
    ) -> None:
        """Raises ValueError for listeners with different configurations, and for one that cannot be used."""
        super().__init__(application, listeners, state=state, tunnels=tunnels, server_options=server_options)
        files = {listener.options.config_file for listener in listeners} - {None}
        if len(files) > 1:
            raise ValueError("there is one broker, and two of its listeners have different config_file")
        self._config = broker_config(next(iter(files), None))
        self._broker: Broker | None = None
        self._plugin: ApplicationPlugin | None = None
        self._listening: list[Listening] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._emptied = asyncio.Event()
        self.open: set[AmqttConnection] = set()
        self._connection_limits: dict[AmqttConnection, ConnectionLimits] = {}

    @property
    def broker(self) -> Broker:
        """amqtt's broker, once the server is started."""
        assert self._broker is not None
        return self._broker

    async def start(self) -> None:
        """Raises ValueError for plug-ins that amqtt cannot load."""
        try:
            self._broker = Broker(copy.deepcopy(self._config))
            await self._broker.start()
        except (BrokerError, PluginError) as error:
            raise ValueError(f"amqtt cannot start: {error}") from error
        plugins = self._broker.plugins_manager.plugins
        self._plugin = next(plugin for plugin in plugins if isinstance(plugin, ApplicationPlugin))
        try:
            self._listening = await listen_at_all(self.listeners, [self._factory(one) for one in self.listeners])
        except BaseException:
            await self._shut_down()
            raise

    @property
    def addresses(self) -> Sequence[str]:
        return [place.address for place in self._listening]

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        """Publishes to every subscriber; `gateway.mqtt.publish` is the way from elsewhere. Raises RuntimeError if as
        many messages are on their way as may be."""
        if len(self._tasks) >= MAX_TASKS:
            raise RuntimeError(f"{MAX_TASKS} messages are on their way to amqtt's broker")
        assert self._plugin is not None
        task = asyncio.get_running_loop().create_task(self._plugin.publish(topic, payload, qos, retain))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop_accepting(self) -> None:
        for place in self._listening:
            place.close()

    async def close(self) -> None:
        self.stop_accepting()
        try:
            for connection in list(self.open):
                connection.close("shutdown")
            while self.open:
                self._emptied.clear()
                await self._emptied.wait()
        except asyncio.CancelledError:
            for connection in list(self.open):
                connection.abort()
            raise
        finally:
            await self._shut_down()

    def left(self, connection: "AmqttConnection") -> None:
        """Neither the transport nor the application of a connection is there any more."""
        self.open.discard(connection)
        limits = self._connection_limits.pop(connection, None)
        if limits is not None:
            limits.leave(connection.client)
        self._emptied.set()

    async def _shut_down(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            for task in self._tasks:
                task.cancel()
            await broker.shutdown()

    def _factory(self, listener: Listener) -> Callable[[], asyncio.BaseProtocol]:
        options: AmqttOptions = listener.options
        limits = ConnectionLimits(connections=options.max_connections, per_address=options.max_connections_per_address)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AmqttConnection | None:
            return self._connected(options, limits, reader, writer)

        return lambda: Streams(connected)

    def _connected(
        self,
        options: AmqttOptions,
        limits: ConnectionLimits,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> AmqttConnection | None:
        if self._broker is None:
            writer.transport.abort()
            return None
        client = client_address(writer.transport)
        exceeded = limits.enter(client, 0.0)
        if exceeded is not None:
            limits.leave(client)
            metrics.mqtt_refused.labels(exceeded).inc()
            peer_log.warning(client, f"refused %s: {exceeded} is %d", peer_name(client), getattr(options, exceeded))
            writer.transport.abort()
            return None
        connection = AmqttConnection(self, options, reader, writer)
        self._connection_limits[connection] = limits
        return connection
