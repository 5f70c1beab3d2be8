"""Several consumers over one WebSocket.

A frame is JSON, and says which consumer it is from or for:

- both ways, `{"stream": NAME, "payload": CONTENT}`: what the consumer receives and sends as a frame of its own;
- to the client, `{"stream": NAME, "ready": true}`: the consumer has accepted; `connect` has run and its groups are
  joined. Frames that came before wait for it;
- to the client, `{"stream": NAME, "closed": CODE, "reason": TEXT}`: it has refused, closed, or failed (1011); the other
  streams go on;
- to the client, `{"stream": NAME, "error": "no such stream"}`: a frame for a stream that is not there, or closed.

Each stream is one more application, run as a server runs it: with a scope, an inbox and a task of its own. So its
consumer is an ordinary one, with its own channel and groups, and gets its disconnect exactly once.
"""

import asyncio
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, cast

from gateway.consumer import AsyncConsumer
from gateway.generic.websocket import EVENTS, AsyncJsonWebsocketConsumer
from protocols.asgi import Application, Event
from protocols.inbox import Inbox
from protocols.runner import ApplicationRun

INVALID_FRAME = 1007
FAILED = 1011

CLOSE_TIMEOUT_S = 4.0
"""How long a consumer may take to end; below the time that the disconnect handler of the connection itself has."""


class _Stream:
    """One application behind the connection."""

    def __init__(self, name: str, owner: "AsyncJsonWebsocketDemultiplexer", news: asyncio.Event) -> None:
        """`news` is set when the stream is no longer full, or has closed."""
        self.name = name
        self.closed = False
        self.full = False
        self.inbox = Inbox(pause=self._pause, resume=self._resume)
        self._news = news
        self._owner = owner
        self._run: ApplicationRun | None = None

    @property
    def task(self) -> "asyncio.Task[None]":
        assert self._run is not None
        return self._run.task

    def start(self, application: Application) -> None:
        self.inbox.feed({"type": "websocket.connect"}, 0)
        self._run = ApplicationRun(
            application,
            {**self._owner.scope, "stream": self.name},
            self._send,
            inbox=self.inbox,
            on_finished=self._finished,
            close_timeout_s=CLOSE_TIMEOUT_S,
        )

    def disconnect(self, event: Event) -> None:
        """Ends the consumer; nothing more is sent for it."""
        self._set_closed()
        if self._run is not None:
            self._run.disconnect(event)

    async def _send(self, event: Event) -> None:
        """The `send` of the application."""
        if self.closed:
            return
        match event["type"]:
            case "websocket.accept":
                await self._owner.send_json({"stream": self.name, "ready": True})
            case "websocket.send":
                if event.get("text") is None:
                    raise ValueError(f"stream {self.name} takes frames of JSON text, not of bytes")
                await self._owner.send(text_data=_frame(self.name, event["text"]))
            case "websocket.close":
                await self._close(event.get("code", 1000), event.get("reason") or "")
            case other:
                raise ValueError(f"stream {self.name} cannot send {other}")

    async def _close(self, code: int, reason: str) -> None:
        self.disconnect({"type": "websocket.disconnect", "code": code, "reason": reason})
        await self._owner._gateway_stream_closed(self.name, code, reason)

    def _pause(self) -> None:
        self.full = True

    def _resume(self) -> None:
        self.full = False
        self._news.set()

    def _set_closed(self) -> None:
        self.closed = True
        self._news.set()

    def _finished(self, error: BaseException | None) -> None:
        """The application has ended; without having closed, if it is to blame."""
        if not self.closed:
            self._set_closed()
            code = 1000 if error is None else FAILED
            self._owner.post({"type": "stream.closed", "stream": self.name, "code": code})


class AsyncJsonWebsocketDemultiplexer(AsyncJsonWebsocketConsumer, events=(*EVENTS, "stream.closed")):
    """Runs the `applications` over one WebSocket, under the names that they have there.

    The connection is accepted by `connect`, as in any consumer, then all streams start. When the last of them has
    closed, the connection closes with its code. A subclass may authenticate in `connect`, and refuse there.
    """

    applications: ClassVar[Mapping[str, "Application | type[AsyncConsumer]"]] = {}
    """name -> a consumer class, or any ASGI application for WebSocket scopes."""

    __streams: dict[str, _Stream] = {}
    __news: asyncio.Event
    __accepted = False

    async def websocket_connect(self, message: Event) -> None:
        """Runs `connect`, then, if that accepted, starts the streams."""
        self.__streams = {}
        self.__news = asyncio.Event()
        await super().websocket_connect(message)
        if not self.__accepted or self._gateway_run.closed:
            return
        for name, application in self.applications.items():
            stream = self.__streams[name] = _Stream(name, self, self.__news)
            if isinstance(application, type):
                application = cast("type[AsyncConsumer]", application).as_asgi()
            stream.start(application)

    async def accept(self, *args: Any, **kwargs: Any) -> None:
        """Accepts the connection."""
        self.__accepted = True
        await super().accept(*args, **kwargs)

    async def websocket_receive(self, message: Event) -> None:
        """Gives a frame to the consumer of its stream; waits while any of them has too much to do."""
        try:
            content = json.loads(message.get("text") or "")
            name, payload = content["stream"], content["payload"]
            stream = self.__streams.get(name)
        except (ValueError, TypeError, LookupError, RecursionError):
            await self.close(INVALID_FRAME, 'a frame is {"stream": NAME, "payload": CONTENT}')
            return
        if stream is None or stream.closed:
            await self.send_json({"stream": name, "error": "no such stream"})
            return
        text = await self.encode_json(payload)
        stream.inbox.feed({"type": "websocket.receive", "text": text}, len(text))
        # One that does not keep up holds back all: they share one connection, and memory is bounded.
        while any(stream.full and not stream.closed for stream in self.__streams.values()):
            self.__news.clear()
            await self.__news.wait()

    async def websocket_disconnect(self, message: Event) -> None:
        """Ends every stream, waits for their consumers, then `disconnect`."""
        try:
            await self.__end_streams(message)
        finally:
            await super().websocket_disconnect(message)

    async def stream_closed(self, event: Event) -> None:
        """Tells the client of a consumer that ended without having closed its stream."""
        await self._gateway_stream_closed(event["stream"], event["code"], "")

    async def __end_streams(self, event: Event) -> None:
        for stream in self.__streams.values():
            stream.disconnect(event)
        if self.__streams:
            await asyncio.wait([stream.task for stream in self.__streams.values()])

    async def _gateway_stream_closed(self, name: str, code: int, reason: str) -> None:
        await self.send_json({"stream": name, "closed": code, "reason": reason})
        if all(stream.closed for stream in self.__streams.values()):
            await self.close(code)


@lru_cache(maxsize=1)
def _frame(name: str, text: str) -> str:
    """The frame for `text`, which a consumer sends in stream `name`; ValueError if it is not JSON. Remembers the last
    one, so that a group message to a thousand connections is made into a frame, and checked, once."""
    return json.dumps({"stream": name, "payload": json.loads(text)})
