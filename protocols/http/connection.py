"""HTTP/1.1 connections: requests in, in turn, each run as an ASGI application; the socket kept in step with them.

    waiting -> head -> body -> response -> waiting ...        (keep-alive)
                                   |-> lingering -> closed    (the client may still be sending)
                                   |-> another protocol       (upgrade)

One request is served at a time. Bytes that come ahead of its response wait as bytes, and beyond PIPELINE_BYTES in the
socket.

No client is waited for without a limit, whatever it drips: an idle connection has `keep_alive_s`, a head
`head_timeout_s` from its first byte, and a body `request_timeout_s`; and it may be `body_timeout_s` behind
`min_body_bytes_per_s`, of which chunk sizes, their extensions and trailers are no part. `deadline` is NEVER only while
it is the application's turn.
"""

import asyncio
import logging
from typing import Final

from protocols import metrics
from protocols.asgi import Scope
from protocols.bytes_in_hand import UNCOUNTED_BYTES, Holding
from protocols.connection_base import INBOX_FULL, NEVER
from protocols.http.aiohttp_parsers import BadRequestError, RequestHead, RequestParser
from protocols.http.exchange import AskedInbox, Exchange
from protocols.http.listener import AHEAD, ListenerConnection, ListenerContext
from protocols.http.options import MAX_HEAD_BYTES, PIPELINE_BYTES
from protocols.http.refusals import Refusal, log_refusal, peer_log
from protocols.http.request import http_scope, lowered, refusal_of, split_target
from protocols.http.response import plain_response
from protocols.http.websocket import open_websocket
from protocols.inbox import Inbox
from protocols.limits import MAX_CONNECTIONS
from protocols.log_lines import describe
from protocols.masking import redact_path
from protocols.runner import ApplicationRun, ClientDisconnectedError
from protocols.sockets import peer_name, server_address, tls_extension

access_logger = logging.getLogger("gateway.access")

LINGER_S: Final = 2.0
EVENT_OVERHEAD_BYTES: Final = 128

FRAMING_BYTES: Final = 16 * 1024
FRAMING_PER_BYTE: Final = 8
"""How much of a chunked body may be framing: so much, and so many bytes for each byte of the body. (Chunks of one byte
have five.)"""

LATER: Final = ((b"retry-after", b"5"),)

_BODY_REFUSED: Final = 4
"""A reason not to read: the body is larger than any may be, which the application is let say first."""


