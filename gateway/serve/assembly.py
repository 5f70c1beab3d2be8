"""The servers of one process: made of their listeners, in the order in which they start; joined to the layer."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gateway.exceptions import GatewayError
from gateway.layers import get_channel_layer
from gateway.mqtt import bridged
from protocols.asgi import Application
from protocols.mqtt.server import MqttServer
from protocols.mqtt.storage.base import Store
from protocols.server import Listener, ProtocolServer, Tunnel, load_protocol


def make_servers(
    application: Application,
    listeners: Mapping[str, Sequence[Listener]],
    state: Mapping[str, Any],
    *,
    store: Store | None = None,
) -> list[ProtocolServer]:
    """One server for each protocol, those that listen first; HTTP carries what the others offer.

    `state` is that of the application's lifespan, `store` where the MQTT broker keeps its sessions. Raises GatewayError
    for listeners that cannot be served.
    """
    made: dict[str, ProtocolServer] = {}
    tunnels: dict[str, Tunnel] = {}
    for protocol in sorted(listeners, key=lambda name: name == "http"):
        server_class = load_protocol(protocol)
        kept = {"store": store} if issubclass(server_class, MqttServer) else {}
        try:
            server = server_class(application, listeners[protocol], state=state, tunnels=tunnels, **kept)
        except ValueError as error:
            raise GatewayError(f"cannot serve {protocol}: {error}") from error
        tunnels.update(server.offered_tunnels())
        made[protocol] = server
    servers = sorted((made[protocol] for protocol in listeners), key=lambda server: not server.listens)
    for server in servers:
        try:
            server.meet(servers)
        except ValueError as error:
            raise GatewayError(f"cannot serve {server.protocol}: {error}") from error
    return servers


@asynccontextmanager
async def joined_to_layer(servers: Sequence[ProtocolServer]) -> AsyncIterator[None]:
    """While entered, gateway.mqtt.publish, called in whatever process, reaches the subscribers of this one.

    Raises LayerUnavailableError if the server of the layer is away.
    """
    layer = get_channel_layer()
    async with AsyncExitStack() as entered:
        for server in servers:
            broker_publish = getattr(server, "publish", None)
            if layer is not None and broker_publish is not None:
                await entered.enter_async_context(bridged(layer, broker_publish))
        yield
