"""What has gone through a server since it started, the one set of counts behind /metrics and `$SYS/`; and what the log
says of messages that were lost and filters that were refused because of a bound."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from heapq import nlargest
from operator import attrgetter
from typing import Any, Final, NamedTuple

from protocols import metrics
from protocols.masking import printable
from protocols.mqtt.broker.broker import Broker

logger = logging.getLogger("gateway.mqtt")

INTERVAL_S: Final = 60.0
NAMED: Final = 3
"""How many of the clients are named that have most of what there is too much of."""

_WHY: Final = {
    "queue_full": "messages lost: the queues of their clients are full (max_queued_messages, max_queued_bytes)",
    "queues_full": "messages lost: all queues together are full (max_queued_bytes_in_all)",
    "owner_queues_full": (
        "messages lost: the queues of all clients of their owner are full (max_queued_bytes_per_owner)"
    ),
    "too_large": "messages lost: they are larger than the packets that their clients take",
    "retained_full": "messages not retained: there is no room (max_retained_messages, max_retained_bytes)",
    "owner_retained_full": (
        "messages not retained: their owner has as much as it may (max_retained_messages_per_owner,"
        " max_retained_bytes_per_owner)"
    ),
    "retained_too_deep": "messages not retained: their topics have too many levels (max_topic_levels)",
    "max_subscriptions": "topic filters refused: their clients have as many as they may (max_subscriptions)",
    "max_subscription_bytes_in_all": (
        "topic filters refused: all clients together have as many as they may (max_subscription_bytes_in_all)"
    ),
    "max_subscription_bytes_per_owner": (
        "topic filters refused: the clients of their owner have as many as they may (max_subscription_bytes_per_owner)"
    ),
    "max_topic_length": "topic filters refused: they are too long (max_topic_length)",
    "max_topic_levels": "topic filters refused: they have too many levels (max_topic_levels)",
}
"""By the reasons of `gateway_mqtt_dropped_total` and `gateway_mqtt_refused_filters_total` that are of a bound."""


class ConnectionCounts(NamedTuple):
    """What one connection has counted since it began."""

    received_packets: int
    received_publishes: int
    received_payload_bytes: int
    sent_publishes: int
    sent_payload_bytes: int


@dataclass(slots=True)
class Traffic:
    """Sums that only grow. Connections count by themselves and add up here, about once a second."""

    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    received_publishes: int = 0
    sent_publishes: int = 0
    received_payload_bytes: int = 0
    """Of PUBLISH packets, as `sent_payload_bytes`."""
    sent_payload_bytes: int = 0
    dropped: int = 0
    """Messages that did not reach a subscriber, or were not retained."""
    connections: int = 0
    """CONNECT packets that were answered by the application."""
    sockets: int = 0
    """Network connections."""
    unknown_acks: int = 0
    """Acknowledgements of the application that answer nothing."""

    def add(self, counts: ConnectionCounts, earlier: ConnectionCounts) -> None:
        """Takes what a connection has counted since `earlier`."""
        self.received_packets += counts.received_packets - earlier.received_packets
        self.received_publishes += counts.received_publishes - earlier.received_publishes
        self.received_payload_bytes += counts.received_payload_bytes - earlier.received_payload_bytes
        self.sent_publishes += counts.sent_publishes - earlier.sent_publishes
        self.sent_payload_bytes += counts.sent_payload_bytes - earlier.sent_payload_bytes

    def copy(self) -> "Traffic":
        """The sums as they are now."""
        return Traffic(*(getattr(self, field.name) for field in fields(self)))

    def since(self, earlier: "Traffic") -> "Traffic":
        """What has been added since `earlier` was copied."""
        return Traffic(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


class DropReport:
    """Adds up what was lost since the last line: for each bound there is one at once, then one a minute."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    def add(self, counts: Mapping[str, int], broker: Broker, now: float) -> None:
        """Takes what was lost or refused since the last call, by reason, and says what it is time to say."""
        for reason in _WHY.keys() & counts.keys():
            self._counts[reason] += counts[reason]
        for reason, count in list(self._counts.items()):
            if now - self._told_at.get(reason, float("-inf")) < INTERVAL_S:
                continue
            self._told_at[reason] = now
            del self._counts[reason]
            whose = _RANKINGS[reason].line(broker) if reason in _RANKINGS else ""
            logger.warning("%s; %d since the last such line%s", _WHY[reason], count, whose)


