"""One HTTP request and its response: the ASGI `send` of an http scope."""

from collections.abc import Callable, Iterable
from typing import Protocol

from protocols.asgi import Event
from protocols.bytes_in_hand import Holding
from protocols.http.listener import ListenerContext
from protocols.http.refusals import log_refusal
from protocols.http.response import is_event_stream
from protocols.inbox import Inbox
from protocols.log_lines import describe
from protocols.runner import ApplicationRun, ClientDisconnectedError


class AskedInbox(Inbox):
    """The inbox of a request whose body is not read before the application first waits for it: then `ask` is called.

    So one that refuses by the head alone is sent no body by a client that waits to be asked (`Expect: 100-continue`),
    and says itself whose body is larger than any may be.
    """

    __slots__ = ("ask",)

    ask: Callable[[], None] | None

    async def wait(self) -> None:
        if self.ask is not None:
            ask, self.ask = self.ask, None
            ask()
        if not self.disconnected:
            await super().wait()


class ResponseWriter(Protocol):
    """The connection, as an exchange sees it."""

    context: ListenerContext

    def write(self, data: bytes) -> None:
        """Writes a part of the response."""

    async def drain(self) -> None:
        """Waits while the client takes less than it is sent."""

    def may_keep_alive(self) -> bool:
        """Whether another request can follow the one whose response begins now."""

    def end_response(self, exchange: "Exchange", data: bytes) -> None:
        """Writes the last part, and turns to the next request."""

    def application_ended(self, exchange: "Exchange", exception: BaseException | None) -> None:
        """The application has ended before the response is complete."""


class Exchange:
    """The response side of one request; knows how much of the body is still owed.

    `connection` is None once the response is complete or the client has gone; `disconnected` tells which.
    """

    __slots__ = (
        "_chunked",
        "_connections",
        "_headers",
        "_left",
        "connection",
        "disconnected",
        "event_stream",
        "head_only",
        "holding",
        "http_10",
        "inbox",
        "keep_alive",
        "log_line",
        "run",
        "sent_bytes",
        "started",
        "status",
    )

    run: ApplicationRun | None

    def __init__(
        self,
        connection: ResponseWriter,
        inbox: Inbox,
        *,
        head_only: bool,
        http_10: bool,
        keep_alive: bool,
    ) -> None:
        self.connection: ResponseWriter | None = connection
        self._connections = connection.context.connections
        self.run = None
        self.inbox = inbox
        self.holding: Holding | None = None
        """What counts for the body, until the application has ended: it may keep all of it."""
        self.head_only = head_only
        self.http_10 = http_10
        self.keep_alive = keep_alive
        self.status = 0
        self.started = False
        """Whether bytes of the response are on their way."""
        self.event_stream = False
        self.disconnected = False
        self.sent_bytes = 0
        self.log_line = ""
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._left: int | None = None
        self._chunked = False

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Waits while the client takes less than it is sent.

        Raises ClientDisconnectedError if the client has gone; RuntimeError for an event out of turn, ValueError for
        what must not be on the wire, KeyError for an event without its required keys.
        """
        connection = self.connection
        if connection is None:
            if self.disconnected:
                raise ClientDisconnectedError
            raise RuntimeError(f"{event['type']!r} sent after the response was complete")
        kind = event["type"]
        if kind == "http.response.body":
            if event.get("more_body", False):
                data = self._encode(event.get("body", b""), last=False)
                if data:
                    connection.write(data)
                await connection.drain()
            else:
                connection.end_response(self, self._encode(event.get("body", b""), last=True))
        elif kind == "http.response.start":
            if self.status:
                raise RuntimeError("'http.response.start' sent twice")
            status = self.status = event["status"]
            if status >= 400 and "log_reason" in event:
                self._note_refusal(status, event["log_reason"])
            self._headers = event.get("headers", ())
        else:
            raise RuntimeError(f"an http application cannot send {kind!r}")

    def _note_refusal(self, status: int, text: str) -> None:
        assert self.run is not None, "an application that sends is under way"
        scope = self.run.scope
        log_refusal(scope["client"], describe(scope), status, "application", text)

    def _encode(self, body: bytes, *, last: bool) -> bytes:
        """One body event as bytes on the wire, with the head before the first (ASGI: not sent earlier)."""
        if self.started:
            return self._frame(body, last=last)
        if not self.status:
            raise RuntimeError("'http.response.body' sent before 'http.response.start'")
        connection = self.connection
        assert connection is not None
        data, self._left, self._chunked, self.keep_alive = connection.context.encoder.encode(
            self.status,
            self._headers,
            body_length=len(body) if last else None,
            http_10=self.http_10,
            keep_alive=self.keep_alive and connection.may_keep_alive(),
        )
        self.started = True
        if not last:
            self.event_stream = is_event_stream(self._headers)
        self._headers = ()
        if self.head_only or self.status == 204 or self.status == 304:
            self.head_only = True
            return data
        return data + self._frame(body, last=last)

    def _frame(self, body: bytes, *, last: bool) -> bytes:
        if self.head_only:
            return b""
        size = len(body)
        self.sent_bytes += size
        if self._chunked:
            if not size:
                return b"0\r\n\r\n" if last else b""
            return b"%x\r\n%b\r\n%b" % (size, body, b"0\r\n\r\n" if last else b"")
        if self._left is not None:
            self._left -= size
            if self._left < 0 or (last and self._left):
                raise RuntimeError("the response body is not as long as its Content-Length")
        return body

    def finished(self, exception: BaseException | None) -> None:
        """The application has ended; what it left unanswered is answered for it."""
        if self.holding is not None:
            self.holding.set(0)
        run, self.run = self.run, None  # no cycle is left for the garbage collector
        connection, self.connection = self.connection, None
        if connection is not None:
            self.disconnected = True
            connection.application_ended(self, exception)
        if run is not None:
            self._connections.finished(run)

    def tell_disconnect(self) -> None:
        """Tells the application that the exchange is over, and gives it its time to end."""
        if self.run is not None:
            self.run.disconnect({"type": "http.disconnect"})

    def disconnect(self) -> None:
        """The client has gone."""
        self.connection = None
        self.disconnected = True
        self.tell_disconnect()

    def complete(self) -> None:
        """The response is complete: `receive` says so, and an application that still works may go on."""
        self.connection = None
        self.inbox.disconnect({"type": "http.disconnect"})
