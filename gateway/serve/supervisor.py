"""The life of `gateway serve`, from start to stop.

Order, each step undone in reverse: data directory held, database prepared, application loaded, its lifespan started,
servers listening, ready. A stop signal ends the listening, then the connections, then the application, which commits
what it still has. Whatever is acknowledged by then is stored.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import chain
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import django
from django.core.management import CommandError, call_command, get_commands
from django.db import Error as DatabaseFault
from django.db import connections

from gateway.config import Config, Loaded
from gateway.config.review import review
from gateway.db import describe_failure
from gateway.dispatch.threads import close_connections
from gateway.exceptions import GatewayError, InvalidChannelLayerError
from gateway.health import Lifecycle
from gateway.layers import LayerUnavailableError
from gateway.layers.manager import check_layers
from gateway.lifespan import Lifespan, LifespanError
from gateway.mqtt.relay import relaying
from gateway.routing import get_default_application
from gateway.serve import control, data_dir
from gateway.serve.assembly import make_listeners, make_servers
from gateway.serve.certificate_renewal import renewed
from protocols.asgi import Application
from protocols.server import CannotServeError, ProtocolServer

logger = logging.getLogger("gateway.supervisor")

YOUNG_OBJECTS: Final = 20_000
"""How many objects are made before the garbage collector looks at them; Python's own 700 are less than one commit."""


def serve(loaded: Loaded, *, program: str = "gateway") -> None:
    """Runs the gateway until a signal stops it. Raises GatewayError.

    `program` is how to call the command line again, for the text that is printed on first start.
    """
    with data_dir.held(loaded.config):
        django.setup()
        prepare()
        application = get_default_application()
        with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
            runner.run(Supervisor(loaded, application, program=program).run())


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def prepare() -> None:
    """Runs the project's `prepare` command, if it has one: it brings the database up to date before anything starts."""
    if "prepare" not in get_commands():
        return
    try:
        call_command("prepare", verbosity=0)
    except DatabaseFault as error:
        raise GatewayError(f"cannot prepare the database: {describe_failure(error)}") from error
    except (CommandError, OSError) as error:
        raise GatewayError(f"cannot prepare the database: {error}") from error
    finally:
        connections.close_all()


async def require_layers() -> None:
    """Raises GatewayError if a channel layer cannot be used: a wrong address should show now, not in a dashboard.

    A layer that goes away later is no reason to stop: readings are stored without it.
    """
    try:
        await check_layers()
    except (InvalidChannelLayerError, LayerUnavailableError) as error:
        raise GatewayError(str(error)) from error


