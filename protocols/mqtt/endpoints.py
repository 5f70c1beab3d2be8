"""All connections of one MQTT server: their deadlines and counts, once a tick, and what is done with all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from protocols import metrics
from protocols.mqtt.endpoint import Endpoint
from protocols.mqtt.server_state import ServerState
from protocols.mqtt.states import State
from protocols.mqtt.statistics import Losses
from protocols.mqtt.sys_topics import StatusTopics
from protocols.mqtt.trace import Trace
from protocols.mqtt.traffic import Traffic


class Endpoints:
    """The connections of one server."""

    def __init__(self, server_state: ServerState) -> None:
        self.open: set[Endpoint] = server_state.connections.open
        self._server_state = server_state
        self._status: StatusTopics | None = None
        self._exported = Traffic()
        self._exported_expired = 0
        self._losses = Losses()

    def start(self, *, shortest_timeout_s: float) -> None:
        """Starts the clock; see `Connections.start`."""
        server_state, connections = self._server_state, self._server_state.connections
        connections.start(shortest_timeout_s=shortest_timeout_s, on_tick=self._tick)
        server_state.time = connections.loop.time
        self._status = StatusTopics(
            server_state.broker,
            server_state.traffic,
            interval_s=server_state.broker.limits.sys_interval_s,
            now=connections.now,
        )

    def stop(self) -> None:
        """Stops the clock and writes the counts to the metrics. Idempotent."""
        self._server_state.connections.stop()
        self._count()

    @contextmanager
    def traced(self, trace: Trace) -> Iterator[Trace]:
        """Tells the trace what its client does. Raises TooManyTracesError."""
        self._server_state.tracing.add(trace)
        self._watch()
        try:
            yield trace
        finally:
            self._server_state.tracing.remove(trace)
            self._watch()

    def _watch(self) -> None:
        for endpoint in self.open:
            endpoint.watch()

    def cut_kept(self) -> None:
        """Cuts the connections whose sessions are kept no more, because another process has them, and those that wait
        for a commit, which will not come."""
        for endpoint in list(self.open):
            session = endpoint.connection.session
            if endpoint.waits_for_commit or (session is not None and session.journal is not None):
                endpoint.transport.abort()

    async def wait_for_answers(self) -> None:
        """Reads nothing more, and returns when the application has answered all publishes that have been read."""
        server_state = self._server_state
        for endpoint in self.open:
            endpoint.stop_reading()
        server_state.unanswered.update(endpoint for endpoint in self.open if endpoint.connection.unanswered)
        if server_state.unanswered:
            server_state.all_answered.clear()
            await server_state.all_answered.wait()

    def _tick(self, now: float) -> None:
        server_state = self._server_state
        for endpoint in [endpoint for endpoint in self.open if endpoint.connection.deadline <= now]:
            endpoint.check(now)
        server_state.broker.tick(now)
        if server_state.committer is not None:
            server_state.committer.tick()
        self._count()
        if self._status is not None:
            self._status.tick(sum(endpoint.connection.state is State.CONNECTED for endpoint in self.open), now)

    def _count(self) -> None:
        """Adds up here what is counted in plain integers on the way: a metric's lock costs more than an ack."""
        for endpoint in self.open:
            endpoint.count()
        server_state = self._server_state
        broker, traffic = server_state.broker, server_state.traffic
        for reason, count in broker.dropped.items():
            metrics.mqtt_dropped.labels(reason).inc(count)
            traffic.dropped += count
        self._losses.add(broker.dropped + broker.refused_filters, broker, server_state.time())
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
        metrics.mqtt_unknown_acks.inc(server_state.unknown_acks)
        server_state.unknown_acks = 0
        metrics.mqtt_expired_sessions.inc(broker.expired_sessions - self._exported_expired)
        self._exported_expired = broker.expired_sessions
        metrics.mqtt_sessions.set(len(broker.sessions))
        metrics.mqtt_subscriptions.labels("plain").set(broker.subscription_count)
        metrics.mqtt_subscriptions.labels("shared").set(broker.shared_subscription_count)
        metrics.mqtt_retained.set(len(broker.retained))
        metrics.mqtt_retained_bytes.set(broker.retained.size_bytes)
