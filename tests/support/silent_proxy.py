"""A TCP proxy that can fall silent, as a network that swallows packets does: nothing is refused, nothing is reset."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SilentProxy:
    """Passes bytes on to a port of this machine until it is told not to."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.connections = 0
        """How many have been made so far."""
        self._is_deaf = False
        self._silenced: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def silence_established(self) -> None:
        """The connections that there are carry nothing any more, in no direction; new ones work."""
        for silenced in self._silenced:
            silenced.set()

    def silence_all(self) -> None:
        """Nor do new ones: they are accepted, and that is all."""
        self._is_deaf = True
        self.silence_established()

    def recover(self) -> None:
        """New connections work again; those that were silenced stay so."""
        self._is_deaf = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        silenced = asyncio.Event()
        self._silenced.append(silenced)
        if self._is_deaf:
            silenced.set()
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, far_writer, silenced))
                group.create_task(_pass_on(far_reader, writer, silenced))
        except* OSError:
            pass
        finally:
            writer.close()
            if far_writer is not None:
                far_writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silenced: asyncio.Event) -> None:
    while data := await reader.read(65536):
        if silenced.is_set():
            await asyncio.Event().wait()
        writer.write(data)
        await writer.drain()
    if silenced.is_set():
        await asyncio.Event().wait()
    writer.close()


@asynccontextmanager
async def silent_proxy(target_port: int) -> AsyncIterator[SilentProxy]:
    """A proxy to `target_port`, on a free port of its own."""
    proxy = SilentProxy(target_port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
