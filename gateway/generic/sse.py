"""A consumer for server-sent events (WHATWG HTML, section 9.2), with groups as WebSocket consumers have them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gateway.exceptions import AcceptConnection, DenyConnection, InvalidChannelLayerError, StopConsumer
from gateway.generic.http import AsyncHttpConsumer, Headers
from gateway.generic.resume import ResumableGroups
from protocols.asgi import Event

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)

COMMENT = b":\n\n"


def encode_event(data: str, event: str | None = None, id: str | None = None, retry: int | None = None) -> bytes:  # noqa: A002
    """One event as it is sent: `data` of any number of lines, `retry` in milliseconds.

    Raises ValueError for an `event` or `id` that holds a line break or, `id`, a NUL, which no field can.
    """
    lines = []
    for name, value in (("event", event), ("id", id)):
        if value is not None:
            if any(character in value for character in "\r\n\0"):
                raise ValueError(f"the {name} of a server-sent event has no line break and no NUL: {value!r}")
            lines.append(f"{name}: {value}")
    if retry is not None:
        lines.append(f"retry: {retry:d}")
    text = data.replace("\r\n", "\n").replace("\r", "\n")
    lines += [f"data: {line}" for line in text.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


class AsyncSseConsumer(AsyncHttpConsumer, events=()):
    """Streams events to one EventSource; handlers of layer messages send them with `send_event`."""

    groups: Sequence[str] | None = None

    heartbeat_interval_s: ClassVar[float] = 15.0
    """How often a comment is sent, so that proxies keep the connection and a client that has gone is noticed."""

    _stream_open = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes and ignores anything; `groups` of the class are joined by each connection."""
        super().__init__(*args, **kwargs)
        self.groups = self.groups if self.groups is not None else []

    @property
    def last_event_id(self) -> str | None:
        """The `id` of the last event that the client has seen, if it is coming back."""
        for name, value in self.scope["headers"]:
            if name.lower() == b"last-event-id":
                return bytes(value).decode("utf-8", "replace")
        return None

    async def handle(self, body: bytes) -> None:
        """Joins the groups, then `connect`."""
        await self._gateway_join_groups()
        await self.__connect()

    async def _gateway_join_groups(self) -> None:
        if self.groups and not hasattr(self.channel_layer, "group_add"):
            raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
        for group in self.groups or ():
            await self.channel_layer.group_add(group, self.channel_name)  # type: ignore[union-attr]

    async def __connect(self) -> None:
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.deny()

    async def connect(self) -> None:
        """Called when a client connects; accepts it, unless overridden."""
        await self.accept()

    async def accept(self, headers: Headers | None = None) -> None:
        """Begins the stream; `headers` are added to those that it needs."""
        more = headers.items() if isinstance(headers, Mapping) else headers or ()
        await self.send_headers(headers=[*HEADERS, *more])
        await self.send_body(COMMENT, more_body=True)  # now the client knows that it is connected
        self._stream_open = True
        self.every(self.heartbeat_interval_s, self.__heartbeat)

    async def deny(self, status: int = 403, body: bytes = b"", *, log_reason: str | None = None) -> None:
        """Refuses the request. An EventSource does not try again after a status other than 200."""
        await self.send_response(status, body, log_reason=log_reason)

    async def send_event(
        self,
        data: str,
        event: str | None = None,
        id: str | None = None,  # noqa: A002
        retry: int | None = None,
    ) -> None:
        """Sends one event; see `encode_event`."""
        await self.send_body(encode_event(data, event, id, retry), more_body=True)

    async def close(self) -> None:
        """Ends the stream. The client connects again by itself."""
        self._stream_open = False
        await self.send_body(b"")

    async def __heartbeat(self) -> None:
        if not self._response_complete:
            await self.send_body(COMMENT, more_body=True)

    async def http_disconnect(self, message: Event) -> None:
        """Leaves the groups, then `disconnect`."""
        try:
            for group in self.groups or ():
                await self.channel_layer.group_discard(group, self.channel_name)  # type: ignore[union-attr]
        finally:
            await self.disconnect()
        raise StopConsumer

    async def mailbox_overflow(self, event: Event) -> None:
        """Ends the stream: the client comes back for a fresh start."""
        await self.close()


class AsyncResumableSseConsumer(ResumableGroups, AsyncSseConsumer, events=()):
    """Gives a client that comes back what was sent to its groups meanwhile, if `group_log().send` has sent it.

    Each event carries the cursor as its `id`, which an EventSource returns as Last-Event-ID.
    """

    async def handle(self, body: bytes) -> None:
        """`connect`, then joins the groups and gives the handlers what the client has not seen."""
        await super().handle(body)
        if self._stream_open:
            await self.resume(self.groups or (), self.last_event_id)
            await self.send_body(f"id: {self.cursor}\n\n".encode(), more_body=True)

    async def _gateway_join_groups(self) -> None:
        pass  # when the stream is open, which the events that were missed are sent into

    async def send_event(
        self,
        data: str,
        event: str | None = None,
        id: str | None = None,  # noqa: A002
        retry: int | None = None,
    ) -> None:
        """Sends one event, whose `id` is the cursor unless given."""
        await super().send_event(data, event, self.cursor if id is None else id, retry)

    async def group_gap(self, event: Event) -> None:
        """Sends an event "gap" that names the group, to a page that then fetches a fresh state; may be overridden."""
        await self.send_event(json.dumps({"group": event["group"]}), event="gap")
