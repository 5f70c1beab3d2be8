"""Retained messages on their way to who has subscribed, and what the application is asked about them before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import Session, Subscriber
from protocols.mqtt.codec.reason_codes import is_failure
from protocols.mqtt.codec.topic_rules import split_shared
from protocols.mqtt.message import Message

MAX_ASKED: Final = 100
"""Topics that the application is asked about at a time."""


def retained_for(broker: Broker, topic_filter: str, session: Session) -> list[Message]:
    """What is retained for a session that subscribes to the filter [MQTT5-3.3.1-9] [MQTT3-3.3.1-6]; nothing for a
    shared subscription [MQTT5-4.8.2]."""
    share_name, inner = split_shared(topic_filter)
    if share_name is not None:
        return []
    if session.outbox.queued > _most_queued(broker, session):  # it subscribes over and over: not even looking is what
        broker.dropped["queue_full"] += 1  # keeps the loop free
        return []
    return broker.retained_matching(inner)


def send_retained(
    broker: Broker, messages: Iterable[Message], session: Session, subscriber: Subscriber, now: float
) -> None:
    """Sends retained messages to a session that has subscribed."""
    most = _most_queued(broker, session)
    for message in messages:
        if message.expired(now):
            broker.forget_retained(message.topic)
        elif subscriber.no_local and message.publisher == session.client_id:  # [MQTT5-3.8.3-3]
            continue
        elif session.outbox.queued > most:
            broker.dropped["queue_full"] += 1
        else:
            qos = min(message.qos, subscriber.qos)
            # [MQTT5-3.3.1.3] [MQTT3-3.3.1-8]
            session.outbox.deliver(message, qos, True, subscriber.identifiers, now, bounded=False)
            message.forget_encoded()


def _most_queued(broker: Broker, session: Session) -> int:
    """What may wait for a session: every retained message, besides what is published."""
    return len(broker.retained) + session.options.max_queued_messages


class RetainedQuery:
    """What is retained for the filters of one SUBSCRIBE, while the application is asked about it.

    An application may grant a filter, and yet not every message that the filter matches. It is asked about topics, not
    about messages: the one that is sent is the one that is retained when the answer comes, if there still is one. Kept
    are the topics of one filter at a time.
    """

    __slots__ = ("_asked", "_filters", "_topics")

    def __init__(self, broker: Broker, session: Session, topic_filters: Iterable[str]) -> None:
        self._filters = dict.fromkeys(topic_filters)
        self._topics = self._find(broker, session, tuple(self._filters))
        self._asked: list[tuple[str, str]] = []

    def _find(self, broker: Broker, session: Session, topic_filters: Iterable[str]) -> Iterator[tuple[str, str]]:
        for topic_filter in topic_filters:
            if topic_filter in self._filters:
                for topic in [message.topic for message in retained_for(broker, topic_filter, session)]:
                    yield topic, topic_filter

    @property
    def asked(self) -> int:
        """How many topics the application is asked about now."""
        return len(self._asked)

    def ask(self) -> list[str]:
        """The next topics to ask about; an empty list when there are no more."""
        self._asked = list(islice(self._topics, MAX_ASKED))
        return [topic for topic, _ in self._asked]

    def answer(
        self, reason_codes: Sequence[int], broker: Broker, session: Session, now: float
    ) -> list[tuple[str, int]]:
        """Sends what the application allows, having been asked. Returns (topic, reason code) of what it does not."""
        refused: list[tuple[str, int]] = []
        for (topic, topic_filter), code in zip(self._asked, reason_codes, strict=True):
            if is_failure(code):
                refused.append((topic, code))
            elif topic_filter in self._filters:
                subscriber = session.subscriptions[topic_filter]
                send_retained(broker, broker.retained_matching(topic), session, subscriber, now)
        return refused

    def forget(self, topic_filters: Iterable[str], session: Session) -> None:
        """The client has given filters up: it gets nothing more of them, were it to subscribe to them once more."""
        for topic_filter in topic_filters:
            if topic_filter not in session.subscriptions:
                self._filters.pop(topic_filter, None)


class RetainedQueries:
    """The queries of one connection: the application is asked about the first, the others wait."""

    __slots__ = ("_ask", "_broker", "_queries", "_session")

    def __init__(self, broker: Broker, session: Session, ask: Callable[[Sequence[str]], None]) -> None:
        """`ask(topics)` puts a question to the application."""
        self._broker = broker
        self._session = session
        self._ask = ask
        self._queries: deque[RetainedQuery] = deque()

    def __len__(self) -> int:
        """How many there are, the one that the application is asked about included."""
        return len(self._queries)

    def add(self, topic_filters: Iterable[str]) -> None:
        """Asks, in its turn, about what is retained for these filters."""
        self._queries.append(RetainedQuery(self._broker, self._session, topic_filters))
        if len(self._queries) == 1:
            self._ask_next()

    @property
    def asked(self) -> int:
        """How many topics the application is asked about now."""
        return self._queries[0].asked

    def answer(self, reason_codes: Sequence[int], now: float) -> list[tuple[str, int]]:
        """Sends what the application allows, and asks on. Returns (topic, reason code) of what it does not."""
        refused = self._queries[0].answer(reason_codes, self._broker, self._session, now)
        self._ask_next()
        return refused

    def forget(self, topic_filters: Iterable[str]) -> None:
        """The client has given filters up."""
        for query in self._queries:
            query.forget(topic_filters, self._session)

    def _ask_next(self) -> None:
        while self._queries:
            topics = self._queries[0].ask()
            if topics:
                self._ask(topics)
                return
            self._queries.popleft()
