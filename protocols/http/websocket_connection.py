"""An open WebSocket: frames in and out, pings, and the closing handshake. Who uses it is a subclass's matter.

    open -> closing (one close frame sent, the peer's awaited) -> closed
         -> closing (the peer's received and answered)         -> closed

`on_end` is called once, when the first close frame goes either way or the connection breaks: nothing is received
after that.
"""

from typing import Final

from protocols import metrics
from protocols.bytes_in_hand import UNCOUNTED_BYTES, Holding
from protocols.connection_base import INBOX_FULL, NEVER
from protocols.http.aiohttp_parsers import BINARY, CLOSE, PING, TEXT, FrameReader
from protocols.http.listener import ListenerConnection, ListenerContext
from protocols.http.websocket_wire import PING_OPCODE, PONG_OPCODE, close_frame, frame, may_close_with
from protocols.log_lines import PeerLog
from protocols.sockets import client_address, peer_name

peer_log = PeerLog("gateway.websocket")

CLOSE_TIMEOUT_S: Final = 5.0
FAIL_TIMEOUT_S: Final = 2.0
SHUTDOWN_TIMEOUT_S: Final = 1.0

SLICE_BYTES: Final = 16 * 1024

_PING: Final = frame(PING_OPCODE, b"")

_BACKLOG: Final = 8
"""A reason not to read: what has been read of the socket comes first."""


