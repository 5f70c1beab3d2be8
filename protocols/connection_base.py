"""The plumbing of a connection, the same for every wire: a clock, one flush per loop iteration, the way in and out.

    Connections   the open connections of one server, and the application instances at work for them
    Connection    one of them: writes no faster than its peer takes it, and ends in order
    ReadGate      whether its socket is read, and each of the reasons why not

No connection has a timer or a flush callback of its own. Deadlines are attributes that one tick compares; bytes to
write are collected, and all connections that have some are written in one callback at the end of the loop iteration,
one write each. The measure of it: a message to a thousand connections costs one callback, not a thousand.

Whatever the wire, a peer that takes nothing of what it is sent is cut off in `write_timeout_s`, and one that the server
has said goodbye to in the time that it was given. docs/write-a-protocol-server.md has a wire that stands on this.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from protocols.runner import ApplicationRun, ClientDisconnectedError
from protocols.sockets import client_address

NEVER: Final = float("inf")
FLUSH_BYTES: Final = 64 * 1024
"""More than this is written at once, so that a sender that never waits meets the transport's back-pressure."""

INBOX_FULL: Final = 1
"""The reason for a closed `ReadGate` that every wire has: its application has enough in hand. Those of a wire itself
are further bits, 2, 4 and so on."""

_LONGEST_TICK_S: Final = 1.0
_SHORTEST_TICK_S: Final = 0.01

AnyConnection = TypeVar("AnyConnection", bound="Connection")


def _do_nothing(now: float) -> None:
    pass


class Connections(Generic[AnyConnection]):
    """The open connections of one server and the application instances at work for them."""

    loop: asyncio.AbstractEventLoop
    """The one that `start` was called in."""

    def __init__(self) -> None:
        self.now = 0.0
        """The time of the last tick, in the loop's seconds: what deadlines are set from."""
        self.open: set[AnyConnection] = set()
        self.runs: set[ApplicationRun] = set()
        self.closing = False
        """Whether `close` has begun."""
        self._on_tick: Callable[[float], None] = _do_nothing
        self._stalled: dict[Connection, float] = {}
        self._unwritten: list[Connection] = []
        self._emptied: asyncio.Future[None] | None = None
        self._tick_s = _LONGEST_TICK_S
        self._timer: asyncio.TimerHandle | None = None

    # The clock

    def start(self, *, shortest_timeout_s: float, on_tick: Callable[[float], None] = _do_nothing) -> None:
        """Starts the clock; deadlines are kept as exactly as a quarter of the shortest timeout. `on_tick(now)` is
        called when a tick has looked at them."""
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()
        self._on_tick = on_tick
        self._tick_s = max(_SHORTEST_TICK_S, min(_LONGEST_TICK_S, shortest_timeout_s / 4))
        self._timer = self.loop.call_later(self._tick_s, self._tick)

    def stop(self) -> None:
        """Stops the clock. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._tick_s, self._tick)
        self.expire(self.loop.time())

    def expire(self, now: float) -> None:
        """Does what is due at `now`, in the loop's time."""
        self.now = now
        for connection in [connection for connection in self.open if connection.deadline <= now]:
            connection.deadline = NEVER
            if connection.leaving:
                connection.transport.abort()
            else:
                connection.deadline_passed()
        for stalled in [connection for connection, deadline in self._stalled.items() if deadline <= now]:
            self.moved(stalled)
            stalled.write_stalled()
        self._on_tick(now)

    def stalled(self, connection: "Connection") -> None:
        """The peer takes nothing; the connection says for how long it may, before it has `moved`."""
        self._stalled[connection] = self.now + connection.write_timeout_s

    def moved(self, connection: "Connection") -> None:
        """The peer takes something again, or its time is no matter any more."""
        self._stalled.pop(connection, None)

    # The flush

    def flush_soon(self, connection: "Connection") -> None:
        """Has `connection.flush()` called when the present iteration of the loop is through."""
        if not self._unwritten:
            self.loop.call_soon(self._flush)
        self._unwritten.append(connection)

    def _flush(self) -> None:
        connections = self._unwritten
        self._unwritten = []
        for connection in connections:
            connection.flush()

    # The way out

    def started(self, run: ApplicationRun) -> None:
        """Has `wait_until_empty` wait for the run, until `finished`."""
        self.runs.add(run)

    def finished(self, run: ApplicationRun) -> None:
        """The application instance has ended."""
        self.runs.discard(run)
        self._notice_empty()

    def closed(self, connection: AnyConnection) -> None:
        """The connection is gone, or another took over its transport."""
        self.open.discard(connection)
        self.moved(connection)
        self._notice_empty()

    async def close(self) -> None:
        """Has each connection end in its own way, and returns when none is left and no application instance at work.
        Cancelling it cuts off those that are left."""
        self.closing = True
        for connection in list(self.open):
            connection.shut_down()
        try:
            await self.wait_until_empty()
        except asyncio.CancelledError:
            self.abort_all()
            raise
        finally:
            self.stop()

    async def wait_until_empty(self) -> None:
        """Returns when no connection is open and no application instance at work."""
        while self.open or self.runs:
            self._emptied = self.loop.create_future()
            await self._emptied

    def abort_all(self) -> None:
        """Cuts all connections, and ends all application instances, now."""
        for connection in list(self.open):
            connection.transport.abort()
        for run in list(self.runs):
            run.cancel()

    def _notice_empty(self) -> None:
        if self._emptied is not None and not self.open and not self.runs and not self._emptied.done():
            self._emptied.set_result(None)


