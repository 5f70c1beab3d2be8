"""What is kept for a client while it comes and goes: subscriptions, messages under way, messages that wait [MQTT5-4.1].

A session has a `connection` while its client is here. Messages for the client are the business of its `outbox`. While
`journal` is set the session is to outlive the process, and what changes is recorded.
"""

from collections import Counter
from typing import Final

from protocols.mqtt.broker.outbox import Outbox
from protocols.mqtt.broker.owners import Owner
from protocols.mqtt.codec.packets import Will
from protocols.mqtt.delivery import ClientConnection
from protocols.mqtt.options import NEVER_EXPIRES, MqttOptions
from protocols.mqtt.storage.journal import Journal

BRIDGE_PREFIX: Final = "$bridge/"
"""Begins the client identifiers of this gateway's own bridges, whose sessions last as long as their configuration."""


class Subscriber:
    """The outbox of a session with what it was granted for one topic filter: what a matching message finds."""

    __slots__ = ("identifiers", "no_local", "outbox", "qos", "retain_as_published")

    def __init__(
        self,
        outbox: Outbox,
        qos: int,
        *,
        no_local: bool = False,
        retain_as_published: bool = False,
        identifiers: tuple[int, ...] = (),
    ) -> None:
        """`identifiers` is the subscription identifier of the SUBSCRIBE, if it had one [MQTT5-3.3.4-3]."""
        self.outbox = outbox
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published
        self.identifiers = identifiers


class Session:
    """The session of one client identifier."""

    __slots__ = (
        "client_id",
        "connection",
        "due_at",
        "ends_at",
        "expiry_interval_s",
        "outbox",
        "received",
        "subscriptions",
        "will",
        "will_at",
        "will_of_connection",
    )

    def __init__(self, client_id: str, *, options: MqttOptions, drops: Counter[str]) -> None:
        """`drops`: see Outbox."""
        self.client_id = client_id
        self.connection: ClientConnection | None = None
        self.outbox = Outbox(options, drops)
        self.subscriptions: dict[str, Subscriber] = {}
        self.received: set[int] | None = None
        """Packet identifiers of QoS 2 messages that were taken over from the client and not yet released by it."""
        self.expiry_interval_s = 0
        self.ends_at: float | None = None
        self.will: Will | None = None
        """A will that waits for its delay to pass."""
        self.will_at: float = 0.0
        self.will_of_connection: Will | None = None
        """The will that counts if the connection in use is lost; here for the case that the process is."""
        self.due_at: float | None = None
        """When the broker is going to look at this absent session."""

    @property
    def journal(self) -> Journal | None:
        """Where it is recorded, if it is to outlive the process, under `session_id`."""
        return self.outbox.journal

    @property
    def session_id(self) -> int:
        """Its number in the journal; 0 if the journal does not know it."""
        return self.outbox.session_id

    @property
    def owner(self) -> Owner:
        """Who has it."""
        return self.outbox.owner

    @property
    def options(self) -> MqttOptions:
        """Those of the listener that its client connected to last."""
        return self.outbox.options

    @property
    def persistent(self) -> bool:
        """Whether the session outlives its connection [MQTT5-3.1.2-23]."""
        return self.expiry_interval_s > 0

    @property
    def never_ends(self) -> bool:
        """Whether it does so for ever."""
        return self.expiry_interval_s >= NEVER_EXPIRES

    # Messages from the client

    def remember_received(self, packet_id: int) -> None:
        """The QoS 2 message with this identifier is taken over, or was by an earlier process; until PUBREL it is known
        again [MQTT5-4.3.3-10]."""
        if self.received is None:
            self.received = set()
        self.received.add(packet_id)
        if self.journal is not None:
            self.journal.receive(self.session_id, packet_id)

    def release(self, packet_id: int) -> bool:
        """A PUBREL has come: the identifier is free [MQTT5-4.3.3-12]. Returns whether it was in use."""
        if self.received is None or packet_id not in self.received:
            return False
        self.received.discard(packet_id)
        if self.journal is not None:
            self.journal.forget_received(self.session_id, packet_id)
        return True

    # Connections

    def attach(self, connection: ClientConnection, options: MqttOptions) -> None:
        """The client is back. Nothing is sent before the outbox is told to resume, which is when the CONNACK is on its
        way."""
        self.connection = connection
        self.will = None  # [MQTT5-3.1.3-9]
        self.ends_at = None
        self.outbox.attach(connection.writer, options)

    def detach(self) -> None:
        """The connection is gone."""
        self.outbox.detach()
        self.connection = None
        self.will_of_connection = None

    # Outliving the process

    def persist_in(self, journal: Journal) -> None:
        """The session is to outlive the process; it is new, and has nothing."""
        self.outbox.journal = journal
        self.outbox.session_id = journal.new_session_id()
        journal.touch(self)

    def stop_persisting(self) -> None:
        """It is not any more: it has ended, or will with its connection."""
        journal = self.journal
        assert journal is not None
        self.outbox.forget_all(journal)
        for packet_id in self.received or ():
            journal.forget_received(self.session_id, packet_id)
        for topic_filter in self.subscriptions:
            journal.unsubscribe(self.session_id, topic_filter)
        journal.end(self.session_id)
        self.outbox.journal = None
