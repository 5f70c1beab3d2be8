"""A consumer for HTTP requests: names and behaviour are those of channels.generic.http, and long polling works."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from gateway.consumer import AsyncConsumer
from gateway.exceptions import StopConsumer
from gateway.metrics import consumer_bodies_too_large, consumer_sends_after_close
from protocols.asgi import Event, Scope

Headers: TypeAlias = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]


class AsyncHttpConsumer(AsyncConsumer, events=("http.request", "http.disconnect")):
    """Answers one request.

    It lives until its response is complete, however many handlers that takes, or the client has left. So `handle` may
    send the headers and a first part with `more_body=True` and return, and messages from a channel layer send the rest:
    long polling. It also ends when `handle` returns and no response was begun. While `handle` runs, no message is
    handled; and it is cancelled `disconnect_grace_s` after the client has left, unless its response is complete.

    `before_body` is called first, when nothing but the head of the request has been taken: who may not send a body is
    refused there, before anybody holds it.
    """

    max_body_bytes: ClassVar[int | None] = 16 * 1024 * 1024
    """The largest request body that is read into memory for `handle`; for a larger one `body_too_large` is called, and
    before it is read if Content-Length tells."""

    __response_begun = False
    client_has_left = False
    """Whether the client has gone before something of the response was sent, as far as that is known."""
    _response_complete = False
    __handled = False
    __body_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes and ignores anything."""
        self.body: list[bytes] = []

    async def send_headers(
        self, *, status: int = 200, headers: Headers | None = None, log_reason: str | None = None
    ) -> None:
        """Begins the response. Headers are pairs of bytes, or a mapping; `log_reason` says to the log of our server why
        a request is refused (status 400 or more)."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        event: Event = {"type": "http.response.start", "status": status, "headers": pairs}
        if log_reason is not None:
            event["log_reason"] = log_reason
        await self.send(event)

    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Sends a part of the body: the last one, unless `more_body`."""
        assert isinstance(body, bytes), "Body is not bytes"
        await self.send({"type": "http.response.body", "body": body, "more_body": more_body})

    async def send_response(self, status: int, body: bytes, **kwargs: Any) -> None:
        """Sends a whole response; `headers` and `log_reason` as in `send_headers`."""
        await self.send_headers(status=status, **kwargs)
        await self.send_body(body)

    async def before_body(self) -> None:
        """Called once, before the body is read; to be overridden. If it sends a whole response, the body is not read
        and `handle` is not called."""

    async def body_too_large(self) -> None:
        """Called in the place of `handle` when the body is larger than `max_body_bytes`; answers with 413."""
        why = f"a body has at most {self.max_body_bytes} bytes"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await self.send_response(413, f"{why}\n".encode(), headers=headers, log_reason=why)

    async def handle(self, body: bytes) -> None:
        """Called with the whole body of the request; to be overridden."""
        raise NotImplementedError("Subclasses of AsyncHttpConsumer must provide a handle() method.")

    async def disconnect(self) -> None:
        """Called exactly once, when the response is complete, the client has left or the consumer failed."""

    async def http_request(self, message: Event) -> None:
        """Collects the body and gives it to `handle`."""
        body = message.get("body", b"")
        self.__body_bytes += len(body)
        await self.__bound(self.__body_bytes)
        self.body.append(body)
        if not message.get("more_body"):
            await self.handle(b"".join(self.body))
            self.__handled = True

    async def _gateway_before_events(self) -> None:
        await self.before_body()
        if self._response_complete:
            raise StopConsumer
        await self.__bound(_content_length(self.scope))

    async def __bound(self, body_bytes: int) -> None:
        if self.max_body_bytes is not None and body_bytes > self.max_body_bytes:
            self.body.clear()
            consumer_bodies_too_large.inc()
            await self.body_too_large()
            raise StopConsumer

    async def http_disconnect(self, message: Event) -> None:
        """Calls `disconnect`."""
        await self.disconnect()
        raise StopConsumer

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message`, then ends the consumer if it has nothing left to send."""
        await super().dispatch(message)
        if self.__handled and (self._response_complete or not self.__response_begun):
            raise StopConsumer

    async def send(self, message: Event) -> None:
        """Gives an event to the server, unless the client has left; notes how far the response is."""
        self.__response_begun = True
        try:
            if self._gateway_run.inbox.disconnected:
                self.client_has_left = True
                consumer_sends_after_close.labels("http").inc()
                await asyncio.sleep(0)  # lets the end of the grace reach a handler that only sends
            else:
                await self.base_send(message)
        except OSError:  # how a server says that the client has left (ASGI www 2.4)
            self.client_has_left = True
            consumer_sends_after_close.labels("http").inc()
        self._response_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._response_complete:
            self._gateway_run.grace_s = None


def _content_length(scope: Scope) -> int:
    """What the head says of the body's length; 0 if it says nothing."""
    for name, value in scope.get("headers", ()):
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:19] or b"0")  # more digits say nothing else than too much
    return 0
