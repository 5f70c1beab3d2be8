"""What has changed since the last commit, of what is to outlive the process; and who waits for which commit.

The broker works in memory and records here what it changes, as objects; rows are made of them when a group is taken,
all that has changed since the last one. What came and went between two commits is never written: a message that a
connected client acknowledges at once costs the store nothing. Groups have numbers, and are committed in their order. A
group that something waits for (`commit_number`) is to be taken at once, one that nothing waits for within a second.

Sans-I/O: `Committer` is who takes groups and writes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from protocols.mqtt.codec.packets import PacketType, Will
from protocols.mqtt.codec.properties import WILL, encode_properties
from protocols.mqtt.message import Message
from protocols.mqtt.storage.rows import (
    DELIVERIES,
    MESSAGES,
    RECEIVED,
    RELEASED,
    RETAINED,
    SESSIONS,
    SUBSCRIPTIONS,
    Changes,
    Kind,
    Row,
    SessionRow,
    SubscriptionRow,
)

if TYPE_CHECKING:
    from protocols.mqtt.broker.session import Session
    from protocols.mqtt.delivery import Delivery

_Rows: TypeAlias = "Callable[[list[Any], float], Sequence[Row]]"

_NO_PROPERTIES: Final = b"\0"
_pack = msgspec.msgpack.Encoder().encode


class Group:
    """Changes to be committed together: by key, the object as it is, or None for what is no more."""

    __slots__ = (
        "deliveries",
        "first_message",
        "first_seq",
        "first_session",
        "messages",
        "received",
        "released",
        "retained",
        "sessions",
        "subscriptions",
    )

    def __init__(self, first_session: int, first_message: int, first_seq: int) -> None:
        """What has a number from these on is new, and unknown to the store."""
        self.first_session = first_session
        self.first_message = first_message
        self.first_seq = first_seq
        self.sessions: dict[int, Session | None] = {}
        self.subscriptions: dict[tuple[int, str], SubscriptionRow | None] = {}
        self.messages: dict[int, Message | None] = {}
        self.deliveries: dict[int, Delivery | None] = {}
        self.released: dict[int, Row | None] = {}
        self.received: dict[Row, Row | None] = {}
        self.retained: dict[str, Message | None] = {}


class Journal:
    """The open group, and the numbers of groups, sessions, messages and deliveries."""

    def __init__(self) -> None:
        self.recorded = 0
        """How much has been recorded; more than before means that something now waits for its commit."""
        self.committed = 0
        """The number of the last group that is committed."""
        self.wanted = False
        """Whether something waits for the open group."""
        self.failure: str | None = None
        """Why nothing can be committed now; None while all is well."""
        self._taken = 0
        self._is_dirty = False
        self._next_session = 1
        self._next_message = 1
        self._next_seq = 1
        self._group = Group(1, 1, 1)

    def continue_after(self, session_id: int, message_id: int, seq: int) -> None:
        """Numbers on from the greatest that the store has."""
        self._next_session = session_id + 1
        self._next_message = message_id + 1
        self._next_seq = seq + 1
        self._group = Group(self._next_session, self._next_message, self._next_seq)

    # -- groups -----------------------------------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""
        return self._is_dirty

    def commit_number(self) -> int:
        """The number of the group with which all that has been recorded so far is committed; 0 if it is already."""
        if self._is_dirty:
            self.wanted = True
            return self._taken + 1
        return self._taken if self._taken > self.committed else 0

    def take(self, *, to_wall: float) -> tuple[int, Changes]:
        """Closes the open group: (its number, what it changes). `to_wall` is what to add to `now` for wall time."""
        group = self._group
        self._group = Group(self._next_session, self._next_message, self._next_seq)
        self._is_dirty = self.wanted = False
        self._taken += 1
        return self._taken, _changes(group, to_wall)

    # -- sessions ---------------------------------------------------------------------------------------------------

    def begin(self, session: "Session") -> None:
        """The session is kept from now on."""
        session.session_id = self._next_session
        self._next_session += 1
        self.touch(session)

    def touch(self, session: "Session") -> None:
        """When the session ends, or its will, has changed."""
        self._group.sessions[session.session_id] = session
        self._note()

    def end(self, session: "Session") -> None:
        """The session is kept no more; what it had is taken out by its owner."""
        session_id = session.session_id
        if session_id >= self._group.first_session:
            del self._group.sessions[session_id]
        else:
            self._group.sessions[session_id] = None
        self._note()

    def subscribe(self, row: SubscriptionRow) -> None:
        """A subscription is new, or has changed."""
        self._group.subscriptions[row.session_id, row.topic_filter] = row
        self._note()

    def unsubscribe(self, session_id: int, topic_filter: str) -> None:
        """A subscription has ended."""
        self._group.subscriptions[session_id, topic_filter] = None
        self._note()

    # -- messages to the client -------------------------------------------------------------------------------------

    def deliver(self, delivery: "Delivery", session_id: int) -> None:
        """A delivery is new, or was sent with a packet identifier."""
        seq = delivery.seq
        if not seq:
            seq = delivery.seq = self._next_seq
            self._next_seq = seq + 1
            delivery.session_id = session_id
            message = delivery.message
            if not message.references:
                message_id = message.message_id = self._next_message
                self._next_message = message_id + 1
                self._group.messages[message_id] = message
            message.references += 1
        self._group.deliveries[seq] = delivery
        self.recorded += 1
        self._is_dirty = True

    def delivered(self, delivery: "Delivery") -> None:
        """A delivery is over, or the client owns its message."""
        group = self._group
        if delivery.seq >= group.first_seq:
            del group.deliveries[delivery.seq]
        else:
            group.deliveries[delivery.seq] = None
        delivery.seq = 0
        message = delivery.message
        message.references -= 1
        if not message.references:
            if message.message_id >= group.first_message:
                del group.messages[message.message_id]
            else:
                group.messages[message.message_id] = None
        self._is_dirty = True

    def release(self, seq: int, session_id: int, packet_id: int) -> None:
        """The client owns the message of a delivery at QoS 2, which `delivered` was told; PUBCOMP is awaited."""
        self._group.released[seq] = (seq, session_id, packet_id)
        self._note()

    def completed(self, seq: int) -> None:
        """PUBCOMP has come."""
        released = self._group.released
        if seq in released:
            del released[seq]
        else:
            released[seq] = None
        self._is_dirty = True

    # -- messages from the client -----------------------------------------------------------------------------------

    def receive(self, session_id: int, packet_id: int) -> None:
        """A QoS 2 message is taken over."""
        self._group.received[session_id, packet_id] = (session_id, packet_id)
        self._note()

    def forget_received(self, session_id: int, packet_id: int) -> None:
        """The client has released it."""
        self._group.received[session_id, packet_id] = None
        self._note()

    # -- retained messages ------------------------------------------------------------------------------------------

    def retain(self, topic: str, message: Message | None) -> None:
        """The retained message of a topic has changed; None: there is none any more."""
        self._group.retained[topic] = message
        self._note()

    def _note(self) -> None:
        self.recorded += 1
        self._is_dirty = True


# -- rows -------------------------------------------------------------------------------------------------------------


def _changes(group: Group, to_wall: float) -> Changes:
    changes = Changes()
    _enter(changes, SESSIONS, group.sessions, _session_rows, to_wall)
    _enter(changes, SUBSCRIPTIONS, group.subscriptions, _as_they_are, to_wall)
    _enter(changes, MESSAGES, group.messages, _message_rows, to_wall)
    _enter(changes, DELIVERIES, group.deliveries, _delivery_rows, to_wall)
    _enter(changes, RELEASED, group.released, _as_they_are, to_wall)
    _enter(changes, RECEIVED, group.received, _as_they_are, to_wall)
    _enter(changes, RETAINED, group.retained, _retained_rows, to_wall)
    return changes


def _enter(changes: Changes, kind: Kind, objects: Mapping[Any, Any], rows: _Rows, to_wall: float) -> None:
    if not objects:
        return
    there = [value for value in objects.values() if value is not None]
    if there:
        changes.put[kind] = rows(there, to_wall)
    if len(there) < len(objects):
        gone = [key for key, value in objects.items() if value is None]
        changes.removed[kind] = gone if kind.key_width > 1 else [(key,) for key in gone]


def _as_they_are(values: list[Row], to_wall: float) -> list[Row]:
    return values


def _session_rows(sessions: "list[Session]", to_wall: float) -> list[Row]:
    return [
        SessionRow(
            session.session_id,
            session.client_id,
            session.expiry_interval_s,
            _wall(session.ends_at, to_wall),
            _pack_will(session.will or session.will_of_connection),
            session.will_at + to_wall if session.will else None,
            session.owner.name,
        )
        for session in sessions
    ]


# These three are plain tuples in the columns' order: named ones take four times as long to make. They have no bool,
# which the sqlite3 module takes a quarter of a microsecond to find out to be an int.


def _message_rows(messages: list[Message], to_wall: float) -> list[Row]:
    return [
        (
            message.message_id,
            message.topic,
            message.payload,
            encode_properties(message.properties, PacketType.PUBLISH) if message.properties else _NO_PROPERTIES,
            _wall(message.expires_at, to_wall),
        )
        for message in messages
    ]


def _delivery_rows(deliveries: "list[Delivery]", to_wall: float) -> list[Row]:
    return [
        (
            delivery.seq,
            delivery.session_id,
            delivery.message.message_id,
            delivery.qos,
            1 if delivery.retain else 0,
            1 if delivery.bounded else 0,
            ",".join(map(str, delivery.identifiers)) if delivery.identifiers else "",
            delivery.packet_id,
            delivery.share,
        )
        for delivery in deliveries
    ]


def _retained_rows(messages: list[Message], to_wall: float) -> list[Row]:
    return [
        (
            message.topic,
            message.payload,
            message.qos,
            encode_properties(message.properties, PacketType.PUBLISH),
            _wall(message.expires_at, to_wall),
            message.publisher,
            message.owner.name,
        )
        for message in messages
    ]


def _wall(moment: float | None, to_wall: float) -> float | None:
    return None if moment is None else moment + to_wall


def _pack_will(will: Will | None) -> bytes | None:
    if will is None:
        return None
    return _pack((will.topic, will.payload, will.qos, will.retain, encode_properties(will.properties, WILL)))
