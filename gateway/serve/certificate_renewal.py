"""Renews certificates while the gateway runs: reads them again on SIGHUP, and when their files have changed."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from protocols.server import Listener
from protocols.tls import ServerContext

logger = logging.getLogger("gateway.tls")

INTERVAL_S: Final = 5.0
"""Interval between two looks at the files. A changed file is read when it has not changed for so long."""


@asynccontextmanager
async def renewed(listeners: Iterable[Listener], *, interval_s: float = INTERVAL_S) -> AsyncIterator[None]:
    """While entered, new connections use the certificates that are in the files, and connections end whose certificates
    have been revoked. Files that cannot be used change nothing."""
    contexts = [each.ssl_context for each in listeners if isinstance(each.ssl_context, ServerContext)]
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)  # always: without a handler it ends the process
    task = loop.create_task(_watch(contexts, asked, interval_s), name="certificates")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(contexts: list[ServerContext], asked: asyncio.Event, interval_s: float) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s if contexts else None):
                await asked.wait()
        was_asked = asked.is_set()
        asked.clear()
        if was_asked:
            logger.info("told to read certificates again; %d listeners have some", len(contexts))
        for context in contexts:
            if await asyncio.to_thread(context.reload if was_asked else context.reload_if_changed):
                context.announce()
