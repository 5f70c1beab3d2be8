"""One MQTT connection on a transport: between the sans-I/O `Connection` and the application instance that serves it.

The way of a publish: `data_received` -> `Connection.receive` -> `Inbox.feed_many` -> the application -> `send` ->
`Connection.ack` -> `flush`. There is no task and no callback per packet: the acknowledgements that an application
gives in one iteration of the loop leave in one write, and not before what they promise is committed.

Long, for it is one class: what is read, what may leave and how it ends depend on each other in all of its sections.
"""

import asyncio
import logging
from typing import Final

from protocols import connection_base, metrics
from protocols.addresses import network_of
from protocols.asgi import Event
from protocols.connection_base import INBOX_FULL
from protocols.inbox import Inbox
from protocols.limits import MAX_RATE, MAX_RATE_OF_ADDRESS
from protocols.log_lines import Peer, PeerLog
from protocols.masking import printable
from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.commit_gate import CommitGate
from protocols.mqtt.connection import Connection, End, State
from protocols.mqtt.events import scope_of
from protocols.mqtt.rate import Rate
from protocols.mqtt.server_state import ListenerContext, ServerState
from protocols.mqtt.statistics import ConnectionCounts
from protocols.mqtt.trace import Tap, describe, kind
from protocols.runner import ApplicationRun

