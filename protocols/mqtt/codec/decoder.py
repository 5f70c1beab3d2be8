"""Bytes <-> packets for MQTT 3.1, 3.1.1 and 5.0: the stream decoder, and the encoding functions under one name.

The decoder knows the form of packets, not the state of a connection: that a second CONNECT is an error, who may send
which packet, which topic alias is known, is the business of connection.py.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from protocols.mqtt.codec.errors import MqttError, PacketTooLargeError, ProtocolError
from protocols.mqtt.codec.packets import (
    MQTT_3_1,
    MQTT_5_0,
    Packet,
    PacketType,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
)
from protocols.mqtt.codec.primitives import Reader, decode_name, malformed
from protocols.mqtt.codec.properties import read_properties
from protocols.mqtt.codec.readers import READERS, read_connect, read_version
from protocols.mqtt.codec.writers import EncodedPublish, encode, encode_success, prepare_publish

__all__ = [
    "Decoder",
    "EncodedPublish",
    "encode",
    "encode_success",
    "prepare_publish",
]

_MINIMUM_HEADER: Final = 2
_NOTHING: Final = bytearray()
"""No beginning of a packet; never changed."""

_PUBLISH_FLAGS: Final = tuple(
    None if qos == 3 or (dup and not qos) else (qos, retain, dup)  # [MQTT5-3.3.1-4] [MQTT5-3.3.1-2]
    for dup in (False, True)
    for qos in range(4)
    for retain in (False, True)
)
"""The low four bits of the first byte of a PUBLISH -> (qos, retain, dup), or None where they are not allowed."""

_SHORT_ACKS: Final[dict[int, type[PubAck | PubRec | PubRel | PubComp]]] = {
    0x40: PubAck,
    0x50: PubRec,
    0x62: PubRel,
    0x70: PubComp,
}
_REQUIRED_FLAGS: Final[dict[int, int]] = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}

_MAX_CACHED_TOPIC_BYTES: Final = 256


def _decode_topic_name(data: bytes) -> str:
    topic = decode_name(data)
    if "+" in topic or "#" in topic:  # [MQTT5-3.3.2-2] [MQTT3-3.3.2-2]
        raise malformed("a topic name with a wildcard")
    return topic


# A fleet publishes to few topics, most devices to the same one: remembering which bytes are a valid topic saves the
# check (200 ns) and the copies. Both bounds together limit what a peer can pin to 1,024 x 256 bytes.
_cached_topic_name = lru_cache(maxsize=1024)(_decode_topic_name)


class Decoder:
    """Cuts a stream of bytes into packets.

    `version` is None until a CONNECT sets it, and then that of the connection (also when the rest of the CONNECT is
    wrong, so that the refusal has the right form); a client, whose peer sends no CONNECT, sets it at the beginning.
    """

    __slots__ = ("_error", "_needed", "_rest", "max_packet_bytes", "refused", "version")

    def __init__(self, *, max_packet_bytes: int, version: int | None = None) -> None:
        """`max_packet_bytes` counts the whole packet, fixed header included [MQTT5-3.1.2.11.4]."""
        self.max_packet_bytes = max_packet_bytes
        self.version = version
        self.refused: frozenset[int] = frozenset()
        """Types of packets that are a protocol error, whatever is in them: they are not read. Not PUBLISH, PUBACK,
        PUBREC, PUBREL or PUBCOMP, which are on the common path, and which both sides send."""
        self._rest = _NOTHING
        self._needed = _MINIMUM_HEADER
        self._error: MqttError | None = None

    @property
    def has_part(self) -> bool:
        """Whether a packet has begun and is not complete."""
        return bool(self._rest)

    def continue_from(self, other: "Decoder") -> None:
        """Takes over the stream of `other`, which is not to be used any more."""
        self.version, self.refused = other.version, other.refused
        self._rest, self._needed, self._error = other._rest, other._needed, other._error

    def decode(self, data: bytes) -> Iterator[Packet]:  # noqa: C901  # in parts it is slower
        """Yields the packets that `data` completes; keeps the beginning of one that is incomplete.

        Raises MqttError (ProtocolError, MalformedPacketError, PacketTooLargeError, UnsupportedProtocolVersionError)
        when the iteration comes to the packet that is wrong: those before it have been yielded. The decoder is spent
        then: every later call raises that error again. Nothing is decoded ahead of the caller, and packets that it
        does not take, because it left the loop, are yielded by the next call.
        """
        if self._error is not None:
            raise self._error
        if self._rest:
            # Appending is amortised; the copy below happens once per packet that came in parts, however many.
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest = _NOTHING
        position = 0
        needed = _MINIMUM_HEADER
        version = self.version
        max_packet_bytes = self.max_packet_bytes
        end = len(data)
        try:
            while end - position >= _MINIMUM_HEADER:
                first = data[position]
                if version is None and first >> 4 != PacketType.CONNECT:  # [MQTT5-3.1.0-1] [MQTT3-3.1.0-1]
                    raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "the first packet is not a CONNECT")
                length = data[position + 1]
                body = position + 2
                if length > 0x7F:
                    self._refuse(first)  # without waiting for the rest of a length that may be no length
                    decoded = _read_long_length(data, position + 1, end, version)
                    if decoded is None:
                        needed = end - position + 1
                        break
                    length, body = decoded
                stop = body + length
                if stop - position > max_packet_bytes:
                    raise PacketTooLargeError(f"a packet of {stop - position} bytes; at most {max_packet_bytes}")
                if stop > end:
                    needed = stop - position
                    break

                packet: Packet
                if 0x30 <= first < 0x40:
                    # PUBLISH, written out here: a call costs as much as all of these comparisons.
                    flags = _PUBLISH_FLAGS[first & 0x0F]
                    if flags is None:
                        raise malformed("PUBLISH with QoS 3, or with DUP at QoS 0")
                    qos, retain, dup = flags
                    if length < 2:
                        raise malformed("PUBLISH without a topic")
                    cursor = body + 2 + (data[body] << 8 | data[body + 1])
                    topic_end = cursor
                    packet_id = 0
                    if qos:
                        cursor += 2
                        if cursor > stop:
                            raise malformed("PUBLISH ends inside a field")
                        packet_id = data[topic_end] << 8 | data[topic_end + 1]
                        if packet_id == 0:  # [MQTT5-2.2.1-3] [MQTT3-2.3.1-1]
                            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "packet identifier 0")
                    elif cursor > stop:
                        raise malformed("PUBLISH ends inside a field")
                    properties: Properties = {}
                    if version == MQTT_5_0:
                        if cursor < stop and data[cursor] == 0:
                            cursor += 1
                        else:
                            reader = Reader(data, cursor, stop)
                            properties = read_properties(reader, PacketType.PUBLISH)
                            cursor = reader.position
                    raw_topic = data[body + 2 : topic_end]
                    if topic_end - body <= _MAX_CACHED_TOPIC_BYTES:
                        topic = _cached_topic_name(raw_topic)
                    else:
                        topic = _decode_topic_name(raw_topic)
                    if not topic and "topic_alias" not in properties:  # [MQTT5-3.3.2.1] [MQTT3-4.7.3-1]
                        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "PUBLISH without a topic")
                    packet = Publish(
                        topic=topic,
                        payload=data[cursor:stop],
                        qos=qos,
                        retain=retain,
                        dup=dup,
                        packet_id=packet_id,
                        properties=properties,
                    )
                elif length == 2 and first in _SHORT_ACKS:
                    packet_id = data[body] << 8 | data[body + 1]
                    if packet_id == 0:
                        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "packet identifier 0")
                    packet = _SHORT_ACKS[first](packet_id)
                else:
                    packet = self._decode_body(first, Reader(data, body, stop))
                    version = self.version
                position = stop
                yield packet
        except MqttError as error:
            self._error = error
            raise
        finally:
            if position < end and self._error is None:
                self._rest = bytearray(data[position:])
                self._needed = needed

    def _decode_body(self, first: int, reader: Reader) -> Packet:
        self._refuse(first)
        packet_type, flags = first >> 4, first & 0x0F
        if packet_type == PacketType.CONNECT:
            version, bridge = read_version(reader)
            if self.version is None:
                self.version = version
            if flags and version != MQTT_3_1:  # [MQTT5-2.1.3-1] [MQTT3-2.2.2-2]
                raise malformed("reserved flags of CONNECT")
            return read_connect(reader, version, bridge=bridge)
        assert self.version is not None  # only a CONNECT gets here before it is set
        read = READERS.get(packet_type)
        if read is None:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"packet type {packet_type} is reserved")
        # 3.1 says of these flags that they are not used, and sets DUP in what is sent again.
        if flags != _REQUIRED_FLAGS.get(packet_type, 0) and self.version != MQTT_3_1:
            raise malformed(f"reserved flags of packet type {packet_type}")
        packet = read(reader, self.version)
        reader.expect_end()
        return packet

    def _refuse(self, first: int) -> None:
        packet_type = first >> 4
        if packet_type not in self.refused:
            return
        if packet_type and first & 0x0F and self.version != MQTT_3_1:  # [MQTT5-2.1.3-1] [MQTT3-2.2.2-2]
            raise malformed(f"reserved flags of packet type {packet_type}")
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"{_type_name(packet_type)} is not allowed here")


def _type_name(packet_type: int) -> str:
    return PacketType(packet_type).name if packet_type else "packet type 0"


def _read_long_length(data: bytes, position: int, end: int, version: int | None) -> tuple[int, int] | None:
    """A remaining length of two to four bytes and the position behind it, or None if it is incomplete.

    5.0 demands the shortest form [MQTT5-1.5.5-1]; before it, a longer one is allowed.
    """
    length = 0
    for shift in (0, 7, 14, 21):
        if position == end:
            return None
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and version == MQTT_5_0:
                raise malformed("the remaining length is longer than it needs to be")
            return length, position
    raise malformed("the remaining length has more than four bytes")
