"""What the log says of messages that were lost because of a bound: for each bound a line at once, then one a minute."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nlargest
from typing import Final

from protocols.mqtt.session import Session
from protocols.runner import printable

logger = logging.getLogger("gateway.mqtt")

INTERVAL_S: Final = 60.0
NAMED: Final = 3
"""How many of the clients with the longest queues are named."""

_QUEUES: Final = frozenset({"queue_full", "queues_full"})
_WHY: Final = {
    "queue_full": "lost: the queues of their clients are full (max_queued_messages, max_queued_bytes)",
    "queues_full": "lost: all queues together are full (max_queued_bytes_in_all)",
    "too_large": "lost: they are larger than the packets that their clients take",
    "retained_full": "not retained: there is no room (max_retained_messages, max_retained_bytes)",
    "retained_too_deep": "not retained: their topics have too many levels (max_topic_levels)",
}
"""By the reasons of `gateway_mqtt_dropped_total` that are of a bound."""


class Losses:
    """Adds up what was lost since the last line."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told_at: dict[str, float] = {}

    def add(self, dropped: Mapping[str, int], sessions: Iterable[Session], now: float) -> None:
        """Takes what was dropped since the last call, by reason, and says what it is time to say."""
        for reason in _WHY.keys() & dropped.keys():
            self._counts[reason] += dropped[reason]
        for reason, count in list(self._counts.items()):
            if now - self._told_at.get(reason, float("-inf")) < INTERVAL_S:
                continue
            self._told_at[reason] = now
            del self._counts[reason]
            longest = f"; the longest queues: {_longest(sessions)}" if reason in _QUEUES else ""
            logger.warning("messages %s; %d since the last such line%s", _WHY[reason], count, longest)


def _longest(sessions: Iterable[Session]) -> str:
    """The clients for whom most waits. It looks at every session, which is why it is not asked for often."""
    found = nlargest(NAMED, sessions, key=lambda session: session.queued_bytes)
    return ", ".join(
        f"{printable(session.client_id)} ({session.queued} messages, {session.queued_bytes} bytes)"
        for session in found
        if session.queued
    )
