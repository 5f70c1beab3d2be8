"""The writing half of a connection: packets become bytes, collected until the wire takes them.

No version, packet size or topic alias is anybody else's business [MQTT5-3.1.2-24] [MQTT5-3.1.2-26].
"""

from collections import Counter
from typing import Final, Protocol

import msgspec

from protocols.asgi import Event
from protocols.mqtt.codec.decoder import encode, prepare_publish
from protocols.mqtt.codec.packets import Auth, ConnAck, Disconnect, PubAck, PubRec, PubRel, SubAck, UnsubAck
from protocols.mqtt.message import Message
from protocols.mqtt.negotiation import UNLIMITED
from protocols.mqtt.topic_aliases import OutboundAliases
from protocols.mqtt.trace import Tap

_DISPENSABLE: Final = ("user_property", "reason_string")

FLUSH_BYTES: Final = 64 * 1024
"""More output than this is written at once, so that a fan-out in one loop pass meets the socket's back-pressure."""


class Wire(Protocol):
    """Who carries the output away."""

    def flush_soon(self) -> None:
        """There is output, or an end: to be looked at when the present pass of the loop is through."""

    def flush(self) -> None:
        """There is much output: to be written now."""

    def ask(self, event: Event) -> None:
        """The application is to be asked something of which no packet has come just now."""


class Output:
    """What is to be written to one client, and in which form it takes it."""

    __slots__ = (
        "_aliases_out",
        "_dropped",
        "_max_packet_bytes",
        "_output_bytes",
        "_wire",
        "output",
        "required_commit",
        "send_maximum",
        "sent_payload_bytes",
        "sent_publishes",
        "tap",
        "version",
        "writable",
    )

    def __init__(self, wire: Wire, dropped: Counter[str]) -> None:
        """`dropped` counts, by reason, the messages that the client does not take."""
        self._wire = wire
        self._dropped = dropped
        self.version = 0
        self.output: list[bytes] = []
        self.required_commit = 0
        """The number of the group of the journal that has to be committed before the output may leave; 0: none."""
        self.writable = True
        self.send_maximum = 0
        self.sent_publishes = 0
        self.sent_payload_bytes = 0
        self._output_bytes = 0
        self._max_packet_bytes = UNLIMITED
        self._aliases_out: OutboundAliases | None = None
        self.tap: Tap | None = None
        """Who is told what is refused, while somebody watches the connection."""

    def take_output(self) -> bytes:
        """The bytes to write, as one piece."""
        output = self.output
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self._output_bytes = 0
        return data

    def _write(self, data: bytes) -> None:
        output = self.output
        if not output:
            self._wire.flush_soon()
        output.append(data)
        self._output_bytes += len(data)
        if self._output_bytes > FLUSH_BYTES:
            self._wire.flush()

    def _write_short(self, packet: ConnAck | Disconnect | PubAck | PubRec | SubAck | UnsubAck | Auth) -> bool:
        """Writes a packet, without user properties and reason string if it would be too large with them
        [MQTT5-3.2.2-19] [MQTT5-3.2.2-20]. Returns False, and writes nothing, if it still is [MQTT5-3.1.2-24]."""
        data = encode(packet, self.version)
        for name in _DISPENSABLE:
            if len(data) <= self._max_packet_bytes:
                break
            properties = {key: value for key, value in packet.properties.items() if key != name}
            packet = msgspec.structs.replace(packet, properties=properties)
            data = encode(packet, self.version)
        if len(data) > self._max_packet_bytes:
            return False
        self._write(data)
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
        if not identifiers and self._aliases_out is None:
            encoded = message.encoded(self.version, qos, retain, now)
        else:
            topic = message.topic
            properties = message.properties_at(now)
            if self._aliases_out is not None:
                alias, known = self._aliases_out.get(topic)
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
        if encoded.size > self._max_packet_bytes:  # [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]
            self._dropped["too_large"] += 1
            return False
        if alias and not known and self._aliases_out is not None:
            self._aliases_out.sent(message.topic, alias)
        self.sent_publishes += 1
        self.sent_payload_bytes += len(message.payload)
        self._write(encoded.with_packet_id(packet_id, dup=dup) if qos else encoded.head)
        return True

    def write_pubrel(self, packet_id: int, reason_code: int = 0) -> None:
        """Sends a PUBREL."""
        self._write(encode(PubRel(packet_id, reason_code), self.version))
