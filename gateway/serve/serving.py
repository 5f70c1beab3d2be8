"""An application and its servers, up for the time of a block: for tests and for development.

`gateway serve` is more (gateway.serve.supervisor): it has a configuration, signals, a data directory, a limit to each
wait.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from gateway.dispatch.threads import close_connections
from gateway.layers.manager import check_layers
from gateway.lifespan import Lifespan
from gateway.serve.assembly import joined_to_layer, make_servers
from protocols.asgi import Application
from protocols.server import Listener, ProtocolServer

END_TIMEOUT_S = 5.0


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
        await started.enter_async_context(joined_to_layer(servers))
        yield {server.protocol: server for server in servers}


async def _close(server: ProtocolServer) -> None:
    with suppress(TimeoutError):  # what has not ended is cut off
        async with asyncio.timeout(END_TIMEOUT_S):
            await server.close()