def spare_what_stays() -> None:
    """Adapts the garbage collector to a server: a million objects that stay, and bursts of young ones.

    By default it examines what waits for a commit again and again: up to 15 % of the processor time under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 10)


class Supervisor:
    """Starts an application and its servers, waits for the signal to stop, and stops them."""

    def __init__(self, loaded: Loaded, application: Application, *, program: str) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self.application = application
        self.program = program
        self.lifecycle = Lifecycle()
        self._stopping = asyncio.Event()
        self._failures: list[str] = []

    async def run(self) -> None:
        """The whole life, in order. Raises GatewayError if a step fails, or if the application's lifespan ends."""
        self._watch_signals()
        await require_layers()
        async with AsyncExitStack() as started:
            started.push_async_callback(close_connections)
            state = await started.enter_async_context(self._application_started())
            listeners = make_listeners(self.config.listeners)
            servers = make_servers(self.application, listeners, state, self.config.protocols)
            started.push_async_callback(self._close, servers)
            await self._start(servers)
            await started.enter_async_context(renewed(chain.from_iterable(server.listeners for server in servers)))
            self.lifecycle.servers = servers
            await started.enter_async_context(relaying(servers))
            commands = ChainMap(*(dict(server.commands()) for server in servers))
            await started.enter_async_context(control.listening(self.config.data_dir, commands))
            await self._announce(servers)
            spare_what_stays()
            self.lifecycle.is_ready = True

            await self._stopping.wait()

            self.lifecycle.is_ready = False
            for server in servers:
                server.stop_accepting()
        logger.info("stopped")
        if self._failures:
            raise GatewayError("; ".join(self._failures))

    def stop(self) -> None:
        """Begins the stop; called again, ends the process at once: a second signal means: now."""
        if self._stopping.is_set():
            _give_up("told to stop twice: ending without saying goodbye")
        logger.info("stopping; connections have %g s to end", self.config.server.shutdown_timeout_s)
        self._stopping.set()

    def _fail(self) -> None:
        self._failures.append("the application's background work ended; see the log above")
        self._stopping.set()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    @asynccontextmanager
    async def _application_started(self) -> AsyncIterator[dict[str, Any]]:
        """Gives the lifespan state that every scope gets a copy of."""
        lifespan = Lifespan(self.application, on_failure=self._fail)
        lifespan.state["lifecycle"] = self.lifecycle
        lifespan.state["data_dir"] = self.config.data_dir
        try:
            await lifespan.startup()
        except LifespanError as error:
            raise GatewayError(f"the application could not start: {error}") from error
        try:
            yield lifespan.state
        finally:
            await self._end_application(lifespan)

    async def _end_application(self, lifespan: Lifespan) -> None:
        try:
            async with asyncio.timeout(self.config.server.shutdown_timeout_s):
                await lifespan.shutdown()
        except TimeoutError:
            _give_up("the application did not end in time; what it had not acknowledged is not stored")
        except LifespanError as error:
            self._failures.append(f"the application could not end properly: {error}")

    async def _start(self, servers: Sequence[ProtocolServer]) -> None:
        for server in servers:
            try:
                await server.start()
            except OSError as error:
                raise GatewayError(_listening_failed(error)) from error
            except ValueError as error:
                raise GatewayError(f"cannot serve {server.protocol}: {error}") from error
            except CannotServeError as error:
                raise GatewayError(str(error)) from error

    async def _close(self, servers: Sequence[ProtocolServer]) -> None:
        try:
            async with asyncio.timeout(self.config.server.shutdown_timeout_s):
                results = await asyncio.gather(*(server.close() for server in servers), return_exceptions=True)
        except TimeoutError:
            logger.warning("connections did not end in time and were cut")
            return
        for server, result in zip(servers, results, strict=True):
            if isinstance(result, Exception):
                logger.error("the %s server could not end properly", server.protocol, exc_info=result)

    async def _announce(self, servers: Sequence[ProtocolServer]) -> None:
        addresses = bound_urls(self.config, servers)
        if "first_run" in get_commands():
            command = partial(call_command, "first_run", addresses=addresses, program=self.program)
            await asyncio.to_thread(_with_own_connections, command)
        for finding in review(self.loaded):
            logger.warning("%s", finding)
        page = self.config.server.public_url or local_url(addresses, ("http", "https"))
        if page:
            logger.info("pages: %s/", page)
        logger.info("ready: %s", " ".join(addresses))


def bound_urls(config: Config, servers: Sequence[ProtocolServer]) -> list[str]:
    """The addresses that the servers listen at, as URLs: "http://127.0.0.1:8000", "mqtts://[::1]:8883"."""
    urls = []
    for server in servers:
        if not server.listens:
            continue
        listeners = [listener for listener in config.listeners if listener.protocol == server.protocol]
        for listener, address in zip(listeners, server.addresses, strict=True):
            scheme = server.protocol + ("s" if listener.tls else "")
            urls.append(address if address.startswith("unix:") else f"{scheme}://{address}")
    return urls


def local_url(addresses: Sequence[str], schemes: Sequence[str]) -> str | None:
    """The first address with one of the schemes, as this machine reaches it."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme in schemes:
            wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")  # noqa: S104
            return f"{parts.scheme}://{wildcard}:{parts.port}" if wildcard else address
    return None


def _with_own_connections(command: Callable[[], Any]) -> None:
    """Runs a command in a thread of its own, and closes the connections that it opens; nobody else would."""
    try:
        command()
    finally:
        connections.close_all()


def _give_up(why: str) -> NoReturn:
    """Ends the process at once: Python would wait for its threads, which may wait for a database that is away."""
    logger.error("%s", why)
    logging.shutdown()
    os._exit(1)


def _listening_failed(error: OSError) -> str:
    text = error.strerror or str(error)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{text} (another gateway? see bind in [[listeners]])"
        case errno.EACCES:
            return f"{text} (ports below 1024 are root's; see bind in [[listeners]])"
        case _:
            return text
