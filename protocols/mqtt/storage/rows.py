"""What is stored: rows of seven kinds, changed in groups, each group whole or not at all; what keeps them, a store; and
what makes them of the objects that the journal says have changed.

The broker works in memory; a store is read once, when the server starts, and only written after that. A store knows
nothing of MQTT: a row is a tuple of plain values whose first columns are its key. Times in rows are those of the wall
clock, in seconds, because they are to mean something after a restart.

What the rows mean is a format, with a number; each store has the steps that bring one to the next, and refuses a format
that is newer than it knows. The same tests run over each implementation: tests/conformance/test_mqtt_stores.py.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from protocols.mqtt.codec.packets import PacketType, Will
from protocols.mqtt.codec.properties import WILL, encode_properties
from protocols.mqtt.delivery import Delivery
from protocols.mqtt.message import Message

Row: TypeAlias = "tuple[Any, ...]"


class StoreError(Exception):
    """Raised when a store cannot be opened, or cannot commit now."""


class NewerFormatError(StoreError):
    """Raised when a store was written by a later version of this program."""

    def __init__(self, where: str, version: int, known: int) -> None:
        super().__init__(f"{where} has format {version}, of a later version; this one knows formats up to {known}")


class StoreTakenError(StoreError):
    """Raised when another process has the store, or has taken it over: what this one knows is not the truth."""


class SessionRow(NamedTuple):
    """A session. `ends_at` and `will_at` are None as long as its client is connected; `will` is packed. `owner` is who
    has it, empty for nobody."""

    session_id: int
    client_id: str
    expiry_interval_s: int
    ends_at: float | None
    will: bytes | None
    will_at: float | None
    owner: str


class SubscriptionRow(NamedTuple):
    """A subscription of a session. `topic_filter` has the $share/NAME/ in front of a shared one."""

    session_id: int
    topic_filter: str
    qos: int
    no_local: int
    retain_as_published: int
    identifier: int | None


class MessageRow(NamedTuple):
    """What one or more deliveries deliver. `properties` are as in a PUBLISH packet."""

    message_id: int
    topic: str
    payload: bytes
    properties: bytes
    expires_at: float | None


class DeliveryRow(NamedTuple):
    """A message for a session, in the order of `seq`: waiting if `packet_id` is 0, else sent and not acknowledged.
    `share` is the filter of the shared subscription through which it comes, or empty."""

    seq: int
    session_id: int
    message_id: int
    qos: int
    retain: int
    bounded: int
    identifiers: str
    packet_id: int
    share: str


class ReleasedRow(NamedTuple):
    """A delivery at QoS 2 that the client has received: PUBREL was or is to be sent, PUBCOMP is awaited."""

    seq: int
    session_id: int
    packet_id: int


class ReceivedRow(NamedTuple):
    """The identifier of a QoS 2 message that was taken over from a client and not yet released by it."""

    session_id: int
    packet_id: int


class RetainedRow(NamedTuple):
    """The retained message of a topic; `publisher` is a client identifier, or empty, and `owner` as of a session."""

    topic: str
    payload: bytes
    qos: int
    properties: bytes
    expires_at: float | None
    publisher: str
    owner: str


@dataclass(frozen=True, slots=True)
class RowKind:
    """One kind of row; the first `key_width` columns are its key."""

    name: str
    row: type[Any]
    key_width: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        columns: tuple[str, ...] = self.row._fields
        return columns


SESSIONS: Final = RowKind("session", SessionRow, 1)
SUBSCRIPTIONS: Final = RowKind("subscription", SubscriptionRow, 2)
MESSAGES: Final = RowKind("message", MessageRow, 1)
DELIVERIES: Final = RowKind("delivery", DeliveryRow, 1)
RELEASED: Final = RowKind("released", ReleasedRow, 1)
RECEIVED: Final = RowKind("received", ReceivedRow, 2)
RETAINED: Final = RowKind("retained", RetainedRow, 1)

KINDS: Final = (SESSIONS, SUBSCRIPTIONS, MESSAGES, DELIVERIES, RELEASED, RECEIVED, RETAINED)


@dataclass(slots=True)
class Changes:
    """What one commit makes true. A key is in `put` or in `removed` of its kind, not in both."""

    put: dict[RowKind, Sequence[Row]] = field(default_factory=dict)
    """Whole rows, new ones and such that replace the row of their key."""
    removed: dict[RowKind, Sequence[Row]] = field(default_factory=dict)
    """Keys, each a tuple; there may be no row of that key."""

    def __len__(self) -> int:
        """How many rows it changes."""
        return sum(map(len, self.put.values())) + sum(map(len, self.removed.values()))


class Store(abc.ABC):
    """Rows that outlive the process. All methods block; one thread at a time calls them.

    `open` comes first. Each raises StoreError, `open` also NewerFormatError, and all StoreTakenError.
    """

    @abc.abstractmethod
    def open(self) -> None:
        """Makes the store ready, of this process alone, in the present format."""

    @abc.abstractmethod
    def load(self) -> Mapping[RowKind, Iterable[Row]]:
        """All rows of every kind, in the order of their keys."""

    @abc.abstractmethod
    def write(self, changes: Changes) -> None:
        """Makes the changes, all of them or, if it raises, none; when it returns they outlive the process.

        After it has raised, the same changes can be written again: what they say does not depend on what was.
        """

    def keep(self) -> None:  # noqa: B027
        """Says that the process lives, about once a second; for a store that others could take over."""

    @abc.abstractmethod
    def close(self) -> None:
        """Frees what `open` took. Idempotent; the store can be opened again."""


# From objects to rows

_NO_PROPERTIES: Final = b"\0"
_pack = msgspec.msgpack.Encoder().encode

_Rows: TypeAlias = "Callable[[list[Any], float], Sequence[Row]]"


class StoredSession(Protocol):
    """What is stored of a session."""

    client_id: str
    expiry_interval_s: int
    ends_at: float | None
    will: Will | None
    will_at: float
    will_of_connection: Will | None

    @property
    def session_id(self) -> int: ...

    @property
    def owner(self) -> "Named": ...


class Named(Protocol):
    """Who has a session."""

    name: str


class ChangeSet:
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
        self.sessions: dict[int, StoredSession | None] = {}
        self.subscriptions: dict[tuple[int, str], SubscriptionRow | None] = {}
        self.messages: dict[int, Message | None] = {}
        self.deliveries: dict[int, Delivery | None] = {}
        self.released: dict[int, Row | None] = {}
        self.received: dict[Row, Row | None] = {}
        self.retained: dict[str, Message | None] = {}


def changes_of(change_set: ChangeSet, to_wall: float) -> Changes:
    """The rows of a change set; `to_wall` is what to add to `now` for wall time."""
    changes = Changes()
    _enter(changes, SESSIONS, change_set.sessions, _session_rows, to_wall)
    _enter(changes, SUBSCRIPTIONS, change_set.subscriptions, _as_they_are, to_wall)
    _enter(changes, MESSAGES, change_set.messages, _message_rows, to_wall)
    _enter(changes, DELIVERIES, change_set.deliveries, _delivery_rows, to_wall)
    _enter(changes, RELEASED, change_set.released, _as_they_are, to_wall)
    _enter(changes, RECEIVED, change_set.received, _as_they_are, to_wall)
    _enter(changes, RETAINED, change_set.retained, _retained_rows, to_wall)
    return changes


def _enter(changes: Changes, kind: RowKind, objects: Mapping[Any, Any], rows: _Rows, to_wall: float) -> None:
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


def _session_rows(sessions: list[StoredSession], to_wall: float) -> list[Row]:
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


def _delivery_rows(deliveries: list[Delivery], to_wall: float) -> list[Row]:
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
            message.owner_name,
        )
        for message in messages
    ]


def _wall(moment: float | None, to_wall: float) -> float | None:
    return None if moment is None else moment + to_wall


def _pack_will(will: Will | None) -> bytes | None:
    if will is None:
        return None
    return _pack((will.topic, will.payload, will.qos, will.retain, encode_properties(will.properties, WILL)))
