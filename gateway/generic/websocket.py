"""Consumers for WebSocket connections: names and behaviour are those of channels.generic.websocket.

What is different: sending to a peer that has gone is a no-op that is counted
(`gateway_consumer_sends_after_close_total`), not an error; `deny` closes with a code that a browser can see, and
`deny_with` answers the handshake by any HTTP response.

The synchronous classes are twins, and stay: users of Channels override `websocket_connect` and call `super()` there
without awaiting it, which no shell of coroutines allows.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from asgiref.sync import async_to_sync

from gateway.consumer import AsyncConsumer, SyncConsumer
from gateway.exceptions import AcceptConnection, DenyConnection, InvalidChannelLayerError, StopConsumer
from protocols.asgi import Event

TRY_AGAIN_LATER = 1013
"""The close code of a consumer that falls behind under the mailbox policy "close"."""

EVENTS = ("websocket.connect", "websocket.receive", "websocket.disconnect")

Headers = Iterable[tuple[bytes, bytes]]


def accept_event(subprotocol: str | None, headers: Headers | None) -> Event:
    event: dict[str, Any] = {"type": "websocket.accept", "subprotocol": subprotocol}
    if headers:
        event["headers"] = list(headers)
    return event


def data_event(text_data: str | None, bytes_data: bytes | None) -> Event:
    if text_data is not None:
        return {"type": "websocket.send", "text": text_data}
    if bytes_data is not None:
        return {"type": "websocket.send", "bytes": bytes_data}
    raise ValueError("You must pass one of bytes_data or text_data")


def close_event(code: int | bool | None, reason: str | None) -> Event:
    event: dict[str, Any] = {"type": "websocket.close"}
    if code is not None and code is not True:
        event["code"] = code
    if reason:
        event["reason"] = reason
    return event


class _PeerState:
    """What both kinds of consumer know of the other end."""

    groups: Sequence[str] | None = None
    scope: Any
    channel_layer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes and ignores anything; `groups` of the class are joined by each connection."""
        self.groups = self.groups if self.groups is not None else []

    def _gateway_groups(self) -> Sequence[str]:
        if self.groups and not hasattr(self.channel_layer, "group_add"):
            raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
        return self.groups or ()


def denial_events(scope: Any, status: int, headers: Headers, body: bytes, log_reason: str | None) -> list[Event]:
    """What answers a handshake by an HTTP response: a plain refusal, 403, from a server that cannot send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        return [close_event(None, log_reason)]
    start: Event = {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}
    if log_reason is not None:
        start["log_reason"] = log_reason
    return [start, {"type": "websocket.http.response.body", "body": body}]


class WebsocketConsumer(_PeerState, SyncConsumer, events=EVENTS):
    """Base of WebSocket consumers whose methods run in a thread."""

    def websocket_connect(self, message: Event) -> None:
        """Joins the groups, then `connect`."""
        for group in self._gateway_groups():
            async_to_sync(self.channel_layer.group_add)(group, self.channel_name)
        try:
            self.connect()
        except AcceptConnection:
            self.accept()
        except DenyConnection as denial:
            self.close(reason=str(denial) or None)

    def connect(self) -> None:
        """Called when a client connects; accepts it, unless overridden."""
        self.accept()

    def accept(self, subprotocol: str | None = None, headers: Headers | None = None) -> None:
        """Accepts the connection."""
        self._gateway_send_event(accept_event(subprotocol, headers))

    def deny(self, code: int, reason: str | None = None) -> None:
        """Refuses the connection so that a browser sees why: by accepting and closing it with `code`.

        A connection closed before it is accepted is an HTTP 403, of which a browser shows code 1006 only.
        """
        self.accept()
        self.close(code, reason)

    def deny_with(
        self, status: int, headers: Headers = (), body: bytes = b"", *, log_reason: str | None = None
    ) -> None:
        """As AsyncWebsocketConsumer.deny_with."""
        for event in denial_events(self.scope, status, headers, body, log_reason):
            self._gateway_send_event(event)
        self._gateway_run.closed = True

    def websocket_receive(self, message: Event) -> None:
        """Gives a frame to `receive`."""
        if message.get("text") is not None:
            self.receive(text_data=message["text"])
        else:
            self.receive(bytes_data=message["bytes"])

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Called with each frame, text or binary; does nothing, unless overridden."""

    def send(  # type: ignore[override]  # the WebSocket API of Channels
        self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool | int = False
    ) -> None:
        """Sends a frame; text wins. `close`: True, or a code, closes the connection after it."""
        self._gateway_send_event(data_event(text_data, bytes_data))
        if close:
            self.close(close)

    def close(self, code: int | bool | None = None, reason: str | None = None) -> None:
        """Closes the connection, or refuses it if it is not yet accepted; then `reason` is for the server's log."""
        self._gateway_send_event(close_event(code, reason))
        self._gateway_run.closed = True

    def _gateway_send_event(self, event: Event) -> None:
        """Gives a websocket event to the server, unless the peer has gone."""
        if not self._gateway_run.peer_gone("websocket"):
            try:
                super().send(event)
            except OSError:  # how a server says that it has (ASGI www 2.4)
                self._gateway_run.closed = True

    def websocket_disconnect(self, message: Event) -> None:
        """Leaves the groups, then `disconnect`."""
        try:
            for group in self.groups or ():
                async_to_sync(self.channel_layer.group_discard)(group, self.channel_name)
        finally:
            self.disconnect(message["code"])
        raise StopConsumer

    def disconnect(self, code: int) -> None:
        """Called exactly once, when the connection has ended or the consumer failed; to be overridden."""

    def mailbox_overflow(self, event: Event) -> None:  # type: ignore[override]
        """Closes with 1013, try again later."""
        self.close(TRY_AGAIN_LATER)