class _Ranking(NamedTuple):
    """Who has most of something."""

    title: str
    of: Callable[[Broker], Iterable[Any]]
    amount: Callable[[Any], tuple[int, ...]]
    name: Callable[[Any], str]
    shown: str
    """What `amount` gives, in words."""

    def line(self, broker: Broker) -> str:
        """The end of a line about it, empty where nobody has any by now.

        It looks at every session or owner, which is why it is not asked for often.
        """
        ranked = [(one, self.amount(one)) for one in nlargest(NAMED, self.of(broker), key=self.amount)]
        named = [f"{printable(self.name(one))} ({self.shown.format(*amount)})" for one, amount in ranked if any(amount)]
        return f"; {self.title}: " + ", ".join(named) if named else ""


_OWNERS: Final = ("the owners with most", attrgetter("owners"))
_BY_QUEUES: Final = _Ranking(*_OWNERS, lambda owner: (owner.queued_bytes,), attrgetter("name"), "{} bytes")
_BY_RETAINED: Final = _Ranking(
    *_OWNERS,
    lambda owner: (owner.retained_bytes, owner.retained_messages),
    attrgetter("name"),
    "{1} messages, {0} bytes",
)
_BY_SUBSCRIPTIONS: Final = _Ranking(*_OWNERS, lambda owner: (owner.subscription_bytes,), attrgetter("name"), "{} bytes")
_RANKINGS: Final = {
    "queues_full": _BY_QUEUES,
    "owner_queues_full": _BY_QUEUES,
    "retained_full": _BY_RETAINED,
    "owner_retained_full": _BY_RETAINED,
    "max_subscription_bytes_in_all": _BY_SUBSCRIPTIONS,
    "max_subscription_bytes_per_owner": _BY_SUBSCRIPTIONS,
    "queue_full": _Ranking(
        "the longest queues",
        lambda broker: broker.sessions.values(),
        lambda session: (session.outbox.queued_bytes, session.outbox.queued),
        attrgetter("client_id"),
        "{1} messages, {0} bytes",
    ),
    "max_subscriptions": _Ranking(
        "the most subscriptions",
        lambda broker: broker.sessions.values(),
        lambda session: (len(session.subscriptions),),
        attrgetter("client_id"),
        "{}",
    ),
}
"""By the reasons of which it helps to know."""


class Statistics:
    """What is counted of one server: in plain integers on the way, because a metric's lock costs more than an ack, and
    added up here about once a second."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.traffic = Traffic()
        self._exported = Traffic()
        self._exported_expired = 0
        self._drop_report = DropReport()

    def export(self, now: float) -> None:
        """Adds what was counted since the last call to the metrics, and logs what was lost."""
        broker, traffic = self._broker, self.traffic
        for reason, count in broker.dropped.items():
            metrics.mqtt_dropped.labels(reason).inc(count)
            traffic.dropped += count
        self._drop_report.add(broker.dropped + broker.refused_filters, broker, now)
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
        metrics.mqtt_unknown_acks.inc(recent.unknown_acks)
        metrics.mqtt_expired_sessions.inc(broker.expired_sessions - self._exported_expired)
        self._exported_expired = broker.expired_sessions
        metrics.mqtt_sessions.set(len(broker.sessions))
        metrics.mqtt_subscriptions.labels("plain").set(broker.subscription_count)
        metrics.mqtt_subscriptions.labels("shared").set(broker.shared_subscription_count)
        metrics.mqtt_retained.set(len(broker.retained))
        metrics.mqtt_retained_bytes.set(broker.retained.size_bytes)
