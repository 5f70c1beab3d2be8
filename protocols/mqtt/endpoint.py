"""One MQTT connection on a transport: between the sans-I/O `Connection` and the application instance that serves it.

The way of a publish: `data_received` -> `Connection.receive` -> `Inbox.feed_many` -> the application -> `send` ->
`Connection.ack` -> `settle`. There is no task and no callback per packet: the acknowledgements that an application
gives in one pass of the loop leave in one write.
"""

import asyncio
import logging
from typing import Final, cast

from protocols import metrics
from protocols.addresses import network_of
from protocols.asgi import Event
from protocols.inbox import Inbox
from protocols.limits import MAX_RATE, MAX_RATE_OF_ADDRESS
from protocols.log_lines import Peer, PeerLog
from protocols.mqtt.closing import NEVER
from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.description import describe, kind
from protocols.mqtt.events import scope_of
from protocols.mqtt.reading import CONGESTED, UNANSWERED
from protocols.mqtt.server_state import ListenerContext
from protocols.mqtt.states import End, State
from protocols.mqtt.trace import Tap
from protocols.mqtt.traffic import Counts
from protocols.mqtt.writing import Writing
from protocols.runner import ApplicationRun, printable
from protocols.sockets import client_address

peer_log = PeerLog("gateway.mqtt")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a closed connection may take to end: its last bytes to leave, and the client to close its side."""

_LOG_LEVELS: Final = {
    "client": logging.DEBUG,
    "lost": logging.DEBUG,
    "shutdown": logging.DEBUG,
    "protocol_error": logging.WARNING,
}

_NOTHING: Final = Counts(0, 0, 0, 0, 0)


class Endpoint(Writing):
    """Owns the transport, the `Connection` and the application instance of one client."""

    __slots__ = (
        "_client",
        "_counted",
        "_lost",
        "_name",
        "_peer",
        "_run",
        "_too_many_connect",
        "opened_at",
    )

    def __init__(self, context: ListenerContext) -> None:
        super().__init__(context)
        self._run: ApplicationRun | None = None
        self._name = ""
        self.opened_at = context.server_state.loop.time()
        """In the loop's time."""
        self._lost = False
        self._counted = _NOTHING
        self._client: tuple[str, int] | None = None
        self._peer: Peer = None
        """Whose share of the log it is: the address, and once it is known who has the session, that owner."""
        self._too_many_connect = ""
        """Which rate its connection has exceeded."""

    # -- the transport ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio and uvloop have set TCP_NODELAY already: an acknowledgement never waits for another."""
        self._transport = cast(asyncio.Transport, transport)
        metrics.mqtt_connections.inc()
        self._server_state.traffic.sockets += 1
        self._server_state.open.add(self)
        self._client = client_address(transport)
        self._peer = self._client
        if self._client is not None:
            self.connection.address = network_of(self._client)
        exceeded = self._context.connection_limits.enter(self._client, self._server_state.loop.time())
        if exceeded in (MAX_RATE, MAX_RATE_OF_ADDRESS):
            self._too_many_connect = exceeded
        elif exceeded is not None:
            metrics.mqtt_refused.labels(exceeded).inc()
            most = getattr(self._context.options, exceeded)
            peer_log.warning(self._peer, f"refused %s: {exceeded} is %d", self._who(), most)
            self._transport.abort()
            self.connection.lost(self._server_state.loop.time())  # also for what a tunnel has read already

    def data_received(self, data: bytes) -> None:
        """Everything that `data` completes goes to the application in one step."""
        connection = self.connection
        self._server_state.traffic.received_bytes += len(data)
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
            self._stop_reading(CONGESTED)
        if self._rate is not None and not self._ended:
            self._slow_down(self._rate, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call of the transport."""
        self._lost = True
        self._context.connection_limits.leave(self._client)
        self._end_pause()
        metrics.mqtt_connections.dec()
        self.abort_at = NEVER
        self._drop_held()
        self.connection.lost(self._server_state.loop.time())
        self.settle()
        self._leave()

    def eof_received(self) -> None:
        """The client sends no more. The transport closes when its buffer is empty, which is given as long as at any
        other end."""
        self.connection.lost(self._server_state.loop.time())
        self.settle()

    def _refuse_for_now(self) -> None:
        """Its CONNECT has come, and too many others: the application is not asked."""
        metrics.mqtt_refused.labels(self._too_many_connect).inc()
        most = self._context.options.max_connects_per_s
        self.connection.close(
            ReasonCode.CONNECTION_RATE_EXCEEDED,
            "application",
            self._server_state.loop.time(),
            text=f"max_connects_per_s is {most}; come again later",
        )

    def certificate_revoked(self) -> None:
        """The certificate of the client is on a revocation list that came after it connected."""
        now = self._server_state.loop.time()
        why = "the certificate was revoked"
        self.connection.close(ReasonCode.NOT_AUTHORIZED, "application", now, text=why, with_will=False)

    # -- the connection ---------------------------------------------------------------------------------------------

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
        self.connection.writable = False
        self._wake_senders()
        if not self._lost:
            self.abort_at = self._server_state.loop.time() + CLOSE_TIMEOUT_S
            if not self._held:  # else when that has left
                self._close_transport()

    def ask(self, event: Event) -> None:
        """The connection has a question to the application; it has one at a time, which makes the inbox no fuller."""
        if self._run is not None:
            self._run.inbox.feed(event, 0)

    def deadline_passed(self, now: float) -> None:
        """That of the connection, or `abort_at`."""
        if self.abort_at <= now:
            self.abort_at = NEVER
            if not self._ended:
                metrics.mqtt_aborted.labels("slow_client").inc()
                timeout_s = self._context.options.write_timeout_s
                peer_log.warning(self._peer, "cut off %s: it took nothing for %g s", self._who(), timeout_s)
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
            self._answering = True
            try:
                connection.ack(event, self._server_state.time())
            finally:  # for what a faulty one has led to by then counts, too
                self._answering = False
                if self._to_settle:
                    self._settle_answers()
                if self._unread & CONGESTED and not connection.congested:
                    self._read_on(CONGESTED)
            return
        connection.send(event, self._server_state.loop.time())
        if self._unread & UNANSWERED and connection.state in (State.CONNECTED, State.AUTHENTICATING):
            self._server_state.traffic.connections += connection.state is State.CONNECTED
            self._take_held()
        if not connection.writable:
            await self._drain()

    def _settle_answers(self) -> None:
        """Looks at what an acknowledgement has led to. The last one that is due leaves at once, and with it those
        before: nothing else comes that could share the write, and the way through the loop is a seventh of what a lone
        publish costs."""
        connection = self.connection
        self._to_settle = False
        if connection.unanswered or connection.end is not None:
            self._server_state.settle_soon(self)
        else:
            self.flush()

    def cancel(self) -> None:
        """Ends the application instance, which has had its time."""
        if self._run is not None:
            self._run.cancel()

    def _start(self) -> ApplicationRun:
        connect = self.connection.connect
        assert connect is not None
        self._name = connect.client_id
        # What the client sends before it is accepted stays, but for one read, in its socket.
        self._stop_reading(UNANSWERED)
        inbox = Inbox(pause=self._pause_for_inbox, resume=self._resume_for_inbox)
        self._run = ApplicationRun(
            self._server_state.application,
            scope_of(
                connect,
                self._transport,
                client=self._client,
                scheme=self._context.scheme,
                state=self._server_state.state,
            ),
            self.send,
            inbox=inbox,
            on_finished=self._application_finished,
        )
        if self._server_state.tracing:
            self.watch()
        return self._run

    def _take_held(self) -> None:
        """The client is accepted, or asked for its proof: what it has sent meanwhile counts now."""
        session = self.connection.session
        if session is not None:
            self._name = session.client_id
            self._peer = session.owner.name or self._client
        if self._server_state.tracing:
            self.watch()
        self._read_on(UNANSWERED)
        self.data_received(b"")

    def _application_finished(self, exception: BaseException | None) -> None:
        self._run = None
        self.connection.application_ended(self._server_state.loop.time(), failed=exception is not None)
        self._leave()

    def _leave(self) -> None:
        if self._lost and self._run is None:
            self.count()
            self._server_state.gone(self)

    # -- what is known of it ----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Has the connection told to the traces of its client, under the name that it uses and under that it has."""
        connection, run = self.connection, self._run
        if run is None or connection.end is not None:
            return
        traces = self._server_state.tracing.of(self._name, run.scope["client_id"])
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
        """Adds what has happened since the last call to the counts of the server."""
        connection, server_state = self.connection, self._server_state
        earlier = self._counted
        if (connection.received_packets, connection.sent_publishes) != (
            earlier.received_packets,
            earlier.sent_publishes,
        ):
            self._counted = connection.counts()
            server_state.traffic.add(self._counted, earlier)
        if connection.unknown_acks:
            server_state.unknown_acks += connection.unknown_acks
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
        address = client_address(self._transport)
        return f"{address[0]}:{address[1]}" if address else "a local socket"

    def _who(self) -> str:
        where, name = self.where, printable(self._name)
        if self.connection.name:
            name = f"{printable(self.connection.name)} ({name})"
        return f"{name} from {where}" if name else where
