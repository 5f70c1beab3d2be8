"""All connections of one MQTT server: their deadlines and counts, once a tick, and what is done with all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from protocols.mqtt.connection import State
from protocols.mqtt.endpoint import Endpoint
from protocols.mqtt.server_state import ServerState
from protocols.mqtt.sys_topics import SysTopics
from protocols.mqtt.trace import Trace


class Endpoints:
    """The connections of one server."""

    def __init__(self, server_state: ServerState) -> None:
        self.open: set[Endpoint] = server_state.connections.open
        self._server_state = server_state
        self._sys_topics: SysTopics | None = None

    def start(self, *, shortest_timeout_s: float) -> None:
        """Starts the clock; see `Connections.start`."""
        server_state, connections = self._server_state, self._server_state.connections
        connections.start(shortest_timeout_s=shortest_timeout_s, on_tick=self._tick)
        server_state.time = connections.loop.time
        self._sys_topics = SysTopics(
            server_state.broker,
            server_state.statistics.traffic,
            interval_s=server_state.broker.limits.sys_interval_s,
            now=connections.now,
        )

    def stop(self) -> None:
        """Stops the clock and writes the counts to the metrics. Idempotent."""
        self._server_state.connections.stop()
        self._count(self._server_state.time())

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
        self._count(now)
        if self._sys_topics is not None:
            self._sys_topics.tick(sum(endpoint.connection.state is State.CONNECTED for endpoint in self.open), now)

    def _count(self, now: float) -> None:
        for endpoint in self.open:
            endpoint.count()
        self._server_state.statistics.export(now)
