"""What a store keeps, and what it promises: rows of seven kinds, changed in groups, each group whole or not at all.

The broker works in memory; a store is read once, when the server starts, and only written after that. So it knows
nothing of MQTT: a row is a tuple of plain values whose first columns are its key. Times in rows are those of the wall
clock, in seconds, because they are to mean something after a restart.

What the rows mean is a format, with a number; each store has the steps that bring one to the next, and refuses a format
that is newer than it knows. The same tests run over each implementation: tests/conformance/test_mqtt_stores.py.
"""

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

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
class Kind:
    """One kind of row; the first `key_width` columns are its key."""

    name: str
    row: type[Any]
    key_width: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        columns: tuple[str, ...] = self.row._fields
        return columns


SESSIONS: Final = Kind("session", SessionRow, 1)
SUBSCRIPTIONS: Final = Kind("subscription", SubscriptionRow, 2)
MESSAGES: Final = Kind("message", MessageRow, 1)
DELIVERIES: Final = Kind("delivery", DeliveryRow, 1)
RELEASED: Final = Kind("released", ReleasedRow, 1)
RECEIVED: Final = Kind("received", ReceivedRow, 2)
RETAINED: Final = Kind("retained", RetainedRow, 1)

KINDS: Final = (SESSIONS, SUBSCRIPTIONS, MESSAGES, DELIVERIES, RELEASED, RECEIVED, RETAINED)


@dataclass(slots=True)
class Changes:
    """What one commit makes true. A key is in `put` or in `removed` of its kind, not in both."""

    put: dict[Kind, Sequence[Row]] = field(default_factory=dict)
    """Whole rows, new ones and such that replace the row of their key."""
    removed: dict[Kind, Sequence[Row]] = field(default_factory=dict)
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
    def load(self) -> Mapping[Kind, Iterable[Row]]:
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