class HttpConnection(ListenerConnection):
    """One connection of an HTTP listener, until it ends or becomes a WebSocket."""

    __slots__ = (
        "_ahead",
        "_begun",
        "_body_bytes",
        "_client",
        "_exchange",
        "_head_bytes",
        "_parser",
        "_paused_at",
        "_pipelined",
        "_reading_body",
        "_request_due",
        "_server",
        "_tls",
    )

    def __init__(self, context: ListenerContext) -> None:
        super().__init__(context)
        options = context.options
        self._parser = RequestParser(
            max_target_bytes=options.max_target_bytes,
            max_header_bytes=options.max_header_bytes,
            max_headers=options.max_headers,
        )
        self._exchange: Exchange | None = None
        self._reading_body = False
        self._body_bytes = 0
        self._request_due = NEVER
        self._paused_at = 0.0
        self._begun = False
        self._head_bytes = 0
        self._pipelined = b""
        self._ahead: Holding | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepts, or refuses with 503 above the listener's limit."""
        context = self.context
        super().connection_made(transport)
        self._client = self.client
        self._server = server_address(transport)
        self._tls = tls_extension(transport)
        metrics.http_connections.inc()
        exceeded = context.connection_limits.enter(self._client, self.connections.now)
        if exceeded is not None:
            reason = "too_many_connections" if exceeded == MAX_CONNECTIONS else exceeded
            self._refuse(Refusal(reason, f"{exceeded} is {getattr(context.options, exceeded)}"))
        elif self.connections.closing:  # it was accepted just before the sockets closed
            self.close_transport()
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the application, if one is at work; counts a body cut short."""
        super().connection_lost(exc)
        metrics.http_connections.dec()
        self.context.connection_limits.leave(self._client)
        if self._ahead is not None:
            self._ahead.set(0)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if self._reading_body:
                self._note_abort("body_cut_short", "it left before the end of its request body")
            exchange.disconnect()

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes: of the request in hand, or of one that waits its turn."""
        if self.leaving:
            return
        if not self._reading_body and (self._exchange is not None or not self.writable):
            self._pipelined += data
            if len(self._pipelined) > PIPELINE_BYTES:
                self.reading.close(AHEAD)
            if len(self._pipelined) > UNCOUNTED_BYTES:
                self._count_ahead()
            return
        self._feed(data)

    def deadline_passed(self) -> None:
        """The client was too slow: in the middle of a head, in the middle of a body, or in coming back."""
        if self._reading_body:
            self._refuse(Refusal("body_timeout"))
        elif self._begun:
            self._refuse(Refusal("head_timeout"))
        else:
            self.close_transport()

    def shut_down(self) -> None:
        """Ends an idle connection; lets a response end, and tells an endless one that it is over."""
        exchange = self._exchange
        if exchange is None:
            self.close_transport()
        elif exchange.event_stream:
            exchange.tell_disconnect()

    def give_up(self) -> None:
        """The server has waited long enough for the response: the application is told that it is over."""
        if self._exchange is not None:
            self._exchange.tell_disconnect()

    # Requests

    def _wait_for_request(self) -> None:
        self._begun = False
        self.deadline = self.connections.now + self.context.options.keep_alive_s

    def _feed(self, data: bytes) -> None:
        parser = self._parser
        try:
            head = parser.feed(data)
            if self._reading_body:
                self._read_body()
            elif head is not None:
                self._begin(head)
            elif data:
                self._read_head(len(data))
        except BadRequestError as error:
            self._refuse(Refusal(error.reason, error.rule))
            return
        if self._ahead is not None or len(data) > UNCOUNTED_BYTES:
            self._count_ahead()

    def _read_head(self, size: int) -> None:
        """So many bytes of a head that is not complete have come."""
        if not self._begun:
            self._begun = True
            self.deadline = self.connections.now + self.context.options.head_timeout_s
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(Refusal("head_too_large"))

    def _count_ahead(self) -> None:
        """Counts what is held besides the body of the request in hand: it is nobody's turn yet."""
        if self._ahead is None:
            self._ahead = Holding(self.context.bytes_in_hand, self._client)
        held = self._head_bytes + self._parser.kept_bytes + len(self._pipelined)
        exceeded = self._ahead.set(held)
        if exceeded is not None and not self.leaving:
            self._note_abort(exceeded, f"it sent {held} bytes ahead of their turn, and {exceeded} are in hand")
            self.transport.abort()

    def _begin(self, head: RequestHead) -> None:
        self.deadline = NEVER
        self._head_bytes = 0
        refusal = refusal_of(head)
        target = split_target(head.path)
        if refusal is not None or target is None:
            self._refuse(refusal or Refusal("bad_target"))
            return
        context = self.context
        headers = lowered(head.raw_headers)
        host = target[3]
        if host is not None:
            headers = [(b"host", host), *(header for header in headers if header[0] != b"host")]
        client, scheme = self._client, context.scheme
        if context.forwarding:
            client, scheme = context.forwarding.apply(headers, client, scheme)
            self.client = client
        scope = http_scope(
            head,
            target,
            headers,
            scheme=scheme,
            client=client,
            server=self._server,
            state=context.state,
            tls=self._tls,
        )
        if head.upgrade and head.headers.get("Upgrade", "").lower() == "websocket":
            self._upgrade(head, scope)
        else:
            self._run(head, scope)

    def _run(self, head: RequestHead, scope: Scope) -> None:
        has_body = self._parser.has_body
        if has_body:
            expected = head.headers.get("Expect")
            if expected is not None and expected.lower() != "100-continue":
                self._refuse(Refusal("expectation"), scope)
                return
            too_large = int(head.headers.get("Content-Length", "0")) > self.context.options.max_body_bytes
            asked = too_large or (expected is not None and head.version == (1, 1))
            inbox = (AskedInbox if asked else Inbox)(pause=self._pause_body, resume=self._resume_body)
        else:
            inbox = Inbox()
        exchange = self._exchange = Exchange(
            self,
            inbox,
            head_only=head.method == "HEAD",
            http_10=head.version != (1, 1),
            # llhttp skips to another protocol after any upgrade that a client offers, h2c for one
            keep_alive=not (head.should_close or head.upgrade),
        )
        if self.context.options.access_log:
            exchange.log_line = f'{peer_name(scope["client"])} "{head.method} {redact_path(scope["path"])}"'
        run = exchange.run = ApplicationRun(
            self.context.application, scope, exchange.send, inbox=inbox, on_finished=exchange.finished
        )
        self.connections.started(run)
        if has_body and too_large:
            assert isinstance(inbox, AskedInbox)
            self._reading_body = True
            self.reading.close(_BODY_REFUSED)
            inbox.ask = self._refuse_too_large
        elif has_body:
            self._body_bytes = 0
            self._reading_body = True
            now, options = self.connections.now, self.context.options
            self._request_due = now + (options.request_timeout_s or NEVER)
            self.deadline = min(now + options.body_timeout_s, self._request_due)
            if isinstance(inbox, AskedInbox):
                inbox.ask = self._ask_for_body
            self._read_body()
        else:
            inbox.feed({"type": "http.request", "body": b"", "more_body": False}, 0)

    def _upgrade(self, head: RequestHead, scope: Scope) -> None:
        if self._parser.has_body:
            self._refuse(Refusal("bad_handshake", "a handshake has no body"), scope)
            return
        refusal = open_websocket(self.context, self.transport, head, scope, self._parser.take_upgraded)
        if refusal is not None:
            self._refuse(refusal, scope)
            return
        # the WebSocket counts as this connection from here on
        self.connections.closed(self)

    # Request bodies

    def _read_body(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        data, complete = self._parser.take_body()
        size = self._body_bytes = self._body_bytes + len(data)
        if size > self.context.unchecked_bytes or not complete:
            refusal = self._refusal_of_part(exchange, size, complete=complete)
            if refusal is not None:
                self._refuse(refusal)
                return
        inbox = exchange.inbox
        if complete:
            self._reading_body = False
            self.deadline = NEVER
        elif not data and isinstance(inbox, AskedInbox) and inbox.ask is not None:
            self.deadline = NEVER
            return  # the client waits for us, not we for it
        else:
            options = self.context.options
            in_time = self.connections.now + options.body_timeout_s
            progress_s = len(data) / options.min_body_bytes_per_s
            self.deadline = min(self.deadline + progress_s, in_time, self._request_due)
        if isinstance(inbox, AskedInbox):
            inbox.ask = None
        if data or complete:
            inbox.feed(
                {"type": "http.request", "body": data, "more_body": not complete}, len(data) + EVENT_OVERHEAD_BYTES
            )

    def _refusal_of_part(self, exchange: Exchange, size: int, *, complete: bool) -> Refusal | None:
        """Whether a body of which `size` bytes have come is too much by now."""
        if size > self.context.options.max_body_bytes:
            return self._body_too_large()
        if size > UNCOUNTED_BYTES:
            exceeded = self._hold(exchange).set(size)
            if exceeded is not None:
                return Refusal(exceeded, headers=LATER)
        if not complete and self._parser.framing_bytes > FRAMING_BYTES + FRAMING_PER_BYTE * size:
            return Refusal("chunk_framing")
        return None

    def _body_too_large(self) -> Refusal:
        return Refusal("body_too_large", f"a body has at most {self.context.options.max_body_bytes} bytes")

    def _hold(self, exchange: Exchange) -> Holding:
        holding = exchange.holding
        if holding is None:
            assert exchange.run is not None
            holding = exchange.holding = Holding(self.context.bytes_in_hand, exchange.run.scope["client"])
        return holding

    def _ask_for_body(self) -> None:
        if self._exchange is not None and not self._exchange.started:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._await_body()

    def _refuse_too_large(self) -> None:
        if self._exchange is not None and not self._exchange.started:
            self._refuse(self._body_too_large())

    def _pause_body(self) -> None:
        self.deadline = NEVER
        self._paused_at = self.connections.now
        self.pause_reading()

    def _resume_body(self) -> None:
        if self._exchange is None or self.leaving or self.transport.is_closing():
            return
        if self._reading_body:
            self._request_due += self.connections.now - self._paused_at  # the application's time, not the client's
            self._await_body()
        self.resume_reading()

    def _await_body(self) -> None:
        """It is the client's turn now, after the application's."""
        self.deadline = min(self.connections.now + self.context.options.body_timeout_s, self._request_due)

    # Responses

    def may_keep_alive(self) -> bool:
        """Whether another request can follow the one whose response begins now."""
        return not self._reading_body and not self.connections.closing

    def end_response(self, exchange: Exchange, data: bytes) -> None:
        """Writes the end of a response and turns to the next request."""
        if self._out is not None:
            self.write(data)
            self.flush()
        else:
            self.transport.write(data)
        self._exchange = None
        exchange.complete()
        self.context.counts.response(exchange.status)
        if exchange.log_line:
            access_logger.info("%s %d %d", exchange.log_line, exchange.status, exchange.sent_bytes)
        if self._reading_body:
            self._end(reading_body=True)
        elif not exchange.keep_alive or self.connections.closing:
            self.close_transport()
        else:
            self._wait_for_request()
            if self.writable:
                self._next_request()

    def _next_request(self) -> None:
        data, self._pipelined = self._pipelined, b""
        if self.reading.closed_by:  # also by a body that the application has not taken
            self.reading.open(AHEAD | INBOX_FULL)
        self._feed(data)

    def resume_writing(self) -> None:
        """Turns to the next request, if it was held back until the client had taken the last response."""
        super().resume_writing()
        if self._exchange is None and not self.leaving:
            self._next_request()

    def application_ended(self, exchange: Exchange, exception: BaseException | None) -> None:
        """The application ended before its response did: 500, or the connection is cut so that nobody takes a part
        for the whole."""
        self._exchange = None
        over = exchange.inbox.disconnected
        if not exchange.started:
            if exception is None and not over:
                peer_log.error(self.client, "application returned without a response to %s", peer_name(self.client))
            self._answer(503 if over else 500)
            self._end(reading_body=self._reading_body)
        elif over and exchange.event_stream:
            self.close_transport()
        else:
            if not isinstance(exception, ClientDisconnectedError):
                self._note_abort("application_error", "the application ended before its response did")
            self.transport.abort()

    def _answer(self, status: int, text: str = "", extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """A response of the server's own, after which the connection ends."""
        self.write(plain_response(status, text, server=self.context.encoder, extra=extra))
        self.context.counts.response(status)

    def _refuse(self, refusal: Refusal, scope: Scope | None = None) -> None:
        """`scope` is that of the request, if its head has been read: it has the client that a trusted proxy tells."""
        metrics.http_refused.labels(refusal.reason).inc()
        if scope is None and self._exchange is not None and self._exchange.run is not None:
            scope = self._exchange.run.scope
        client = scope["client"] if scope else self._client
        who = describe(scope) if scope else f"a request of {peer_name(client)}"
        log_refusal(client, who, refusal.status, refusal.reason, refusal.text)
        exchange, self._exchange = self._exchange, None
        started = exchange is not None and exchange.started
        if exchange is not None:
            exchange.disconnect()
        if started:
            self.transport.abort()
            return
        self._answer(refusal.status, refusal.text, refusal.headers)
        self._end(reading_body=True)

    # The end

    def _end(self, *, reading_body: bool) -> None:
        """Ends the connection. A client that still sends its body might lose the response with a reset: it is listened
        to for a moment."""
        self._reading_body = False
        if reading_body and self.half_close():
            self.leave(LINGER_S)
        else:
            self.close_transport()

    def _note_abort(self, reason: str, text: str) -> None:
        metrics.http_aborted.labels(reason).inc()
        peer_log.info(self.client, "cut off %s: %s", peer_name(self.client), text, kind=f"cut off %s: {reason}")
