"""Retained messages on their way to who has subscribed."""

from collections.abc import Iterable

from protocols.mqtt.broker import Broker
from protocols.mqtt.message import Message
from protocols.mqtt.session import Session, Subscriber
from protocols.mqtt.topics import split_shared


def retained_for(broker: Broker, topic_filter: str, session: Session) -> list[Message]:
    """What is retained for a session that subscribes to the filter [MQTT5-3.3.1-9] [MQTT3-3.3.1-6]; nothing for a
    shared subscription [MQTT5-4.8.2]."""
    share_name, inner = split_shared(topic_filter)
    if share_name is not None:
        return []
    if session.queued > _most_queued(broker, session):  # it subscribes over and over: not even looking is what keeps
        broker.dropped["queue_full"] += 1  # the loop free
        return []
    return broker.retained_matching(inner)


def send_retained(broker: Broker, messages: Iterable[Message], subscriber: Subscriber, now: float) -> None:
    """Sends retained messages to one who has subscribed."""
    session = subscriber.session
    most = _most_queued(broker, session)
    for message in messages:
        if message.expired(now):
            broker.forget_retained(message.topic)
        elif session.queued > most:
            broker.dropped["queue_full"] += 1
        else:
            qos = min(message.qos, subscriber.qos)
            # [MQTT5-3.3.1.3] [MQTT3-3.3.1-8]
            session.deliver(message, qos, True, subscriber.identifiers, now, bounded=False)
            message.forget_encoded()


def _most_queued(broker: Broker, session: Session) -> int:
    """What may wait for a session: every retained message, besides what is published."""
    return len(broker.retained) + session.options.max_queued_messages
