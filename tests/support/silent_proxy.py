"""A TCP proxy that can fall silent, as a network that swallows packets does: nothing is refused, nothing is reset."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SilentProxy:
    """Passes bytes on to a port of this machine until it is told not to; in a thread, so that any test may use it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.connections = 0
        """How many have been made so far."""
        self._is_deaf = False
        self._silent_up_to = 0
        """The connections up to this number are silent."""
        self._is_listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def silence_established(self) -> None:
        """The connections that there are carry nothing any more, in no direction; new ones work."""
        self._silent_up_to = self.connections

    def silence_all(self) -> None:
        """Nor do new ones: they are accepted, and that is all."""
        self._is_deaf = True

    def recover(self) -> None:
        """New connections work again; those that were silent stay so."""
        self.silence_established()
        self._is_deaf = False

    def run(self) -> None:
        """What the thread does."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    def stop(self) -> None:
        """Ends every connection, and the thread."""
        self._loop.call_soon_threadsafe(self._end.set)

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # also of a connection whose task had not begun
            writer.transport.abort()
        for _ in range(3):  # what was aborted is closed in the next pass
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self._tasks.add(asyncio.create_task(self._serve(self.connections, reader, writer)))

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        self._writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(number, reader, far_writer))
                group.create_task(self._pass_on(number, far_reader, writer))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pass_on(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(65536)
            if self._is_deaf or number <= self._silent_up_to:
                await self._end.wait()
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def silent_proxy(target_port: int) -> Iterator[SilentProxy]:
    """A proxy to `target_port`, on a free port of its own."""
    proxy = SilentProxy(target_port)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    proxy._is_listening.wait()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
