"""The writing half of a connection: packets become bytes, collected until the sink takes them.

No version, packet size or topic alias is anybody else's business [MQTT5-3.1.2-24] [MQTT5-3.1.2-26].
"""

from collections import Counter
from typing import Final, Protocol

import msgspec

from protocols.asgi import Event
from protocols.mqtt import events
from protocols.mqtt.codec.decoder import Decoder, encode, prepare_publish
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Disconnect,
    Properties,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    UnsubAck,
)
from protocols.mqtt.codec.primitives import MAX_VARIABLE
from protocols.mqtt.message import Message
from protocols.mqtt.negotiation import UNLIMITED
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.topic_aliases import OutboundAliases
from protocols.mqtt.trace import Tap

_DISPENSABLE: Final = ("user_property", "reason_string")

FLUSH_BYTES: Final = 64 * 1024
"""More output than this is written at once, so that a fan-out in one loop iteration meets the back-pressure of the
socket."""


class OutputSink(Protocol):
    """The transport side of a connection."""

    def flush_soon(self) -> None:
        """There is output, or an end: to be looked at when the present loop iteration is through."""

    def flush(self) -> None:
        """There is much output: to be written now."""

    def ask(self, event: Event) -> None:
        """The application is to be asked, or told, something that is no packet of the client."""


class PacketWriter:
    """What is to be written to one client, and in which form it takes it: the `ClientLink` of its session."""

    __slots__ = (
        "_drops",
        "_journal",
        "aliases",
        "is_closed",
        "max_packet_bytes",
        "output",
        "output_bytes",
        "problem_information",
        "required_commit",
        "send_maximum",
        "sent_payload_bytes",
        "sent_publishes",
        "sink",
        "tap",
        "version",
        "writable",
    )

    def __init__(self, sink: OutputSink, drops: Counter[str], journal: Journal | None) -> None:
        """`drops` counts, by reason, the messages that the client does not get."""
        self.sink = sink
        self._drops = drops
        self._journal = journal
        self.version = 0
        self.max_packet_bytes = UNLIMITED
        self.problem_information = True
        """Whether the client wants to know why something is refused [MQTT5-3.1.2-29]."""
        self.aliases: OutboundAliases | None = None
        self.send_maximum = 0
        self.writable = True
        self.is_closed = False
        """Whether the connection has ended: nothing more is to be written."""
        self.output: list[bytes] = []
        self.output_bytes = 0
        self.required_commit = 0
        """The number of the group of the journal that has to be committed before the output may leave; 0: none."""
        self.sent_publishes = 0
        self.sent_payload_bytes = 0
        self.tap: Tap | None = None
        """Who is told what is refused, while somebody watches the connection."""

    def traced(self, tap: Tap | None) -> "PacketWriter":
        """A writer in the place of this one that tells `tap` of each packet; with None, one that tells nobody."""
        writer = TracedPacketWriter.__new__(TracedPacketWriter) if tap else PacketWriter.__new__(PacketWriter)
        for name in PacketWriter.__slots__:
            setattr(writer, name, getattr(self, name))
        writer.tap = tap
        return writer

    def take_output(self) -> bytes:
        """The bytes to write, as one piece."""
        output = self.output
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self.output_bytes = 0
        return data

    def require_commit(self) -> None:
        """Delays the output of this loop iteration until the journal has committed everything recorded so far."""
        if self._journal is not None:
            self.required_commit = max(self.required_commit, self._journal.commit_number())

    def dropped(self, reason: str) -> None:
        """Counts a message that the client does not get."""
        self._drops[reason] += 1

    def settled(self, delivery_id: int, reason_code: int) -> None:
        """Tells the application what became of a message that it has sent with a `delivery_id`."""
        self.sink.ask(events.delivered(delivery_id=delivery_id, reason_code=reason_code))

    def write(self, data: bytes) -> None:
        """Writes one packet."""
        output = self.output
        if not output:
            self.sink.flush_soon()
        output.append(data)
        self.output_bytes += len(data)
        if self.output_bytes > FLUSH_BYTES:
            self.sink.flush()

    def write_packet(self, packet: ConnAck | Disconnect | PubAck | PubRec | PubComp | SubAck | UnsubAck | Auth) -> bool:
        """Writes a packet, without user properties and reason string if it would be too large with them
        [MQTT5-3.2.2-19] [MQTT5-3.2.2-20]. Returns False, and writes nothing, if it still is [MQTT5-3.1.2-24]."""
        data = encode(packet, self.version)
        for name in _DISPENSABLE:
            if len(data) <= self.max_packet_bytes:
                break
            properties = {key: value for key, value in packet.properties.items() if key != name}
            packet = msgspec.structs.replace(packet, properties=properties)
            data = encode(packet, self.version)
        if len(data) > self.max_packet_bytes:
            return False
        self.write(data)
        return True

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
        """Sends a message to the client. Returns False if the client does not take packets of its size."""
        alias, known = 0, False
        if not identifiers and self.aliases is None:
            encoded = message.encoded(self.version, qos, retain, now)
        else:
            topic = message.topic
            properties = message.properties_at(now)
            if self.aliases is not None:
                alias, known = self.aliases.get(topic)
            if alias:
                properties = {**properties, "topic_alias": alias}
            if identifiers:  # [MQTT5-3.3.4-3]
                properties = {**properties, "subscription_identifier": list(identifiers)}
            encoded = prepare_publish(
                "" if known else topic,
                message.payload,
                version=self.version,
                qos=qos,
                retain=retain,
                properties=properties,
            )
        if encoded.size > self.max_packet_bytes:  # [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]
            self.dropped("too_large")
            return False
        if alias and not known and self.aliases is not None:
            self.aliases.sent(message.topic, alias)
        self.sent_publishes += 1
        self.sent_payload_bytes += len(message.payload)
        self.write(encoded.with_packet_id(packet_id, dup=dup) if qos else encoded.head)
        return True

    def write_pubrel(self, packet_id: int, reason_code: int = 0) -> None:
        """Sends a PUBREL."""
        self.write(encode(PubRel(packet_id, reason_code), self.version))

    def problem(self, event: Event) -> Properties:
        """What the application has to say about its answer, to a client that wants to know [MQTT5-3.1.2-29]."""
        if not self.problem_information:
            return {}
        properties: Properties = dict(event.get("properties") or {})
        if event.get("reason_string"):
            properties["reason_string"] = event["reason_string"]
        return properties


class TracedPacketWriter(PacketWriter):
    """Tells its tap of each packet, as the client is going to read it, and of each message that it does not get."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        super().write(data)
        assert self.tap is not None
        for packet in Decoder(max_packet_bytes=MAX_VARIABLE + 5, version=self.version).decode(data):
            self.tap.packet("out", packet)

    def dropped(self, reason: str) -> None:
        super().dropped(reason)
        assert self.tap is not None
        what = "not retained" if reason.startswith("retained") else "to this client"
        self.tap.tell("dropped", "PUBLISH", f"{what}: {reason}")
