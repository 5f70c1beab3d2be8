"""From the rows of a store back to sessions and retained messages, when a server starts.

Times in rows are those of the wall clock: the time that nobody was here counts for the expiry of sessions and messages
and for the delay of wills. It counts for no more than the whole interval, should the clock have been set back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import Session, Subscriber
from protocols.mqtt.codec.packets import PacketType, Properties, Will
from protocols.mqtt.codec.primitives import Reader
from protocols.mqtt.codec.properties import WILL, read_properties
from protocols.mqtt.delivery import Delivery
from protocols.mqtt.message import Message
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.rows import (
    DELIVERIES,
    MESSAGES,
    RECEIVED,
    RELEASED,
    RETAINED,
    SESSIONS,
    SUBSCRIPTIONS,
    DeliveryRow,
    MessageRow,
    ReceivedRow,
    ReleasedRow,
    RetainedRow,
    Row,
    RowKind,
    SessionRow,
    SubscriptionRow,
)


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is: `now` in the broker's clock, `wall` in that of the store."""

    now: float
    wall: float

    def left(self, moment: float, most: float) -> float:
        """When a moment of the wall clock comes, in the broker's; `most` seconds from now at the latest."""
        return self.now + min(moment - self.wall, most)


class Recovery:
    """One pass over the rows of a store. A session is without its journal until `Broker.restore`, so that nothing of
    what is taken back is recorded once more."""

    def __init__(self, broker: Broker, journal: Journal, options: MqttOptions, clock: Clock) -> None:
        """`options` bound what waits for clients that have not come back yet."""
        self._broker = broker
        self._journal = journal
        self._options = options
        self._clock = clock
        self._sessions: dict[int, Session] = {}
        self._owners: dict[int, str] = {}
        self._messages: dict[int, Message] = {}
        self.deliveries = 0
        """How many messages are to be delivered."""

    def run(self, rows: Mapping[RowKind, Iterable[Row]]) -> None:
        """Gives the broker, which is to be empty, what the rows say; what has expired meanwhile it finds itself."""
        for row in rows[RETAINED]:
            self._retained(RetainedRow(*row))
        for row in rows[SESSIONS]:
            self._session(SessionRow(*row))
        for row in rows[MESSAGES]:
            self._message(MessageRow(*row))
        last_seq = 0
        for row in rows[DELIVERIES]:
            last_seq = row[0]
            self._delivery(DeliveryRow(*row))
        for row in rows[RELEASED]:
            last_seq = max(last_seq, row[0])
            released = ReleasedRow(*row)
            self._sessions[released.session_id].outbox.add_released(released.packet_id, released.seq)
        for row in rows[RECEIVED]:
            received = ReceivedRow(*row)
            self._sessions[received.session_id].remember_received(received.packet_id)
        for row in rows[SUBSCRIPTIONS]:
            self._subscription(SubscriptionRow(*row))
        self._journal.continue_after(max(self._sessions, default=0), max(self._messages, default=0), last_seq)
        for session_id, session in self._sessions.items():
            self._broker.restore(session, self._owners[session_id], self._clock.now)
        self._broker.tick(self._clock.now)

    def _retained(self, row: RetainedRow) -> None:
        properties = _properties(row.properties, PacketType.PUBLISH)
        message = Message(row.topic, row.payload, row.qos, True, properties, now=self._clock.now)
        message.publisher = row.publisher
        self._age(message, row.expires_at)
        self._broker.restore_retained(message, row.owner)

    def _session(self, row: SessionRow) -> None:
        session = self._sessions[row.session_id] = Session(
            row.client_id,
            options=self._options,
            drops=self._broker.dropped,
        )
        self._owners[row.session_id] = row.owner
        session.outbox.session_id = row.session_id
        session.expiry_interval_s = row.expiry_interval_s
        if row.ends_at is not None:
            session.ends_at = self._clock.left(row.ends_at, row.expiry_interval_s)
        if row.will is not None:
            will = session.will = _will(row.will)
            delay_s = will.properties.get("will_delay_interval", 0)
            # A connection that was there when that process ended was lost then, which is not known better than by now.
            session.will_at = self._clock.now + delay_s
            if row.will_at is not None:
                session.will_at = self._clock.left(row.will_at, delay_s)

    def _message(self, row: MessageRow) -> None:
        properties = _properties(row.properties, PacketType.PUBLISH)
        message = Message(row.topic, row.payload, 1, False, properties, now=self._clock.now)
        message.message_id = row.message_id
        self._age(message, row.expires_at)
        self._messages[row.message_id] = message

    def _age(self, message: Message, expires_at: float | None) -> None:
        if expires_at is not None and message.expires_at is not None:
            message.expires_at = self._clock.left(expires_at, message.expires_at - self._clock.now)

    def _delivery(self, row: DeliveryRow) -> None:
        message = self._messages[row.message_id]
        identifiers = tuple(map(int, row.identifiers.split(","))) if row.identifiers else ()
        delivery = Delivery(message, row.qos, bool(row.retain), identifiers, bool(row.bounded), row.share)
        delivery.seq, delivery.session_id, delivery.packet_id = row.seq, row.session_id, row.packet_id
        message.references += 1
        self.deliveries += 1
        self._sessions[row.session_id].outbox.restore(delivery)

    def _subscription(self, row: SubscriptionRow) -> None:
        session = self._sessions[row.session_id]
        session.subscriptions[row.topic_filter] = Subscriber(
            session.outbox,
            row.qos,
            no_local=bool(row.no_local),
            retain_as_published=bool(row.retain_as_published),
            identifiers=() if row.identifier is None else (row.identifier,),
        )


def _properties(data: bytes, carrier: int) -> Properties:
    return read_properties(Reader(data, 0, len(data)), carrier)


def _will(data: bytes) -> Will:
    topic, payload, qos, retain, properties = msgspec.msgpack.decode(data)
    return Will(topic=topic, payload=payload, qos=qos, retain=retain, properties=_properties(properties, WILL))
