"""What the connections of one MQTT server share: the broker, the clock, one flush per pass of the loop, the way out.

No connection has a timer: deadlines are attributes that one tick compares. Connections that have output are written in
one callback at the end of the loop pass, one write each, however many messages and acknowledgements it holds.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from protocols import metrics
from protocols.asgi import Application
from protocols.limits import ConnectionLimits
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.states import State
from protocols.mqtt.statistics import Losses
from protocols.mqtt.storage.committer import Committer
from protocols.mqtt.sys_topics import StatusTopics
from protocols.mqtt.trace import Trace, Tracing
from protocols.mqtt.traffic import Traffic

if TYPE_CHECKING:
    from protocols.mqtt.endpoint import Endpoint
    from protocols.mqtt.writing import Writing

_LONGEST_TICK_S: Final = 1.0
_SHORTEST_TICK_S: Final = 0.01


class ListenerContext:
    """A listener, or the tunnel: what its connections have in common."""

    __slots__ = ("connection_limits", "options", "scheme", "server_state")

    def __init__(self, server_state: "ServerState", options: MqttOptions, scheme: str) -> None:
        """`scheme` is that of the scope, unless the transport knows better (a tunnel's does)."""
        self.server_state = server_state
        self.options = options
        self.scheme = scheme
        self.connection_limits = ConnectionLimits(
            connections=options.max_connections,
            per_address=options.max_connections_per_address,
            per_s=options.max_connects_per_s,
        )


def _no_time() -> float:
    raise RuntimeError("the server has not been started")


class ServerState:
    """The connections of one server and the application instances at work for them."""

    def __init__(self, application: Application, state: Mapping[str, Any], broker: Broker) -> None:
        self.application = application
        self.state = state
        self.broker = broker
        self.open: set[Endpoint] = set()
        """Those whose transport is there, or whose application still is at work."""
        self.traffic = Traffic()
        self.tracing = Tracing()
        self.unknown_acks = 0
        self.committer: Committer | None = None
        """Who keeps what outlives the process, if anything does."""
        self._status: StatusTopics | None = None
        self._exported = Traffic()
        self._exported_expired = 0
        self._losses = Losses()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.time: Callable[[], float] = _no_time
        """The loop's, once started: what each packet asks for."""
        self._unwritten: list[Writing] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tick_s = _LONGEST_TICK_S
        self._emptied: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that `start` was called in."""
        assert self._loop is not None
        return self._loop

    def start(self, *, shortest_timeout_s: float) -> None:
        """Starts the clock; deadlines are kept as exactly as a quarter of the shortest timeout."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._tick_s = max(_SHORTEST_TICK_S, min(_LONGEST_TICK_S, shortest_timeout_s / 4))
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self._status = StatusTopics(
            self.broker, self.traffic, interval_s=self.broker.limits.sys_interval_s, now=self._loop.time()
        )

    def stop(self) -> None:
        """Stops the clock and writes the counts to the metrics. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count()

    def settle_soon(self, endpoint: "Writing") -> None:
        """Has `endpoint.settle()` called when the present pass of the loop is through."""
        if not self._unwritten:
            self.loop.call_soon(self._settle)
        self._unwritten.append(endpoint)

    @contextmanager
    def traced(self, trace: Trace) -> Iterator[Trace]:
        """Tells the trace what its client does. Raises TooManyTracesError."""
        self.tracing.add(trace)
        self._watch()
        try:
            yield trace
        finally:
            self.tracing.remove(trace)
            self._watch()

    def _watch(self) -> None:
        for endpoint in self.open:
            endpoint.watch()

    def gone(self, endpoint: "Endpoint") -> None:
        """Neither the transport nor the application of this connection is left."""
        self.open.discard(endpoint)
        if self._emptied is not None and not self.open and not self._emptied.done():
            self._emptied.set_result(None)

    async def wait_until_empty(self) -> None:
        """Returns when no connection and no application instance is left."""
        while self.open:
            self._emptied = self.loop.create_future()
            await self._emptied

    def _settle(self) -> None:
        endpoints = self._unwritten
        self._unwritten = []
        for endpoint in endpoints:
            endpoint.settle()

    def cut_kept(self) -> None:
        """Cuts the connections whose sessions are kept no more, because another process has them, and those that wait
        for a commit, which will not come."""
        for endpoint in list(self.open):
            session = endpoint.connection.session
            if endpoint.is_holding or (session is not None and session.journal is not None):
                endpoint.abort()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._tick_s, self._tick)
        now = self.loop.time()
        for endpoint in list(self.open):
            if endpoint.connection.deadline <= now or endpoint.abort_at <= now:
                endpoint.deadline_passed(now)
        self.broker.tick(now)
        if self.committer is not None:
            self.committer.tick()
        self._count()
        if self._status is not None:
            self._status.tick(sum(endpoint.connection.state is State.CONNECTED for endpoint in self.open), now)

    def _count(self) -> None:
        """Adds up here what is counted in plain integers on the way: a metric's lock costs more than an ack."""
        for endpoint in self.open:
            endpoint.count()
        broker, traffic = self.broker, self.traffic
        for reason, count in broker.dropped.items():
            metrics.mqtt_dropped.labels(reason).inc(count)
            traffic.dropped += count
        self._losses.add(broker.dropped + broker.refused_filters, broker, self.loop.time())
        broker.dropped.clear()
        for option, count in broker.refused_filters.items():
            metrics.mqtt_refused_filters.labels(option).inc(count)
        broker.refused_filters.clear()
        for option, count in broker.refused_sessions.items():
            metrics.mqtt_refused.labels(option).inc(count)
        broker.refused_sessions.clear()
        recent, self._exported = traffic.since(self._exported), traffic.copy()
        for direction in ("received", "sent"):
            metrics.mqtt_publishes.labels(direction).inc(getattr(recent, f"{direction}_publishes"))
            metrics.mqtt_packets.labels(direction).inc(getattr(recent, f"{direction}_packets"))
            metrics.mqtt_bytes.labels(direction).inc(getattr(recent, f"{direction}_bytes"))
        metrics.mqtt_accepted.inc(recent.connections)
        metrics.mqtt_unknown_acks.inc(self.unknown_acks)
        self.unknown_acks = 0
        metrics.mqtt_expired_sessions.inc(broker.expired_sessions - self._exported_expired)
        self._exported_expired = broker.expired_sessions
        metrics.mqtt_sessions.set(len(broker.sessions))
        metrics.mqtt_subscriptions.labels("plain").set(broker.subscription_count)
        metrics.mqtt_subscriptions.labels("shared").set(broker.shared_subscription_count)
        metrics.mqtt_retained.set(len(broker.retained))
        metrics.mqtt_retained_bytes.set(broker.retained.size_bytes)
