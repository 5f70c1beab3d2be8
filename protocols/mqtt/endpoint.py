"""One MQTT connection on a transport: between the sans-I/O `Connection` and the application instance that serves it.

The way of a publish: `data_received` -> `Connection.receive` -> `Inbox.feed_many` -> the application -> `send` ->
`Connection.ack` -> `settle`. There is no task and no callback per packet: the acknowledgements that an application
gives in one pass of the loop leave in one write.
"""

import asyncio
import logging
from typing import Final, cast

from protocols import metrics
from protocols.admission import MAX_RATE
from protocols.asgi import Event
from protocols.mqtt.committer import HeldOutput
from protocols.mqtt.connection import Connection
from protocols.mqtt.description import describe, kind
from protocols.mqtt.hub import Hub, Site
from protocols.mqtt.packets import ReasonCode
from protocols.mqtt.rate import Rate
from protocols.mqtt.scope import mqtt_scope
from protocols.mqtt.states import End, State
from protocols.mqtt.trace import Tap
from protocols.mqtt.traffic import Counts
from protocols.runner import ApplicationRun, Inbox, printable
from protocols.sockets import client_address

logger = logging.getLogger("gateway.mqtt")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a closed connection may take to end: its last bytes to leave, and the client to close its side."""

HELD_HIGH_BYTES: Final = 64 * 1024
"""When more output than this waits for a commit, messages wait in the session and the socket is not read."""

_NEVER: Final = float("inf")

# Why a socket is not read, as bits of `Endpoint._unread`.
_INBOX_FULL, _CONGESTED, _UNANSWERED, _NOT_WRITABLE, _STOPPING, _UNCOMMITTED, _TOO_FAST = 1, 2, 4, 8, 16, 32, 64

_LOG_LEVELS: Final = {
    "client": logging.DEBUG,
    "lost": logging.DEBUG,
    "shutdown": logging.DEBUG,
    "protocol_error": logging.WARNING,
}


_NOTHING: Final = Counts(0, 0, 0, 0, 0)

_LINGERING: Final = frozenset({"protocol_error", "application", "operator"})
"""The ends by which we interrupt the client."""


class Endpoint(asyncio.Protocol):
    """Owns the transport, the `Connection` and the application instance of one client."""

    __slots__ = (
        "_answering",
        "_client",
        "_closing_for",
        "_counted",
        "_drained",
        "_ended",
        "_held",
        "_hub",
        "_lost",
        "_name",
        "_pause",
        "_rate",
        "_run",
        "_site",
        "_to_settle",
        "_too_many_connect",
        "_transport",
        "_unread",
        "abort_at",
        "connection",
        "opened_at",
    )

    def __init__(self, site: Site) -> None:
        self._site = site
        self._hub: Hub = site.hub
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.connection = Connection(site.hub.broker, site.options, self, now=site.hub.loop.time())
        self.abort_at = _NEVER
        """When the transport is cut, because nothing leaves it."""
        self._run: ApplicationRun | None = None
        self._name = ""
        self.opened_at = site.hub.loop.time()
        """In the loop's time."""
        self._unread = 0
        self._answering = False
        """Whether the connection is taking an acknowledgement, and what it has to write is looked at afterwards."""
        self._to_settle = False
        self._drained: asyncio.Future[None] | None = None
        self._ended = False
        self._held: HeldOutput | None = None
        self._closing_for: End | None = None
        """Why the transport is to be closed, as soon as what is held back has left."""
        self._lost = False
        self._counted = _NOTHING
        self._client: tuple[str, int] | None = None
        self._too_many_connect = False
        self._pause: asyncio.TimerHandle | None = None
        """Ends the time for which the client, which is too fast, is not read."""
        options = site.options
        self._rate: Rate | None = None
        if options.max_messages_per_s or options.max_bytes_per_s:
            self._rate = Rate(
                messages_per_s=options.max_messages_per_s, bytes_per_s=options.max_bytes_per_s, now=self.opened_at
            )

    # -- the transport ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio and uvloop have set TCP_NODELAY already: an acknowledgement never waits for another."""
        self._transport = cast(asyncio.Transport, transport)
        metrics.mqtt_connections.inc()
        self._hub.traffic.sockets += 1
        self._hub.open.add(self)
        self._client = client_address(transport)
        exceeded = self._site.admission.enter(self._client, self._hub.loop.time())
        if exceeded == MAX_RATE:
            self._too_many_connect = True
        elif exceeded is not None:
            metrics.mqtt_refused.labels(exceeded).inc()
            most = getattr(self._site.options, exceeded)
            logger.warning("refused %s: %s is %d", self._who(), exceeded, most)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Everything that `data` completes goes to the application in one step."""
        connection = self.connection
        self._hub.traffic.received_bytes += len(data)
        events = connection.receive(data, self._hub.time())
        if events:
            run = self._run
            if run is None:
                if self._too_many_connect:
                    self._refuse_for_now()
                    return
                run = self._start()
            run.inbox.feed_many(events, len(data))
            if connection.state is State.AUTHORIZING:
                self._stop_reading(_UNANSWERED)
        if connection.congested:  # also by what is no event: a publish that is sent again and again
            self._stop_reading(_CONGESTED)
        if self._rate is not None and not self._ended:
            self._slow_down(self._rate, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call of the transport."""
        self._lost = True
        self._site.admission.leave(self._client)
        if self._pause is not None:
            self._pause.cancel()
        metrics.mqtt_connections.dec()
        self.abort_at = _NEVER
        self._drop_held()
        self.connection.lost(self._hub.loop.time())
        self.settle()
        self._wake_senders()
        self._leave()

    def pause_writing(self) -> None:
        """The client takes less than it is sent: messages for it wait in its session, and it is not read."""
        self.connection.writable = False
        self.abort_at = self._hub.loop.time() + self._site.options.write_timeout_s
        self._stop_reading(_NOT_WRITABLE)

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self.abort_at = _NEVER
        if not self._held or self._held.size_bytes <= HELD_HIGH_BYTES:
            self.connection.resume_writing(self._hub.loop.time())
        self._read_on(_NOT_WRITABLE)
        if self.connection.writable:
            self._wake_senders()

    def _refuse_for_now(self) -> None:
        """Its CONNECT has come, and too many others: the application is not asked."""
        metrics.mqtt_refused.labels(MAX_RATE).inc()
        most = self._site.options.max_connects_per_s
        self.connection.close(
            ReasonCode.CONNECTION_RATE_EXCEEDED,
            "application",
            self._hub.loop.time(),
            text=f"more than {most} connections a second; come again later",
        )

    def _slow_down(self, rate: Rate, size: int) -> None:
        """Reads a client that is too fast no faster than it may be; in the end tells it to go."""
        now = self._hub.loop.time()
        pause_s, what = rate.received(publishes=self.connection.received_publishes, size=size, now=now)
        if not pause_s:
            return
        longest_s = self._site.options.max_slowed_s
        if rate.slowed_s(now) > longest_s:
            metrics.mqtt_slowed.labels("closed").inc()
            code = ReasonCode.MESSAGE_RATE_TOO_HIGH if what == "messages" else ReasonCode.QUOTA_EXCEEDED
            self.connection.close(code, "application", now, text=f"too many {what} a second for {longest_s:g} s")
            return
        if not self._unread & _TOO_FAST:
            metrics.mqtt_slowed.labels("paused").inc()
        self._stop_reading(_TOO_FAST)
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._hub.loop.call_later(pause_s, self._read_on, _TOO_FAST)

    def certificate_revoked(self) -> None:
        """The certificate of the client is on a revocation list that came after it connected."""
        now = self._hub.loop.time()
        why = "the certificate was revoked"
        self.connection.close(ReasonCode.NOT_AUTHORIZED, "application", now, text=why, with_will=False)

    # -- the connection ---------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """The connection has output, or has ended."""
        if self._answering:
            self._to_settle = True
        else:
            self._hub.settle_soon(self)

    def flush(self) -> None:
        """Writes what the connection has for the client, as one piece."""
        output = self.connection.output
        if output and not self._transport.is_closing():
            traffic = self._hub.traffic
            traffic.sent_packets += len(output)
            data = self.connection.take_output()
            traffic.sent_bytes += len(data)
            if self.connection.fence:
                self._hold(data)
            else:
                self._transport.write(data)

    def ask(self, event: Event) -> None:
        """The connection has a question to the application; it has one at a time, which makes the inbox no fuller."""
        if self._run is not None:
            self._run.inbox.feed(event, 0)

    def _hold(self, data: bytes) -> None:
        """Writes what promises something, or what follows it, when that is committed."""
        connection, committer, held = self.connection, self._hub.committer, self._held
        assert committer is not None
        if not held and connection.fence <= committer.journal.committed:
            connection.fence = 0
            self._transport.write(data)
            return
        if held is None:
            held = self._held = HeldOutput()
        held.add(connection.fence, data)
        committer.call_when_committed(self)
        if held.size_bytes > HELD_HIGH_BYTES:
            connection.writable = False
        if not connection.writable or committer.journal.failure is not None:
            self._stop_reading(_UNCOMMITTED)

    def committed(self) -> None:
        """What is held back may leave, or some of it."""
        committer, held = self._hub.committer, self._held
        assert committer is not None
        assert held is not None
        data = held.take(committer.journal.committed)
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if held:
            committer.call_when_committed(self)
            return
        self._held = None
        if self.connection.fence <= committer.journal.committed:
            self.connection.fence = 0
        if self._closing_for is not None:
            self._close_transport(self._closing_for)
            return
        if not self.connection.writable and not self._unread & _NOT_WRITABLE:
            self.connection.resume_writing(self._hub.loop.time())
            self._wake_senders()
        self._read_on(_UNCOMMITTED)

    def _drop_held(self) -> None:
        if self._held:
            assert self._hub.committer is not None
            self._hub.committer.forget(self)
        self._held = None

    def settle(self) -> None:
        """Writes what there is and, if the connection has ended, ends the transport and tells the application."""
        self.flush()
        end = self.connection.end
        if end is None or self._ended:
            return
        self._ended = True
        self.connection.output.clear()
        self._log(end)
        metrics.mqtt_closed.labels(end.reason, f"{end.reason_code:#04x}").inc()
        if self._run is not None:
            self._run.disconnect(end.event())
        if not self._lost:
            self.abort_at = self._hub.loop.time() + CLOSE_TIMEOUT_S
            if self._held:
                self._closing_for = end
            else:
                self._close_transport(end)

    def _close_transport(self, end: End) -> None:
        """Closes it; one that the client may still be sending on, in two steps. A socket that is closed with bytes
        unread is reset, and the reset overtakes what the client was to read: the reason why."""
        transport = self._transport
        if end.reason in _LINGERING and transport.can_write_eof() and not transport.is_closing():
            if self._unread:
                self._unread = 0
                transport.resume_reading()
            transport.write_eof()  # what comes is thrown away, until the client closes its side too
        else:
            transport.close()

    def deadline_passed(self, now: float) -> None:
        """That of the connection, or `abort_at`."""
        if self.abort_at <= now:
            self.abort_at = _NEVER
            if not self._ended:
                metrics.mqtt_aborted.labels("slow_client").inc()
                logger.warning("cut off %s: it took nothing for %g s", self._who(), self._site.options.write_timeout_s)
            self.abort()
        else:
            self.connection.check(now, reading=not self._unread)

    def abort(self) -> None:
        """Cuts the connection."""
        if not self._lost:
            self._transport.abort()

    # -- the application --------------------------------------------------------------------------------------------

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Raises ValueError, RuntimeError or KeyError for an event that is wrong."""
        connection = self.connection
        if event["type"] == "mqtt.ack":
            self._answer(event)
            if self._unread & _CONGESTED and not connection.congested:
                self._read_on(_CONGESTED)
            return
        connection.send(event, self._hub.loop.time())
        if self._unread & _UNANSWERED and connection.state in (State.CONNECTED, State.AUTHENTICATING):
            self._hub.traffic.connections += connection.state is State.CONNECTED
            self._take_held()
        while not connection.writable and not self._lost:
            if self._drained is None:
                self._drained = self._hub.loop.create_future()
            await asyncio.shield(self._drained)

    def _answer(self, event: Event) -> None:
        """Takes an acknowledgement. The last one that is due leaves at once, and with it those before: nothing else
        comes that could share the write, and the way through the loop is a seventh of what a lone publish costs."""
        connection = self.connection
        self._answering = True
        try:
            connection.ack(event, self._hub.time())
        finally:
            self._answering = False
        if self._to_settle:
            self._to_settle = False
            if connection.unanswered:
                self._hub.settle_soon(self)
            else:
                self.settle()

    def stop_reading(self) -> None:
        """The server stops: what has been read is still answered."""
        self._stop_reading(_STOPPING)

    def cancel(self) -> None:
        """Ends the application instance, which has had its time."""
        if self._run is not None:
            self._run.cancel()

    def _start(self) -> ApplicationRun:
        connect = self.connection.connect
        assert connect is not None
        self._name = connect.client_id
        # What the client sends before it is accepted stays, but for one read, in its socket.
        self._stop_reading(_UNANSWERED)
        inbox = Inbox(pause=self._pause_for_inbox, resume=self._resume_for_inbox)
        self._run = ApplicationRun(
            self._hub.application,
            mqtt_scope(connect, self._transport, self._site),
            self.send,
            inbox=inbox,
            on_finished=self._application_finished,
        )
        if self._hub.tracing:
            self.watch()
        return self._run

    def _take_held(self) -> None:
        """The client is accepted, or asked for its proof: what it has sent meanwhile counts now."""
        session = self.connection.session
        if session is not None:
            self._name = session.client_id
        if self._hub.tracing:
            self.watch()
        self._read_on(_UNANSWERED)
        self.data_received(b"")

    def _application_finished(self, exception: BaseException | None) -> None:
        self._run = None
        self.connection.application_ended(self._hub.loop.time(), failed=exception is not None)
        self._leave()

    def _leave(self) -> None:
        if self._lost and self._run is None:
            self.count()
            self._hub.gone(self)

    # -- back-pressure ----------------------------------------------------------------------------------------------

    def _pause_for_inbox(self) -> None:
        self._stop_reading(_INBOX_FULL)

    def _resume_for_inbox(self) -> None:
        self._read_on(_INBOX_FULL)

    def _stop_reading(self, why: int) -> None:
        if self._ended:
            return
        if not self._unread and not self._transport.is_closing():
            self._transport.pause_reading()
        self._unread |= why

    def _read_on(self, why: int) -> None:
        if self._unread == why and not self._transport.is_closing():
            self._transport.resume_reading()
        self._unread &= ~why

    def _wake_senders(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- what is known of it ----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Has the connection told to the traces of its client, under the name that it uses and under that it has."""
        connection, run = self.connection, self._run
        if run is None or connection.end is not None:
            return
        traces = self._hub.tracing.of(self._name, run.scope["client_id"])
        before = connection.tap
        if not traces:
            if before is not None:
                connection.watch(None)
            return
        tap = Tap(traces, self._name, self.where)
        connection.watch(tap)
        new = traces if before is None else [trace for trace in traces if trace not in before.traces]
        connect = connection.connect
        for trace in new:
            if connect is None:
                trace.add(self._name, tap.address, "opened", "", "is connected already")
            else:
                trace.add(self._name, tap.address, "in", kind(connect), describe(connect, payloads=trace.payloads))

    def count(self) -> None:
        """Adds what has happened since the last call to the counts of the hub."""
        connection, hub = self.connection, self._hub
        earlier = self._counted
        if (connection.received_packets, connection.sent_publishes) != (
            earlier.received_packets,
            earlier.sent_publishes,
        ):
            self._counted = connection.counts()
            hub.traffic.add(self._counted, earlier)
        if connection.unknown_acks:
            hub.unknown_acks += connection.unknown_acks
            connection.unknown_acks = 0

    def _log(self, end: End) -> None:
        level = _LOG_LEVELS.get(end.reason, logging.INFO)
        if logger.isEnabledFor(level):
            logger.log(level, "closed %s: %s, %#04x %s", self._who(), end.reason, end.reason_code, end.text)

    @property
    def where(self) -> str:
        """The client's address."""
        address = client_address(self._transport)
        return f"{address[0]}:{address[1]}" if address else "a local socket"

    def _who(self) -> str:
        where = self.where
        return f"{printable(self._name)} from {where}" if self._name else where
