"""Makes the servers of one process from its listeners, in the order in which they start; and `serving` runs them.

`serving` is for tests and for development. `gateway serve` is more (gateway.serve.supervisor): it has a configuration,
signals, a data directory, a limit to each wait.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

from gateway.config import ListenerConfig
from gateway.dispatch.threads import close_connections
from gateway.exceptions import GatewayError
from gateway.layers.manager import check_layers
from gateway.lifespan import Lifespan
from gateway.mqtt.relay import relaying
from protocols.asgi import Application
from protocols.server import Listener, ProtocolServer, Tunnel, load_protocol

END_TIMEOUT_S: Final = 5.0


def make_listeners(configs: Sequence[ListenerConfig]) -> dict[str, list[Listener]]:
    """The listeners by protocol. Raises GatewayError if a certificate cannot be used."""
    listeners: dict[str, list[Listener]] = {}
    for config in configs:
        listeners.setdefault(config.protocol, []).append(_make_listener(config))
    return listeners


def _make_listener(config: ListenerConfig) -> Listener:
    try:
        context = config.tls.context() if config.tls else None
    except (OSError, ValueError) as error:
        raise GatewayError(f"cannot use the certificate of the listener at {config.bind}: {error}") from error
    return Listener(
        bind=config.bind or "",
        options=config.options,
        ssl_context=context,
        proxy_protocol=config.proxy_protocol,
        handshake_timeout_s=config.handshake_timeout_s,
        max_handshakes=config.max_handshakes,
        max_handshakes_per_address=config.max_handshakes_per_address,
        dead_peer_timeout_s=config.dead_peer_timeout_s,
    )


def make_servers(
    application: Application,
    listeners: Mapping[str, Sequence[Listener]],
    state: Mapping[str, Any],
    server_options: Mapping[str, Any] = MappingProxyType({}),
) -> list[ProtocolServer]:
    """One server for each protocol, those that listen first. Tunnels that some offer go to those that carry them.

    `state` is that of the application's lifespan, `server_options` has those of a protocol as a whole by its name.
    Raises GatewayError for listeners that cannot be served.
    """
    made: dict[str, ProtocolServer] = {}
    tunnels: dict[str, Tunnel] = {}
    classes = {protocol: load_protocol(protocol) for protocol in listeners}
    for protocol in sorted(listeners, key=lambda name: classes[name].carries_tunnels):
        try:
            server = classes[protocol](
                application,
                listeners[protocol],
                state=state,
                tunnels=tunnels,
                server_options=server_options.get(protocol),
            )
        except ValueError as error:
            raise GatewayError(f"cannot serve {protocol}: {error}") from error
        tunnels.update(server.offered_tunnels())
        made[protocol] = server
    servers = sorted((made[protocol] for protocol in listeners), key=lambda server: not server.listens)
    for server in servers:
        try:
            server.connect_to(servers)
        except ValueError as error:
            raise GatewayError(f"cannot serve {server.protocol}: {error}") from error
    return servers


@asynccontextmanager
async def serving(
    application: Application, listeners: Mapping[str, Sequence[Listener]]
) -> AsyncIterator[Mapping[str, ProtocolServer]]:
    """Runs the application's lifespan and a server for each protocol of `listeners`; gives the servers by protocol.

    Raises LifespanError, OSError, GatewayError or InvalidChannelLayerError if something cannot start. At the end
    connections have `END_TIMEOUT_S` to end.
    """
    await check_layers()
    async with AsyncExitStack() as started:
        started.push_async_callback(close_connections)
        lifespan = Lifespan(application, on_failure=lambda: None)  # it has logged why
        await lifespan.startup()
        started.push_async_callback(lifespan.shutdown)
        servers = make_servers(application, listeners, lifespan.state)
        for server in servers:
            started.push_async_callback(_close, server)
            await server.start()
        await started.enter_async_context(relaying(servers))
        yield {server.protocol: server for server in servers}


async def _close(server: ProtocolServer) -> None:
    with suppress(TimeoutError):  # what has not ended is cut off
        async with asyncio.timeout(END_TIMEOUT_S):
            await server.close()