class Readable(Protocol):
    """What a `ReadGate` pauses; every asyncio transport is one."""

    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ReadGate:
    """Whether a transport is read: while there is no reason not to.

    The reasons are bits that the wire names. They are plain integers, not an IntFlag, whose operators run in Python:
    a wire may look at `closed_by` with every packet.
    """

    __slots__ = ("_transport", "closed_by")

    def __init__(self, transport: Readable) -> None:
        self._transport = transport
        self.closed_by = 0
        """The reasons that there are; 0: it is open."""

    def close(self, reason: int) -> None:
        """There is this reason not to read."""
        if not self.closed_by and not self._transport.is_closing():
            self._transport.pause_reading()
        self.closed_by |= reason

    def open(self, reason: int) -> None:
        """There is none of these reasons any more. The transport of a tunnel delivers what it has in hand before it
        returns, and that may be a reason again: hence the order."""
        closed_by = self.closed_by
        left = self.closed_by = closed_by & ~reason
        if closed_by and not left and not self._transport.is_closing():
            self._transport.resume_reading()


class Connection(asyncio.Protocol):
    """One connection on its transport, and its place among the others. A wire adds `data_received`."""

    __slots__ = (
        "_drained",
        "_out",
        "_out_bytes",
        "client",
        "connections",
        "deadline",
        "leaving",
        "reading",
        "transport",
        "writable",
        "write_timeout_s",
    )

    reading: ReadGate

    def __init__(self, connections: "Connections[Any]", *, write_timeout_s: float) -> None:
        self.connections = connections
        self.write_timeout_s = write_timeout_s
        self.deadline = NEVER
        """When `deadline_passed` is called, in the loop's time. Set it from `connections.now`."""
        self.leaving = False
        """Whether nothing is left to do but to wait, up to the deadline, for the peer."""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.client: tuple[str, int] | None = None
        """Whose it is, for the log: the peer, or the client that it speaks for if it is a trusted proxy."""
        self.writable = True
        """Whether the peer takes what it is sent: the transport's buffer is not over its high-water mark."""
        self._out: list[bytes] | None = None
        self._out_bytes = 0
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        self.attach(cast(asyncio.Transport, transport), client_address(transport))

    def attach(self, transport: asyncio.Transport, client: tuple[str, int] | None) -> None:
        """Takes over the transport."""
        self.transport = transport
        self.reading = ReadGate(transport)
        self.client = client
        self.connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waits of senders; a wire tells its application."""
        self.end_writing()
        self.connections.closed(self)

    # When its time has come: what a wire does better, it overrides

    def deadline_passed(self) -> None:
        """The deadline has passed; it is NEVER again."""
        self.close_transport()

    def write_stalled(self) -> None:
        """The peer took nothing of what it was sent within `write_timeout_s`: it is cut off."""
        self.transport.abort()

    def shut_down(self) -> None:
        """The server closes: end when what is in hand is done."""
        self.close_transport()

    # Reading

    def pause_reading(self) -> None:
        """The inbox of the application is full."""
        self.reading.close(INBOX_FULL)

    def resume_reading(self) -> None:
        """It is empty again."""
        self.reading.open(INBOX_FULL)

    # Writing

    def write(self, data: bytes) -> None:
        """Writes with whatever else comes in this iteration of the loop."""
        out = self._out
        if out is None:  # an empty list would be 56 bytes of an idle connection
            self._out = [data]
            self.connections.flush_soon(self)
        else:
            out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands to the transport, as one piece, what has been collected."""
        out = self._out
        if out is None:
            return
        self._out = None
        self._out_bytes = 0
        self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def drain(self) -> None:
        """Waits while the peer takes less than it is sent. Raises ClientDisconnectedError if it goes meanwhile."""
        while not self.writable:
            await self.wait_for_room()

    async def wait_for_room(self) -> None:
        """Returns with the next `wake_senders`. Raises ClientDisconnectedError if the connection ends before."""
        if self._drained is None:
            self._drained = self.connections.loop.create_future()
        await asyncio.shield(self._drained)

    def wake_senders(self) -> None:
        """Those that wait for room have a look."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def pause_writing(self) -> None:
        """The transport's buffer is over its high-water mark: `drain` waits, and the peer's time runs."""
        self.writable = False
        self.connections.stalled(self)

    def resume_writing(self) -> None:
        """The peer has taken enough."""
        self.writable = True
        self.connections.moved(self)
        self.wake_senders()

    # Leaving

    def leave(self, timeout_s: float) -> None:
        """Cuts the connection if it is still there in `timeout_s`."""
        self.leaving = True
        self.deadline = self.connections.now + timeout_s

    def close_transport(self) -> None:
        """Closes when all that was written is sent, which the peer has `write_timeout_s` to take."""
        self.flush()
        self.transport.close()
        self.leave(self.write_timeout_s)

    def half_close(self) -> bool:
        """Ends our half, and takes from the socket what the peer still sends until it closes its own: a socket that is
        closed with bytes unread is reset, and the reset overtakes what the peer was to read last (RFC 9112 §9.6).

        The wire throws away what comes, and says with `leave` for how long. Returns False if the transport cannot, as
        one of TLS, or closes already: then it is for `close_transport`.
        """
        self.flush()
        transport = self.transport
        if transport.is_closing() or not transport.can_write_eof():
            return False
        self.reading.open(self.reading.closed_by)
        try:
            transport.write_eof()
        except OSError:  # the peer has reset the connection, and we have not read that far
            transport.abort()
        return True

    def end_writing(self) -> None:
        """There is nobody to write to any more: those that wait for room raise ClientDisconnectedError."""
        self.connections.moved(self)
        self.writable = True  # that nobody waits from now on
        self._out = None
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_exception(ClientDisconnectedError())
            drained.exception()  # looked at here: there may be no sender that waits
