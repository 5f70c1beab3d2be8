"""Feeds an inbox from any ASGI `receive`: for servers other than ours, and where middleware has wrapped `receive`."""

import asyncio

from gateway.dispatch.events import disconnect_event, is_disconnect, size_bytes
from protocols.asgi import Receive
from protocols.inbox import Inbox


class Pump:
    """One task that reads events ahead of the handlers, so that a disconnect is seen while one runs.

    It stops reading while the inbox is above its high-water mark, so the server's own back-pressure works.
    """

    def __init__(self, protocol: str, receive: Receive) -> None:
        self._protocol = protocol
        self._receive = receive
        self._room = asyncio.Event()
        self._room.set()
        self._error: Exception | None = None
        self.inbox = Inbox(pause=self._room.clear, resume=self._room.set)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                await self._room.wait()
                event = await self._receive()
                if is_disconnect(event):
                    self.inbox.disconnect(event)
                    return
                self.inbox.feed(event, size_bytes(event))
        except Exception as error:
            self._error = error
            self.inbox.disconnect(disconnect_event(self._protocol, error))

    async def close(self) -> None:
        """Stops reading. Raises what `receive` raised, if it did."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._error is not None:
            raise self._error