peer_log = PeerLog("gateway.mqtt")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a closed connection may take to end: its last bytes to leave, and the client to close its side."""

# The reasons not to read, besides INBOX_FULL.
CONGESTED: Final = 2
"""So many publishes or subscriptions wait for the application."""
UNANSWERED: Final = 4
"""The application has not said yet whether it accepts the client."""
NOT_WRITABLE: Final = 8
"""The client takes less than it is sent."""
STOPPING: Final = 16
UNCOMMITTED: Final = 32
"""What it was told waits for a commit."""
TOO_FAST: Final = 64

_LINGERING: Final = frozenset({"protocol_error", "application", "operator"})
"""The ends by which we interrupt the client: the transport is closed in two steps, so that the reason arrives."""

_LOG_LEVELS: Final = {
    "client": logging.DEBUG,
    "lost": logging.DEBUG,
    "shutdown": logging.DEBUG,
    "protocol_error": logging.WARNING,
}

_NOTHING: Final = ConnectionCounts(0, 0, 0, 0, 0)


class Endpoint(connection_base.Connection):
    """Owns the transport, the `Connection` and the application instance of one client. It is the sink of the
    connection's output."""

    __slots__ = (
        "_answering",
        "_commit_gate",
        "_context",
        "_counted",
        "_ended",
        "_name",
        "_pause",
        "_peer",
        "_rate",
        "_run",
        "_server_state",
        "_to_flush",
        "_too_many_connect",
        "_watches_answers",
        "connection",
        "opened_at",
    )

    def __init__(self, context: ListenerContext) -> None:
        options, server_state = context.options, context.server_state
        super().__init__(server_state.connections, write_timeout_s=options.write_timeout_s)
        self._context = context
        self._server_state: ServerState = server_state
        self.opened_at = now = server_state.time()
        """In the loop's time."""
        self.connection = Connection(server_state.broker, options, self, now=now)
        self._run: ApplicationRun | None = None
        self._name = ""
        self._peer: Peer = None
        """Whose share of the log it is: the address, and once it is known who has the session, that owner."""
        self._too_many_connect = ""
        """Which rate its connection has exceeded."""
        self._rate: Rate | None = None
        if options.max_messages_per_s or options.max_bytes_per_s:
            self._rate = Rate(messages_per_s=options.max_messages_per_s, bytes_per_s=options.max_bytes_per_s, now=now)
        self._pause: asyncio.TimerHandle | None = None
        """Ends the time for which the client, which is too fast, is not read."""
        self._answering = False
        """Whether the connection is taking an acknowledgement, and what it has to write is looked at afterwards."""
        self._to_flush = False
        self._watches_answers = False
        """Whether something waits for the application's answers: the socket to be read, or the server to stop."""
        self._commit_gate: CommitGate | None = None
        """What waits for a commit; None if nothing does."""
        self._counted = _NOTHING
        self._ended = False
        """Whether the end of the connection has been dealt with; what comes then is thrown away."""

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio and uvloop have set TCP_NODELAY already: an acknowledgement never waits for another."""
        super().connection_made(transport)
        metrics.mqtt_connections.inc()
        self._server_state.statistics.traffic.sockets += 1
        client = self._peer = self.client
        if client is not None:
            self.connection.address = network_of(client)
        exceeded = self._context.connection_limits.enter(client, self._server_state.time())
        if exceeded in (MAX_RATE, MAX_RATE_OF_ADDRESS):
            self._too_many_connect = exceeded
        elif exceeded is not None:
            metrics.mqtt_refused.labels(exceeded).inc()
            most = getattr(self._context.options, exceeded)
            peer_log.warning(self._peer, f"refused %s: {exceeded} is %d", self._who(), most)
            self.transport.abort()
            self.connection.lost(self._server_state.time())  # also for what a tunnel has read already

    def data_received(self, data: bytes) -> None:
        """Everything that `data` completes goes to the application in one step."""
        connection = self.connection
        self._server_state.statistics.traffic.received_bytes += len(data)
        events = connection.receive(data, self._server_state.time())
        if events:
            run = self._run
            if run is None:
                if connection.end is not None:  # with the CONNECT came what ended it
                    return
                if self._too_many_connect:
                    self._refuse_for_now()
                    return
                run = self._start()
            run.inbox.feed_many(events, len(data))
            if connection.state is State.AUTHORIZING:
                self._stop_reading(UNANSWERED)
        if connection.congested:  # also by what is no event: a publish that is sent again and again
            self._watches_answers = True
            self._stop_reading(CONGESTED)
        if self._rate is not None and not self._ended:
            self._slow_down(self._rate, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call of the transport."""
        self._context.connection_limits.leave(self.client)
        self._end_pause()
        metrics.mqtt_connections.dec()
        self._drop_held()
        self.connection.lost(self._server_state.time())
        self.flush()
        self.count()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends no more. The transport closes when its buffer is empty, which is given as long as at any
        other end."""
        self.connection.lost(self._server_state.time())
        self.flush()

    def _refuse_for_now(self) -> None:
        """Its CONNECT has come, and too many others: the application is not asked."""
        metrics.mqtt_refused.labels(self._too_many_connect).inc()
        most = self._context.options.max_connects_per_s
        self.connection.close(
            ReasonCode.CONNECTION_RATE_EXCEEDED,
            "application",
            self._server_state.time(),
            text=f"max_connects_per_s is {most}; come again later",
        )

    def certificate_revoked(self) -> None:
        """The certificate of the client is on a revocation list that came after it connected."""
        now = self._server_state.time()
        why = "the certificate was revoked"
        self.connection.close(ReasonCode.NOT_AUTHORIZED, "application", now, text=why, with_will=False)

    def check(self, now: float) -> None:
        """The deadline of the connection has passed."""
        self.connection.check(now, reading=not self.reading.closed_by)

    # Reading

    def stop_reading(self) -> None:
        """The server stops: what has been read is still answered."""
        self._watches_answers = True
        self._stop_reading(STOPPING)

    def pause_reading(self) -> None:
        """The inbox of the application is full."""
        self._stop_reading(INBOX_FULL)

    def _stop_reading(self, why: int) -> None:
        if not self._ended:
            self.reading.close(why)

    def _slow_down(self, rate: Rate, size: int) -> None:
        """Reads a client that is too fast no faster than it may be; in the end tells it to go."""
        now = self._server_state.time()
        pause_s, what = rate.received(publishes=self.connection.received_publishes, size=size, now=now)
        if not pause_s:
            return
        left_s = self._context.options.max_slowed_s - rate.slowed_s(now)
        if left_s < 0:
            self._send_away(what)
            return
        if not self.reading.closed_by & TOO_FAST:
            metrics.mqtt_slowed.labels("paused").inc()
        self._stop_reading(TOO_FAST)
        self._end_pause()
        loop = self.connections.loop
        if pause_s <= left_s:
            self._pause = loop.call_later(pause_s, self.reading.open, TOO_FAST)
        else:  # what it has sent at once is that much
            self._pause = loop.call_later(left_s, self._send_away, what)

    def _send_away(self, what: str) -> None:
        """Ends the connection of a client that was slowed down for as long as it may be."""
        if self._ended:
            return
        metrics.mqtt_slowed.labels("closed").inc()
        code = ReasonCode.MESSAGE_RATE_TOO_HIGH if what == "messages" else ReasonCode.QUOTA_EXCEEDED
        text = f"too many {what} a second for {self._context.options.max_slowed_s:g} s"
        self.connection.close(code, "application", self._server_state.time(), text=text)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    # Writing

    def flush_soon(self) -> None:
        """The connection has output, or has ended."""
        if self._answering:
            self._to_flush = True
        else:
            self.connections.flush_soon(self)

    def flush(self) -> None:
        """Writes what the connection has for the client, as one piece; sees to its end, if it has ended."""
        connection = self.connection
        output = connection.writer.output
        if output:
            if self.transport.is_closing():
                connection.writer.take_output()  # and throws it away: a transport may be closing for long
            else:
                traffic = self._server_state.statistics.traffic
                traffic.sent_packets += len(output)
                data = connection.writer.take_output()
                traffic.sent_bytes += len(data)
                if connection.writer.required_commit:
                    self._hold(data)
                else:
                    self.transport.write(data)
        if connection.end is not None and not self._ended:
            self._end(connection.end)

    def ask(self, event: Event) -> None:
        """The connection has an event for the application: a question, of which it has one at a time, or what became of
        a message that the application itself has sent. They make the inbox no fuller."""
        if self._run is not None:
            self._run.inbox.feed(event, 0)

    def _hold(self, data: bytes) -> None:
        """Writes what promises something, or what follows it, when that is committed."""
        connection, committer = self.connection, self._server_state.committer
        assert committer is not None
        if self._commit_gate is None:
            if connection.writer.required_commit <= committer.journal.committed:
                connection.writer.required_commit = 0
                self.transport.write(data)
                return
            if committer.is_closed:  # another process has the store: that will never be
                self.transport.abort()
                return
            self._commit_gate = CommitGate(committer, self._write_held)
        self._commit_gate.add(connection.writer.required_commit, data)
        if self._commit_gate.is_much:
            connection.writer.writable = False
        if not connection.writer.writable or committer.journal.failure is not None:
            self._stop_reading(UNCOMMITTED)

    def _write_held(self, data: bytes) -> None:
        """Writes what waited long enough. When nothing waits any more, all goes on."""
        if data and not self.transport.is_closing():
            self.transport.write(data)
        if self._commit_gate:
            return
        self._commit_gate = None
        committer = self._server_state.committer
        assert committer is not None
        if self.connection.writer.required_commit <= committer.journal.committed:
            self.connection.writer.required_commit = 0
        if self._ended:
            self._end_transport()
            return
        self.reading.open(UNCOMMITTED)
        if not self.connection.writer.writable and self.writable:
            self._write_on()

    def _drop_held(self) -> None:
        if self._commit_gate is not None:
            self._commit_gate.drop()
            self._commit_gate = None

    @property
    def waits_for_commit(self) -> bool:
        """Whether anything that was written is held until a commit."""
        return bool(self._commit_gate)

    def pause_writing(self) -> None:
        """The client takes less than it is sent: messages for it wait in its session, and it is not read."""
        self.writable = self.connection.writer.writable = False
        if not self._ended:  # else its time to take the rest runs already
            self.connections.stalled(self)
            self._stop_reading(NOT_WRITABLE)

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self.writable = True
        if self._ended:
            return
        self.connections.moved(self)
        self.reading.open(NOT_WRITABLE)
        if self._commit_gate is None or not self._commit_gate.is_much:
            self._write_on()

    def write_stalled(self) -> None:
        """Cuts the client off, which is counted and logged."""
        metrics.mqtt_aborted.labels("slow_client").inc()
        peer_log.warning(self._peer, "cut off %s: it took nothing for %g s", self._who(), self.write_timeout_s)
        super().write_stalled()

    def _write_on(self) -> None:
        """Sends what waits in the session. That may be too much again: it comes last."""
        self.connection.resume_writing(self._server_state.time())
        if self.connection.writer.writable:
            self.wake_senders()

    async def drain(self) -> None:
        """Returns when the client has taken enough, and what it was told is committed; or the connection has ended."""
        while not self.connection.writer.writable and not self._ended:
            await self.wait_for_room()
        if self._ended:
            await asyncio.sleep(0)  # an application that does nothing but send: others go on, and it can be cancelled

    # The end

    def _end(self, end: End) -> None:
        """The connection has ended: tells the application, and ends the transport."""
        self._ended = True
        self.connection.writer.output.clear()
        self._log(end)
        metrics.mqtt_closed.labels(end.reason, f"{end.reason_code:#04x}").inc()
        if self._run is not None:
            self._run.disconnect(end.event())
        self.connection.writer.writable = False
        self.wake_senders()
        if self._watches_answers:
            self._look_at_answers()
        self.connections.moved(self)
        self.leave(CLOSE_TIMEOUT_S)
        if not self._commit_gate:  # else when that has left
            self._end_transport()

    def _end_transport(self) -> None:
        end = self.connection.end
        assert end is not None
        if end.reason not in _LINGERING or not self.half_close():
            self.transport.close()

    # The application

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Raises ValueError, RuntimeError or KeyError for an event that is wrong."""
        connection = self.connection
        if event["type"] == "mqtt.ack":
            self._answering = True
            try:
                publishes = connection.publishes  # asked first, as most acknowledgements are those of publishes
                if publishes is None or not publishes.ack(event, self._server_state.time()):
                    connection.ack(event, self._server_state.time())
            finally:  # for what a faulty one has led to by then counts, too
                self._answering = False
                if self._to_flush:
                    self._flush_answers()
                if self._watches_answers:
                    self._look_at_answers()
            return
        connection.send(event, self._server_state.time())
        if self.reading.closed_by & UNANSWERED and connection.state in (State.CONNECTED, State.AUTHENTICATING):
            self._server_state.statistics.traffic.connections += connection.state is State.CONNECTED
            self._go_on()
        if not connection.writer.writable:
            await self.drain()

    def _flush_answers(self) -> None:
        """Looks at what an acknowledgement has led to. The last one that is due leaves at once, and with it those
        before: nothing else comes that could share the write, and the way through the loop is a seventh of what a lone
        publish costs."""
        connection = self.connection
        self._to_flush = False
        if connection.unanswered or connection.end is not None:
            self.connections.flush_soon(self)
        else:
            self.flush()

    def _look_at_answers(self) -> None:
        """The application has answered something, or the connection has ended: tells those that wait for it."""
        connection = self.connection
        if not connection.congested:
            self.reading.open(CONGESTED)
        if not connection.unanswered:
            self._server_state.answered(self)
        self._watches_answers = connection.congested or connection.unanswered

    def _start(self) -> ApplicationRun:
        connect = self.connection.connect
        assert connect is not None
        self._name = connect.client_id
        # What the client sends before it is accepted stays, but for one read, in its socket.
        self._stop_reading(UNANSWERED)
        self._run = ApplicationRun(
            self._server_state.application,
            scope_of(
                connect,
                self.transport,
                client=self.client,
                scheme=self._context.scheme,
                state=self._server_state.state,
                extensions=self._context.extensions,
            ),
            self.send,
            inbox=Inbox(pause=self.pause_reading, resume=self.resume_reading),
            on_finished=self._application_finished,
        )
        self.connections.started(self._run)
        if self._server_state.tracing:
            self.watch()
        return self._run

    def _go_on(self) -> None:
        """The client is accepted, or asked for its proof: what it has sent meanwhile counts now."""
        session = self.connection.session
        if session is not None:
            self._name = session.client_id
            self._peer = session.owner.name or self.client
        if self._server_state.tracing:
            self.watch()
        self.reading.open(UNANSWERED)
        self.data_received(b"")

    def _application_finished(self, exception: BaseException | None) -> None:
        run, self._run = self._run, None
        self.connection.application_ended(self._server_state.time(), failed=exception is not None)
        self.count()
        if run is not None:
            self.connections.finished(run)

    # What is known of it

    def watch(self) -> None:
        """Has the connection told to the traces of its client, under the name that it uses and under that it has."""
        connection, run = self.connection, self._run
        if run is None or connection.end is not None:
            return
        traces = self._server_state.tracing.of(self._name, run.scope["client_id"])
        before = connection.writer.tap
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
        """Adds what has happened since the last call to the counts of the server."""
        connection, server_state = self.connection, self._server_state
        earlier = self._counted
        if (connection.received_packets, connection.writer.sent_publishes) != (
            earlier.received_packets,
            earlier.sent_publishes,
        ):
            self._counted = connection.counts()
            server_state.statistics.traffic.add(self._counted, earlier)
        if connection.unknown_acks:
            server_state.statistics.traffic.unknown_acks += connection.unknown_acks
            connection.unknown_acks = 0

    def _log(self, end: End) -> None:
        level = logging.WARNING if end.fault else _LOG_LEVELS.get(end.reason, logging.INFO)
        if peer_log.is_enabled_for(level):
            kind = f"closed %s: {end.reason}, {end.reason_code:#04x}"
            who = self._who()
            peer_log.log(
                level, self._peer, "closed %s: %s, %#04x %s", who, end.reason, end.reason_code, end.text, kind=kind
            )

    @property
    def where(self) -> str:
        """The client's address."""
        return f"{self.client[0]}:{self.client[1]}" if self.client else "a local socket"

    def _who(self) -> str:
        where, name = self.where, printable(self._name)
        if self.connection.name:
            name = f"{printable(self.connection.name)} ({name})"
        return f"{name} from {where}" if name else where