class JsonWebsocketConsumer(WebsocketConsumer, events=()):
    """A WebsocketConsumer whose text frames are JSON."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        """Decodes the frame for `receive_json`."""
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        self.receive_json(self.decode_json(text_data), **kwargs)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Called with each decoded frame; does nothing, unless overridden."""

    def send_json(self, content: Any, close: bool | int = False) -> None:
        """Sends `content` encoded."""
        super().send(text_data=self.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text_data: str) -> Any:
        """The content of a frame."""
        return json.loads(text_data)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """The frame for `content`."""
        return json.dumps(content)


class AsyncWebsocketConsumer(_PeerState, AsyncConsumer, events=EVENTS):
    """Base of WebSocket consumers whose methods are coroutines."""

    async def websocket_connect(self, message: Event) -> None:
        """Joins the groups, then `connect`."""
        for group in self._gateway_groups():
            await self.channel_layer.group_add(group, self.channel_name)
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection as denial:
            await self.close(reason=str(denial) or None)

    async def connect(self) -> None:
        """Called when a client connects; accepts it, unless overridden."""
        await self.accept()

    async def accept(self, subprotocol: str | None = None, headers: Headers | None = None) -> None:
        """Accepts the connection."""
        await self._gateway_send_event(accept_event(subprotocol, headers))

    async def deny(self, code: int, reason: str | None = None) -> None:
        """Refuses the connection so that a browser sees why: by accepting and closing it with `code`.

        A connection closed before it is accepted is an HTTP 403, of which a browser shows code 1006 only.
        """
        await self.accept()
        await self.close(code, reason)

    async def deny_with(
        self, status: int, headers: Headers = (), body: bytes = b"", *, log_reason: str | None = None
    ) -> None:
        """Answers the handshake with an HTTP response, in `connect`; `log_reason` is for the server's log.

        For clients that are programs: a browser shows a script nothing of it. Under a server without the extension
        "websocket.http.response" it is a plain 403.
        """
        for event in denial_events(self.scope, status, headers, body, log_reason):
            await self._gateway_send_event(event)
        self._gateway_run.closed = True

    async def websocket_receive(self, message: Event) -> None:
        """Gives a frame to `receive`."""
        if message.get("text") is not None:
            await self.receive(text_data=message["text"])
        else:
            await self.receive(bytes_data=message["bytes"])

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Called with each frame, text or binary; does nothing, unless overridden."""

    async def send(  # type: ignore[override]  # the WebSocket API of Channels
        self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool | int = False
    ) -> None:
        """Sends a frame; text wins. `close`: True, or a code, closes the connection after it."""
        await self._gateway_send_event(data_event(text_data, bytes_data))
        if close:
            await self.close(close)

    async def close(self, code: int | bool | None = None, reason: str | None = None) -> None:
        """Closes the connection, or refuses it if it is not yet accepted; then `reason` is for the server's log."""
        await self._gateway_send_event(close_event(code, reason))
        self._gateway_run.closed = True

    async def _gateway_send_event(self, event: Event) -> None:
        """Gives a websocket event to the server, unless the peer has gone."""
        if self._gateway_run.peer_gone("websocket"):
            await asyncio.sleep(0)  # lets the end of the grace reach a handler that only sends
            return
        try:
            await self.base_send(event)
        except OSError:  # how a server says that it has (ASGI www 2.4)
            self._gateway_run.closed = True

    async def websocket_disconnect(self, message: Event) -> None:
        """Leaves the groups, then `disconnect`."""
        try:
            for group in self.groups or ():
                await self.channel_layer.group_discard(group, self.channel_name)
        finally:
            await self.disconnect(message["code"])
        raise StopConsumer

    async def disconnect(self, code: int) -> None:
        """Called exactly once, when the connection has ended or the consumer failed; to be overridden."""

    async def mailbox_overflow(self, event: Event) -> None:
        """Closes with 1013, try again later."""
        await self.close(TRY_AGAIN_LATER)


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer, events=()):
    """An AsyncWebsocketConsumer whose text frames are JSON."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        """Decodes the frame for `receive_json`."""
        if not text_data:
            raise ValueError("No text section for incoming WebSocket frame!")
        await self.receive_json(await self.decode_json(text_data), **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Called with each decoded frame; does nothing, unless overridden."""

    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Sends `content` encoded."""
        await super().send(text_data=await self.encode_json(content), close=close)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """The content of a frame."""
        return json.loads(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """The frame for `content`."""
        return json.dumps(content)
