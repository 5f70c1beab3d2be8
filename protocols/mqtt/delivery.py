"""One message for one client, and the connection that its session uses to send it."""

from typing import Protocol

from protocols.mqtt.message import Message


class ClientLink(Protocol):
    """The way to a client, as its outbox uses it."""

    writable: bool
    """Whether the peer takes what it is sent; False while its socket's buffer is over the high-water mark."""
    send_maximum: int
    """How many QoS 1 and 2 messages the client accepts unacknowledged."""

    def write_publish(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        now: float,
        packet_id: int = 0,
        dup: bool = False,
    ) -> bool:
        """Sends a PUBLISH. Returns False, without sending, if the client does not take packets of that size."""

    def write_pubrel(self, packet_id: int, reason_code: int = 0) -> None:
        """Sends a PUBREL."""

    def require_commit(self) -> None:
        """Holds back what is sent until all that is recorded so far is committed."""

    def dropped(self, reason: str) -> None:
        """Counts a message that the client does not get."""

    def settled(self, delivery_id: int, reason_code: int) -> None:
        """The application is to know what became of a message that it has sent with a `delivery_id`."""


class ClientConnection(Protocol):
    """The connection of a session, as the broker uses it."""

    @property
    def writer(self) -> ClientLink:
        """What the session's outbox sends by."""

    def take_over(self, now: float) -> None:
        """Ends the connection because another one uses the session."""

    def cut_off(self, reason: str, text: str, now: float) -> None:
        """Ends the connection because the session is forgotten. `reason` is one of `mqtt.disconnect`, `text` is told to
        the client."""


class Delivery:
    """One message for one client: queued, or under way."""

    __slots__ = (
        "bounded",
        "delivery_id",
        "identifiers",
        "message",
        "packet_id",
        "qos",
        "retain",
        "seq",
        "session_id",
        "share",
    )

    session_id: int

    def __init__(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        bounded: bool,
        share: str,
        delivery_id: int | None = None,
    ) -> None:
        """`bounded` is False for a retained message, which is kept anyway and does not count in the queue's bounds.
        `share` is the filter, with its $share/NAME/, of the shared subscription through which it comes, else empty.
        With a `delivery_id` the application is told what becomes of it, and it ends with the connection: see
        `mqtt.publish` in docs/events.md.
        """
        self.message = message
        self.qos = qos
        self.retain = retain
        self.identifiers = identifiers
        self.bounded = bounded
        self.share = share
        self.delivery_id = delivery_id
        self.packet_id = 0
        self.seq = 0
        """Its number in the journal, under which `session_id` is set too; 0 if the journal does not know it."""
