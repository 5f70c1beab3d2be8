"""What the log says of messages that were lost and filters that were refused because of a bound: for each bound a line
at once, then one a minute."""

import logging
from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from typing import Final

from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import Session
from protocols.runner import printable

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


class Losses:
    """Adds up what was lost since the last line."""

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
            logger.warning("%s; %d since the last such line%s", _WHY[reason], count, _whose(reason, broker))


def _whose(reason: str, broker: Broker) -> str:
    """Who has most of it. It looks at every session or owner, which is why it is not asked for often."""
    sessions = broker.sessions
    if reason in ("queues_full", "owner_queues_full"):
        owners = nlargest(NAMED, broker.owners, key=lambda owner: owner.queued_bytes)
        named = [f"{printable(one.name)} ({one.queued_bytes} bytes)" for one in owners if one.queued_bytes]
        return "; the owners with most: " + ", ".join(named)
    if reason in ("retained_full", "owner_retained_full"):
        owners = nlargest(NAMED, broker.owners, key=lambda owner: owner.retained_bytes)
        named = [
            f"{printable(one.name)} ({one.retained_messages} messages, {one.retained_bytes} bytes)"
            for one in owners
            if one.retained_messages
        ]
        return "; the owners with most: " + ", ".join(named)
    if reason in ("max_subscription_bytes_in_all", "max_subscription_bytes_per_owner"):
        owners = nlargest(NAMED, broker.owners, key=lambda owner: owner.subscription_bytes)
        named = [f"{printable(one.name)} ({one.subscription_bytes} bytes)" for one in owners if one.subscription_bytes]
        return "; the owners with most: " + ", ".join(named)
    if reason == "queue_full":
        found = nlargest(NAMED, sessions, key=lambda session: session.queued_bytes)
        named = [f"{_name(one)} ({one.queued} messages, {one.queued_bytes} bytes)" for one in found if one.queued]
        return "; the longest queues: " + ", ".join(named)
    if reason == "max_subscriptions":
        found = nlargest(NAMED, sessions, key=lambda session: len(session.subscriptions))
        named = [f"{_name(one)} ({len(one.subscriptions)})" for one in found if one.subscriptions]
        return "; the most subscriptions: " + ", ".join(named)
    return ""


def _name(session: Session) -> str:
    return printable(session.client_id)
