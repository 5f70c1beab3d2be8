"""protocol = "mqtt-bridge": a section like that of a listener, for a protocol server that connects instead."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from protocols.asgi import Application
from protocols.bridge.bridge import Bridge
from protocols.bridge.options import BridgeOptions
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.options import BrokerOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener, ProtocolServer, Tunnel

IDENTITY_FILE: Final = "bridge_id"


class BridgeServer(ProtocolServer):
    """Runs the bridges of a process. Their messages go to, and come from, the broker of its MQTT listeners; a process
    without any has bridges for its application alone."""

    protocol: ClassVar[str] = "mqtt-bridge"
    Options: ClassVar[type] = BridgeOptions
    listens: ClassVar[bool] = False

    def __init__(
        self,
        application: Application,
        listeners: Sequence[Listener],
        *,
        state: Mapping[str, Any],
        tunnels: Mapping[str, Tunnel] | None = None,
        server_options: Any = None,
    ) -> None:
        """Raises ValueError for two bridges of one name."""
        super().__init__(application, listeners, state=state, tunnels=tunnels, server_options=server_options)
        self._options: list[BridgeOptions] = [listener.options for listener in listeners]
        names = [each.name for each in self._options]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two bridges have the name {name!r}: give each its own")
        self._mqtt: MqttServer | None = None
        self._bridges: list[Bridge] = []

    def connect_to(self, servers: Sequence[ProtocolServer]) -> None:
        """Raises ValueError for send rules where there is no broker to take messages from."""
        self._mqtt = next((server for server in servers if isinstance(server, MqttServer)), None)
        for options in self._options:
            if options.send and self._mqtt is None:
                raise ValueError(f"the bridge {options.name!r} has send tables, and there is no mqtt listener")

    async def start(self) -> None:
        """Does not wait for upstream, which may be away."""
        broker = _private_broker() if self._mqtt is None else self._mqtt.broker
        committer = None if self._mqtt is None else self._mqtt.committer
        identity = None
        for options in self._options:
            client_id = options.client_id
            if client_id is None:
                identity = identity or _identity(self.state.get("data_dir"))
                client_id = f"fieldgate-{options.name}-{identity}"
            bridge = Bridge(
                self.application, options, client_id=client_id, state=self.state, broker=broker, committer=committer
            )
            self._bridges.append(bridge)
            bridge.start()

    def stop_accepting(self) -> None:
        """Connects no more."""
        for bridge in self._bridges:
            bridge.stop()

    async def close(self) -> None:
        bridges, self._bridges = self._bridges, []
        async with asyncio.TaskGroup() as closing:
            for bridge in bridges:
                closing.create_task(bridge.close())

    @property
    def addresses(self) -> Sequence[str]:
        """None: it does not listen."""
        return ()

    def status(self) -> Mapping[str, str]:
        """By "bridge NAME": "ok" or "not connected"."""
        return {f"bridge {bridge.options.name}": bridge.status for bridge in self._bridges}


def _private_broker() -> Broker:
    return Broker(BrokerOptions())


def _identity(data_dir: Path | None) -> str:
    """What tells this gateway from others upstream, after a restart too: there, it is whom messages wait for."""
    new = secrets.token_hex(6)
    if data_dir is None:
        return new
    file = data_dir / IDENTITY_FILE
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        file.write_text(f"{new}\n", encoding="ascii")
        return new