class WebSocketConnection(ListenerConnection):
    """The wire of one WebSocket; begins when the opening handshake is through."""

    __slots__ = (
        "_ended",
        "_heard_at",
        "_holding",
        "_late_pong",
        "_message_bytes",
        "_message_due",
        "_opened",
        "_pinged_at",
        "_reader",
        "_unread",
        "is_open",
    )

    def __init__(self, context: ListenerContext) -> None:
        super().__init__(context)
        self.is_open = False
        self._reader: FrameReader | None = None
        self._opened = False
        self._unread = b""
        self._heard_at = 0.0
        self._pinged_at = float("-inf")
        self._message_bytes = -1
        self._message_due = NEVER
        self._holding: Holding | None = None
        self._ended = False
        self._late_pong: bytes | None = None

    # What a subclass does

    def on_text(self, text: str) -> None:
        """A text message has come."""
        raise NotImplementedError

    def on_binary(self, data: bytes) -> None:
        """A binary message has come."""
        raise NotImplementedError

    def on_end(self, code: int, reason: str) -> None:
        """The last thing that happens: the peer closed, we did, or the connection broke (1006)."""
        raise NotImplementedError

    # What asyncio calls

    def opened(self) -> None:
        """The 101 response is on its way: frames follow."""
        self.is_open = self._opened = True
        self._reader = FrameReader(
            self.context.collector, max_message_bytes=self.context.options.websocket_max_message_bytes
        )
        self._heard_at = self.connections.now
        self.deadline = self._heard_at + (self.context.options.websocket_ping_interval_s or NEVER)
        metrics.websocket_connections.inc()

    def data_received(self, data: bytes) -> None:
        """Reads frames, a slice at a time: one read of the socket can hold more of them than an inbox should."""
        self._heard_at = self.connections.now
        if self._unread:
            self._unread += data
        elif len(data) <= SLICE_BYTES:
            self._read(data)
        else:
            self._unread = data
            self._read_on()

    def resume_reading(self) -> None:
        """Reads on: first what has been read of the socket already, which may be too much again."""
        self.reading.close(_BACKLOG)
        self.reading.open(INBOX_FULL)
        self._read_on()
        self.reading.open(_BACKLOG)

    def _read_on(self) -> None:
        while self._unread and not self.reading.closed_by & INBOX_FULL:
            data = self._unread[:SLICE_BYTES]
            self._unread = self._unread[SLICE_BYTES:]
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Once either side has closed, only the peer's close frame still counts."""
        reader = self._reader
        if reader is None:
            return
        messages = reader.feed(data)
        count = 0
        for kind, payload, extra in messages:
            if not self.is_open and kind is not CLOSE:
                continue
            if kind is TEXT:
                count += 1
                self.on_text(payload)
            elif kind is BINARY:
                count += 1
                self.on_binary(payload)
            elif kind is PING:
                self._pong(bytes(payload))
            elif kind is CLOSE:
                self._close_received(payload, extra)
                break
        self.context.counts.received_messages += count
        unfinished = reader.unfinished_bytes
        if (unfinished >= 0 or self._message_bytes >= 0) and self.is_open:
            self._follow_message(unfinished, is_new=count > 0)
        failed = reader.failed
        if failed is not None and self._reader is not None:
            self.fail(failed.code, failed.reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what has not ended by a close frame."""
        super().connection_lost(exc)
        self.is_open = False
        self._reader = None
        self._unread = b""
        self.hold(0)
        self.context.connection_limits.leave(client_address(self.transport))
        metrics.http_connections.dec()
        if self._opened:
            metrics.websocket_connections.dec()
        self._end(1006, "")

    def resume_writing(self) -> None:
        """Answers the last ping that came while the peer took nothing (RFC 6455 §5.5.3: the last is enough)."""
        super().resume_writing()
        pong, self._late_pong = self._late_pong, None
        if pong is not None and self.is_open:
            self.write(frame(PONG_OPCODE, pong))

    # Keeping alive

    def deadline_passed(self) -> None:
        """Looks which of three times has come: that of the next ping, an interval after the peer was last heard of;
        that of the answer to the last one; and that by which more of a message must have come."""
        now, options = self.connections.now, self.context.options
        if self.reading.closed_by:  # what the peer says is not read: its silence is ours
            self._heard_at = now
            if self._message_due != NEVER:
                self._message_due = now + options.body_timeout_s
        ping_due = self._heard_at + (options.websocket_ping_interval_s or NEVER)
        answer_due = self._pinged_at + options.websocket_ping_timeout_s
        is_answered = self._heard_at >= self._pinged_at
        if self._message_due <= now:
            self.fail(1008, "a message that does not come on")
        elif not is_answered and answer_due <= now:
            self.fail(1011, "no answer to a ping")
        elif is_answered and ping_due <= now:
            self._pinged_at = now
            self.write(_PING)
            # the next ping may be due before the answer to this one is overdue
            due = now + min(options.websocket_ping_interval_s, options.websocket_ping_timeout_s)
            self.deadline = min(self._message_due, due)
        else:
            self.deadline = min(self._message_due, ping_due if is_answered else answer_due)

    def hold(self, size: int) -> str | None:
        """Counts so many bytes as held of this connection. Returns which bound that exceeds, if any."""
        if self._holding is None:
            if size <= UNCOUNTED_BYTES:
                return None
            self._holding = Holding(self.context.bytes_in_hand, self.client)
        return self._holding.set(size)

    def _follow_message(self, size: int, *, is_new: bool) -> None:
        """`size` bytes have come of a message that is not complete; -1 if there is none. `is_new`: another one is."""
        before, self._message_bytes = self._message_bytes, size
        exceeded = self.hold(max(size, 0))
        if size < 0:
            self._message_due = NEVER
        elif exceeded is not None:
            metrics.http_refused.labels(exceeded).inc()
            self.fail(1013, exceeded)
        else:
            options, now = self.context.options, self.connections.now
            in_time = now + options.body_timeout_s
            progress = max(size - max(before, 0), 0)
            began = is_new or before < 0
            due = in_time if began else self._message_due + progress / options.min_body_bytes_per_s
            self._message_due = min(due, in_time)
            self.deadline = min(self.deadline, self._message_due)

    def _pong(self, payload: bytes) -> None:
        if self.writable:
            self.write(frame(PONG_OPCODE, payload))
        else:
            self._late_pong = payload

    # Closing

    def close(self, code: int = 1000, reason: str = "", *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Begins the closing handshake (RFC 6455 §7.1.2); does nothing if it has begun."""
        if not self.is_open:
            return
        self.is_open = False
        self.write(close_frame(code, reason))
        self.flush()
        self.leave(SHUTDOWN_TIMEOUT_S if self.connections.closing else timeout_s)
        self.resume_reading()
        self._end(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Closes for a fault of the peer: what it sends now is not read any more (RFC 6455 §7.1.7).

        Our half ends at once, but the peer's bytes are still taken from the socket for a moment: closing on them would
        reset the connection, and the peer might not get to see the code.
        """
        if not self.is_open:
            return
        message = "closed the WebSocket of %s with %d: %s"
        peer_log.info(self.client, message, peer_name(self.client), code, reason)
        self.close(code, reason, timeout_s=FAIL_TIMEOUT_S)
        self._reader = None
        self.half_close()

    def shut_down(self) -> None:
        """The server restarts: 1012 tells clients to come back, and none is waited for long."""
        self.close(1012, "service restart")
        self.leave(SHUTDOWN_TIMEOUT_S)

    def _close_received(self, code: int, reason: str) -> None:
        if code and not may_close_with(code):
            self.fail(1002, "invalid close code")
            return
        if self.is_open:
            self.is_open = False
            self.write(close_frame(code or None))
            self._end(code or 1005, reason)
        self._reader = None
        self.close_transport()

    def _end(self, code: int, reason: str) -> None:
        if not self._ended:
            self._ended = True
            if self._opened:
                metrics.websocket_closed.labels(code if code < 3000 else "application").inc()
            self.on_end(code, reason)
