"""A WebSocket run as an ASGI application, from its handshake on.

    connecting -> open -> ended
               -> denying (websocket.http.response) -> ended

The application has one disconnect event, whatever ended the connection. Sending after that raises
ClientDisconnectedError (ASGI 2.4), unless the application closed the connection itself: then its message is counted
and dropped, since code that closes and code that sends are often not the same.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from protocols import metrics
from protocols.asgi import Event, Scope
from protocols.bytes_in_hand import UNCOUNTED_BYTES
from protocols.http.aiohttp_parsers import RequestHead
from protocols.http.listener import AHEAD, ListenerContext
from protocols.http.options import PIPELINE_BYTES
from protocols.http.refusals import Refusal, log_refusal
from protocols.http.request import websocket_scope
from protocols.http.response import plain_response
from protocols.http.websocket_connection import WebSocketConnection, peer_log
from protocols.http.websocket_tunnel import open_tunnel
from protocols.http.websocket_wire import Offer, accept_response, may_close_with, message_frame, offer_of
from protocols.inbox import Inbox
from protocols.log_lines import describe
from protocols.masking import printable
from protocols.runner import ApplicationRun, ClientDisconnectedError

EVENT_OVERHEAD_BYTES: Final = 256
"""About what an event costs besides its payload, so that many empty messages fill an inbox too."""


def open_websocket(
    context: ListenerContext,
    transport: asyncio.Transport,
    head: RequestHead,
    scope: Scope,
    take_early_bytes: Callable[[], bytes],
) -> Refusal | None:
    """Gives the transport to a WebSocket. Returns a refusal, and leaves all as it was, if the handshake is bad.

    `scope` is that of the upgrade request; `take_early_bytes` gives what came behind it.
    """
    offer = offer_of(head)
    if isinstance(offer, Refusal):
        return offer
    tunnel = context.tunnels.get(scope["path"])
    if tunnel is not None:
        return open_tunnel(tunnel, context, transport, offer, scope, take_early_bytes)
    websocket = WebSocket(context, offer)
    websocket.attach(transport, scope["client"])
    transport.set_protocol(websocket)
    websocket.start(websocket_scope(scope, offer.subprotocols), take_early_bytes())
    return None


class WebSocket(WebSocketConnection):
    """One WebSocket and the application instance that serves it."""

    __slots__ = ("_denial", "_denied", "_early", "_left_by_us", "_offer", "inbox", "run")

    def __init__(self, context: ListenerContext, offer: Offer) -> None:
        super().__init__(context)
        self._offer: Offer | None = offer
        self._denial: Event | None = None
        self._denied = False
        self._early = b""
        self._left_by_us = False
        self.inbox = Inbox(pause=self.pause_reading, resume=self.resume_reading)
        self.run: ApplicationRun | None = None

    def start(self, scope: Scope, early_bytes: bytes) -> None:
        """Runs the application, which now has its time to accept."""
        self._early = early_bytes
        self._hold_early()
        self.inbox.feed({"type": "websocket.connect"}, 0)
        self.deadline = self.connections.now + self.context.options.websocket_handshake_timeout_s
        run = self.run = ApplicationRun(
            self.context.application, scope, self.send, inbox=self.inbox, on_finished=self._application_ended
        )
        self.connections.started(run)

    # From the client

    def data_received(self, data: bytes) -> None:
        """Frames; before the handshake is through, they wait."""
        if self._offer is None:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > PIPELINE_BYTES:
            self.reading.close(AHEAD)
        exceeded = self._hold_early()
        if exceeded is not None:
            self._refuse(Refusal(exceeded))

    def _hold_early(self) -> str | None:
        """Counts what has come before the answer to the handshake. Returns which bound that exceeds, if any."""
        size = len(self._early)
        return self.hold(size) if size > UNCOUNTED_BYTES else None

    def on_text(self, text: str) -> None:
        """A text message for the application."""
        self.inbox.feed({"type": "websocket.receive", "text": text}, len(text) + EVENT_OVERHEAD_BYTES)

    def on_binary(self, data: bytes) -> None:
        """A binary message for the application."""
        self.inbox.feed({"type": "websocket.receive", "bytes": data}, len(data) + EVENT_OVERHEAD_BYTES)

    def on_end(self, code: int, reason: str) -> None:
        """The application hears of it, once, and has its time to end."""
        self._offer = None
        if self.run is not None:
            self.run.disconnect({"type": "websocket.disconnect", "code": code, "reason": reason})

    def deadline_passed(self) -> None:
        """Also the application's time to accept."""
        if self._offer is None:
            super().deadline_passed()
        else:
            self._refuse(Refusal("handshake_timeout"), level=logging.WARNING)

    def shut_down(self) -> None:
        """1012, or 503 before the handshake is through."""
        if self._offer is None:
            super().shut_down()
        else:
            self._refuse(Refusal("shutting_down"))

    # From the application

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Waits while the client takes less than it is sent.

        Raises as `Exchange.send` does.
        """
        if self.is_open and event["type"] == "websocket.send":
            text = event.get("text")
            self.write(message_frame(event["bytes"] if text is None else text))
            self.context.counts.sent_messages += 1
        else:
            self._send_control(event)
        if not self.writable:
            await self.drain()

    def _send_control(self, event: Event) -> None:
        kind = event["type"]
        if self._offer is not None:
            self._answer_handshake(self._offer, kind, event)
        elif self._ended or self._denied:
            if self._left_by_us or kind == "websocket.close":
                metrics.websocket_sends_after_close.inc()
            else:
                raise ClientDisconnectedError
        elif kind == "websocket.close":
            code = event.get("code", 1000)
            code = 1000 if code is None else code
            if not may_close_with(code):
                raise ValueError(f"{code!r} is not a close code that an application can send (RFC 6455 §7.4)")
            self._left_by_us = True
            if self.is_open and "log_reason" in event:
                self._log_close(code, event["log_reason"])
            self.close(code, event.get("reason") or "")
        else:
            raise RuntimeError(f"a websocket application cannot send {kind!r} now")

    def _answer_handshake(self, offer: Offer, kind: str, event: Event) -> None:
        if kind == "websocket.http.response.body" and self._denial is not None:
            self._deny(event)
        elif self._denial is not None:
            raise RuntimeError(f"{kind!r} sent after 'websocket.http.response.start'")
        elif kind == "websocket.accept":
            self.write(
                accept_response(
                    self.context.encoder,
                    offer,
                    subprotocol=event.get("subprotocol"),
                    headers=event.get("headers", ()),
                )
            )
            self._offer = None
            self.context.counts.response(101)
            self.opened()
            early, self._early = self._early, b""
            self.hold(0)
            self.reading.open(AHEAD)
            if early:
                super().data_received(early)
        elif kind == "websocket.close":
            self._left_by_us = True
            self._refuse(Refusal("application"), event.get("log_reason") or event.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._denial = event
            if "log_reason" in event:
                self._log_refusal(logging.INFO, event["status"], "application", event["log_reason"])
        else:
            raise RuntimeError(f"{kind!r} sent before 'websocket.accept'")

    def _deny(self, event: Event) -> None:
        """The websocket.http.response extension: a response instead of 101."""
        start, body = self._denial, event.get("body", b"")
        assert start is not None
        last = not event.get("more_body", False)
        if not self._denied:
            self._denied = True
            head, *_ = self.context.encoder.encode(
                start["status"],
                start.get("headers", ()),
                body_length=len(body) if last else None,
                http_10=True,  # a body that is streamed ends with the connection
                keep_alive=False,
            )
            self.context.counts.response(start["status"])
            self.write(head)
        self.write(body)
        if last:
            self._left_by_us = True
            self._offer = None
            self._leave()

    def _application_ended(self, exception: BaseException | None) -> None:
        """Closes what the application left open: 1011 if it raised, and 500 in place of an answer."""
        if self._offer is not None:
            if self._denied:
                self.transport.abort()
            elif exception is None:
                self._refuse(Refusal("application_error"), "the application gave no answer", level=logging.ERROR)
            else:
                self._refuse(Refusal("application_error"), level=logging.DEBUG)  # what it raised has been logged
        elif exception is None:
            self.close(1000)
        else:
            self.close(1011, "internal error")
        run, self.run = self.run, None
        if run is not None:
            self.connections.finished(run)

    # An opening handshake that fails

    def _refuse(self, refusal: Refusal, log_text: str = "", *, level: int = logging.INFO) -> None:
        """`log_text` is what the log says in place of the refusal's text: the client need not know it."""
        if self._denied:
            self.transport.abort()
            return
        metrics.http_refused.labels(refusal.reason).inc()
        self._log_refusal(level, refusal.status, refusal.reason, log_text or refusal.text)
        self._offer = None
        self.write(plain_response(refusal.status, refusal.text, server=self.context.encoder))
        self.context.counts.response(refusal.status)
        self._leave()

    def _log_refusal(self, level: int, status: int, reason: str, text: str) -> None:
        assert self.run is not None, "it is refused before its application has ended"
        log_refusal(self.client, describe(self.run.scope), status, reason, text, level=level)

    def _log_close(self, code: int, text: str) -> None:
        assert self.run is not None, "an application that sends is under way"
        message = "closed %s with %d: %s"
        peer_log.info(self.client, message, describe(self.run.scope), code, printable(text))

    def _leave(self) -> None:
        self._early = b""
        self.hold(0)
        self.close_transport()
