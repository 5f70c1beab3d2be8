"""What the broker says of itself below `$SYS/broker/`: Mosquitto's topics, in Mosquitto's units.

The messages are retained, at QoS 2, and renewed when their value has changed. A filter that begins with a wildcard does
not match them [MQTT5-4.7.2-1]; who may subscribe to `$SYS/` is the application's decision, as for every other topic.
"""

import resource
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from math import exp
from pathlib import Path
from typing import Final

from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.statistics import Traffic

ROOT: Final = "$SYS/broker/"

_MINUTE_S: Final = 60.0
_SPANS_S: Final = {"1min": 60.0, "5min": 300.0, "15min": 900.0}
_LOADS: Final = {
    "messages/received": "received_packets",
    "messages/sent": "sent_packets",
    "publish/dropped": "dropped",
    "publish/received": "received_publishes",
    "publish/sent": "sent_publishes",
    "bytes/received": "received_bytes",
    "bytes/sent": "sent_bytes",
    "connections": "connections",
    "sockets": "sockets",
}
"""Topic below "load/" -> the count that it is the rate of."""

_TOTALS: Final = {
    "messages/received": "received_packets",
    "messages/sent": "sent_packets",
    "bytes/received": "received_bytes",
    "bytes/sent": "sent_bytes",
    "publish/messages/dropped": "dropped",
    "publish/messages/received": "received_publishes",
    "publish/messages/sent": "sent_publishes",
    "publish/bytes/received": "received_payload_bytes",
    "publish/bytes/sent": "sent_payload_bytes",
}


class Load:
    """Averages of a rate per minute, over 1, 5 and 15 minutes, as a system's load average is made."""

    __slots__ = ("averages",)

    def __init__(self) -> None:
        self.averages = dict.fromkeys(_SPANS_S, 0.0)

    def add(self, count: int, over_s: float) -> None:
        """Takes what was counted in the last `over_s` seconds."""
        per_minute = count * _MINUTE_S / over_s
        for name, span_s in _SPANS_S.items():
            weight = exp(-over_s / span_s)
            self.averages[name] = per_minute + weight * (self.averages[name] - per_minute)


class SysTopics:
    """Publishes the status of a broker every `interval_s` seconds; 0: never."""

    def __init__(self, broker: Broker, traffic: Traffic, *, interval_s: int, now: float) -> None:
        self._broker = broker
        self._traffic = traffic
        self._interval_s = interval_s
        self._started_at = now
        self._looked_at = now
        self._earlier = traffic.copy()
        self._maximum = 0
        self._loads = {topic: Load() for topic in _LOADS}
        self._published: dict[str, str] = {}
        if interval_s:
            self._publish("version", f"fieldgate version {_version()}", now)

    def tick(self, connected: int, now: float) -> None:
        """Publishes if it is time to. `connected` is how many clients have a connection."""
        self._maximum = max(self._maximum, connected)
        passed_s = now - self._looked_at
        if not self._interval_s or passed_s < self._interval_s:
            return
        self._looked_at = now
        recent, self._earlier = self._traffic.since(self._earlier), self._traffic.copy()
        for topic, name in _LOADS.items():
            self._loads[topic].add(getattr(recent, name), passed_s)
        for topic, text in self._values(connected, now):
            if self._published.get(topic) != text:
                self._publish(topic, text, now)

    def _publish(self, topic: str, text: str, now: float) -> None:
        self._published[topic] = text
        self._broker.publish_status(ROOT + topic, text, now)

    def _values(self, connected: int, now: float) -> Iterator[tuple[str, str]]:
        yield "uptime", f"{int(now - self._started_at)} seconds"
        yield from self._clients(connected)
        yield from self._stored()
        for topic, name in _TOTALS.items():
            yield topic, str(getattr(self._traffic, name))
        for topic, load in self._loads.items():
            for span, average in load.averages.items():
                yield f"load/{topic}/{span}", f"{average:.2f}"
        yield from _heap()

    def _clients(self, connected: int) -> Iterator[tuple[str, str]]:
        total = len(self._broker.sessions)
        yield "clients/total", str(total)
        yield "clients/maximum", str(self._maximum)
        yield "clients/expired", str(self._broker.expired_sessions)
        for name in ("connected", "active"):  # Mosquitto has both of each, one of them out of date
            yield f"clients/{name}", str(connected)
        for name in ("disconnected", "inactive"):
            yield f"clients/{name}", str(max(0, total - connected))

    def _stored(self) -> Iterator[tuple[str, str]]:
        broker = self._broker
        queued = [(session.outbox.queued, session.outbox.queued_bytes) for session in broker.sessions.values()]
        count = str(len(broker.retained) + sum(messages for messages, _ in queued))
        yield "messages/stored", count
        yield "store/messages/count", count
        yield "store/messages/bytes", str(broker.retained.size_bytes + sum(size_bytes for _, size_bytes in queued))
        yield "retained messages/count", str(len(broker.retained))
        yield "subscriptions/count", str(broker.subscription_count)
        yield "shared_subscriptions/count", str(broker.shared_subscription_count)


def _heap() -> Iterator[tuple[str, str]]:
    """The resident memory of the process, which is what Python can say of its heap, in bytes; where it can be known."""
    try:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return
    current = resident_pages * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    yield "heap/current", str(current)
    yield "heap/maximum", str(max(current, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))  # it lags


def _version() -> str:
    try:
        return version("fieldgate")
    except PackageNotFoundError:  # used from a source tree that is not installed
        return "unknown"
