"""Feeds an inbox from any ASGI `receive`: for servers other than ours, and where middleware has wrapped `receive`.

Here is what that takes to know of the events of any protocol: which ends a connection, how large one is.
"""

import asyncio
from typing import Any

from gateway.exceptions import StopConsumer
from protocols.asgi import Event, Receive
from protocols.inbox import Inbox
from protocols.mqtt import ReasonCode
from protocols.mqtt import events as mqtt_events

_OVERHEAD_BYTES = 256
_CONTENT_KEYS = ("text", "bytes", "body", "payload")


class ForeignReceive:
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


def is_disconnect(event: Event) -> bool:
    """Whether `event` is the last one of its connection, as http, websocket and mqtt name it."""
    return str(event.get("type", "")).endswith(".disconnect")


def size_bytes(event: Event) -> int:
    """What `event` takes of an inbox, roughly: its content and something for the rest."""
    return _OVERHEAD_BYTES + sum(len(event.get(key) or b"") for key in _CONTENT_KEYS)


def disconnect_event(protocol: str, cause: BaseException) -> Event:
    """The event that tells a consumer of its end when its connection did not send one.

    The codes say whose fault it was: the consumer stopped, its handler failed, the connection broke, or the server
    cancelled it.
    """
    event: dict[str, Any] = {"type": f"{protocol}.disconnect"}
    if protocol == "websocket":
        event |= {"code": _websocket_code(cause), "reason": ""}
    elif protocol == "mqtt":
        cancelled = isinstance(cause, asyncio.CancelledError)
        return mqtt_events.disconnect(
            reason_code=ReasonCode.SERVER_SHUTTING_DOWN if cancelled else ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
            reason="shutdown" if cancelled else "application",
        )
    return event


def _websocket_code(cause: BaseException) -> int:
    if isinstance(cause, StopConsumer):
        return 1000
    if isinstance(cause, asyncio.CancelledError):
        return 1012  # service restart
    if isinstance(cause, OSError):
        return 1006  # the connection broke
    return 1011
