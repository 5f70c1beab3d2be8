"""What the HTTP and WebSocket connections of one server share: a clock, a flush per loop pass, and the way out.

No connection has a timer or a flush callback of its own. Deadlines are attributes that one tick compares; bytes to
write are collected, and all connections that have some are written in one callback at the end of the loop pass, one
write each. The measure of it: a message to a thousand connections costs one callback, not a thousand.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from protocols import metrics
from protocols.log_lines import PeerLog
from protocols.masking import printable
from protocols.runner import ApplicationRun, ClientDisconnectedError
from protocols.sockets import peer_name

peer_log = PeerLog("gateway.http")

NEVER: Final = float("inf")
FLUSH_BYTES: Final = 64 * 1024
"""More than this is written at once, so that a sender that never waits meets the transport's back-pressure."""


def log_refusal(
    client: Sequence[Any] | None, who: str, status: int, reason: str, text: str, *, level: int = logging.INFO
) -> None:
    """Logs that `who` was refused with `status`, and why: `reason` is one of the labels of the counter, `text` may hold
    what the peer has chosen."""
    message = "refused %s with %d: %s" + (": %s" if text else "%s")
    peer_log.log(level, client, message, who, status, reason, printable(text), kind=f"refused %s with %d: {reason}")


class Connections:
    """The open connections of one protocol server and the application instances at work for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick_s: float) -> None:
        """`tick_s` is how exact deadlines are kept."""
        self.loop = loop
        self.now = loop.time()
        self.open: set[Connection] = set()
        self.runs: set[ApplicationRun] = set()
        self.stalled: dict[Connection, float] = {}
        self.closing = False
        self.responses: dict[int, int] = {}
        self.received_messages = 0
        self.sent_messages = 0
        self._tick_s = tick_s
        self._unwritten: list[Connection] = []
        self._emptied: asyncio.Future[None] | None = None
        self._timer = loop.call_later(tick_s, self._tick)

    def flush_soon(self, connection: "Connection") -> None:
        """Has `connection.flush()` called when the present pass of the loop is through."""
        if not self._unwritten:
            self.loop.call_soon(self._flush)
        self._unwritten.append(connection)

    def started(self, run: ApplicationRun) -> None:
        """Has `wait_until_empty` wait for the run, until `finished`."""
        self.runs.add(run)

    def finished(self, run: ApplicationRun) -> None:
        """The application instance has ended."""
        self.runs.discard(run)
        self._notice_empty()

    def closed(self, connection: "Connection") -> None:
        """The connection is gone, or another took over its transport."""
        self.open.discard(connection)
        self.stalled.pop(connection, None)
        self._notice_empty()

    async def wait_until_empty(self) -> None:
        """Returns when no connection is open and no application instance at work."""
        while self.open or self.runs:
            self._emptied = self.loop.create_future()
            await self._emptied

    def stop(self) -> None:
        """Ends the clock and writes the counts to the metrics."""
        self._timer.cancel()
        self._count()

    def _notice_empty(self) -> None:
        if self._emptied is not None and not self.open and not self.runs and not self._emptied.done():
            self._emptied.set_result(None)

    def _flush(self) -> None:
        connections = self._unwritten
        self._unwritten = []
        for connection in connections:
            connection.flush()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._tick_s, self._tick)
        self.expire(self.loop.time())
        self._count()

    def expire(self, now: float) -> None:
        """Does what is due at `now`, in the loop's time."""
        self.now = now
        for connection in [connection for connection in self.open if connection.deadline <= now]:
            connection.deadline = NEVER
            if connection.leaving:
                connection.transport.abort()
            else:
                connection.deadline_passed()
        for connection in [connection for connection, deadline in self.stalled.items() if deadline <= now]:
            connection.write_stalled()

    def _count(self) -> None:
        """Adds up here what is counted in plain integers on the way: a metric's lock costs more than a frame."""
        for status, count in self.responses.items():
            metrics.http_responses.labels(status).inc(count)
        self.responses.clear()
        if self.received_messages:
            metrics.websocket_messages.labels("received").inc(self.received_messages)
            self.received_messages = 0
        if self.sent_messages:
            metrics.websocket_messages.labels("sent").inc(self.sent_messages)
            self.sent_messages = 0


class Connection(asyncio.Protocol):
    """The writing half of a connection, and its place among the others."""

    __slots__ = (
        "_drained",
        "_out",
        "_out_bytes",
        "client",
        "connections",
        "deadline",
        "leaving",
        "transport",
        "write_timeout_s",
    )

    def __init__(self, connections: Connections, *, write_timeout_s: float) -> None:
        self.connections = connections
        self.write_timeout_s = write_timeout_s
        self.deadline = NEVER
        """When `deadline_passed` is called, in the loop's time. Set it from `connections.now`."""
        self.leaving = False
        """Whether nothing is left to do but to wait, up to the deadline, for the peer."""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.client: tuple[str, int] | None = None
        """Whose it is, for the log: the peer, or the client that it speaks for if it is a trusted proxy."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._drained: asyncio.Future[None] | None = None

    def attach(self, transport: asyncio.Transport, client: tuple[str, int] | None) -> None:
        """Takes over the transport."""
        self.transport = transport
        self.client = client
        self.connections.open.add(self)

    # -- what a subclass answers ------------------------------------------------------------------------------------

    def deadline_passed(self) -> None:
        """The deadline has passed; it is NEVER again."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """The server closes: end when what is in hand is done."""
        raise NotImplementedError

    # -- leaving ----------------------------------------------------------------------------------------------------

    def leave(self, timeout_s: float) -> None:
        """Cuts the connection if it is still there in `timeout_s`."""
        self.leaving = True
        self.deadline = self.connections.now + timeout_s

    def close_transport(self) -> None:
        """Closes when all that was written is sent, which the peer has `write_timeout_s` to take."""
        self.flush()
        self.transport.close()
        self.leave(self.write_timeout_s)

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Writes with whatever else comes in this pass of the loop."""
        if not self._out:
            self.connections.flush_soon(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands to the transport, as one piece, what has been collected."""
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        self.transport.write(data)

    async def drain(self) -> None:
        """Waits while the peer takes less than it is sent. Raises ClientDisconnectedError if it went meanwhile."""
        while self._drained is not None:
            await asyncio.shield(self._drained)

    def pause_writing(self) -> None:
        """The transport's buffer is over its high-water mark: `drain` waits, and the peer's time runs."""
        if self._drained is None:
            self._drained = self.connections.loop.create_future()
            self.connections.stalled[self] = self.connections.now + self.write_timeout_s

    def resume_writing(self) -> None:
        """The peer has taken enough."""
        self.connections.stalled.pop(self, None)
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def write_stalled(self) -> None:
        """The peer did not take what it was sent within `write_timeout_s`: it is cut off."""
        self.connections.stalled.pop(self, None)
        metrics.http_aborted.labels("slow_client").inc()
        message = "cut off %s: it did not take what it was sent within %g s"
        peer_log.warning(self.client, message, peer_name(self.client), self.write_timeout_s)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waits of senders; a subclass tells its application."""
        self.connections.closed(self)
        self._out.clear()
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_exception(ClientDisconnectedError())
            drained.exception()  # looked at here: there may be no sender that waits
