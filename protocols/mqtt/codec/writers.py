"""Writes every control packet for a version of MQTT.

What an older version cannot say is left out: properties, the reason codes of acknowledgements. What no version can say
(a string of 70,000 bytes, an unknown property, a reason code that the packet does not have) raises EncodeError.
"""

from collections.abc import Callable
from typing import Any, Final

from protocols.mqtt.codec.errors import EncodeError
from protocols.mqtt.codec.packets import (
    MQTT_3_1,
    MQTT_5_0,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from protocols.mqtt.codec.primitives import (
    MAX_TWO_BYTES,
    encode_binary,
    encode_packet_id,
    encode_string,
    encode_two_bytes,
    encode_variable,
)
from protocols.mqtt.codec.properties import WILL, encode_properties
from protocols.mqtt.codec.reason_codes import REASON_CODES, connect_return_code, suback_return_code

_SHORT_HEADERS: Final = {
    PacketType.PUBACK: b"\x40\x02",
    PacketType.PUBREC: b"\x50\x02",
    PacketType.PUBREL: b"\x62\x02",
    PacketType.PUBCOMP: b"\x70\x02",
}
_PACKET_IDS: Final = range(1, MAX_TWO_BYTES + 1)


def encode(packet: Packet, version: int) -> bytes:
    """The bytes of a packet in MQTT 3.1 (3), 3.1.1 (4) or 5.0 (5). Raises EncodeError."""
    return _WRITERS[type(packet)](packet, version)


def encode_success(packet_type: PacketType, packet_id: int) -> bytes:
    """A PUBACK, PUBREC, PUBREL or PUBCOMP that reports success: the same four bytes in every version."""
    if packet_id not in _PACKET_IDS:
        raise EncodeError(f"packet identifier {packet_id}")
    return _SHORT_HEADERS[packet_type] + packet_id.to_bytes(2, "big")


class EncodedPublish:
    """A PUBLISH encoded once for all receivers that get it in the same version, QoS and properties.

    At QoS 0 `head` is the whole packet. Above, `head` ends before the packet identifier and `tail` follows it, and
    `with_packet_id` is the packet.
    """

    __slots__ = ("head", "size", "tail")

    def __init__(self, head: bytes, tail: bytes, *, qos: int) -> None:
        self.head = head
        self.tail = tail
        self.size = len(head) + len(tail) + (2 if qos else 0)
        """The size of the packet in bytes, which a receiver may limit by its maximum_packet_size [MQTT5-3.1.2-24]."""

    def with_packet_id(self, packet_id: int, *, dup: bool = False) -> bytes:
        """The packet with this identifier, and with DUP set if it is sent again [MQTT5-3.3.1-1]."""
        packet = b"%b%b%b" % (self.head, packet_id.to_bytes(2, "big"), self.tail)
        return bytes((packet[0] | 0x08,)) + packet[1:] if dup else packet


def prepare_publish(
    topic: str,
    payload: bytes,
    *,
    version: int,
    qos: int = 0,
    retain: bool = False,
    properties: Properties | None = None,
) -> EncodedPublish:
    """Encodes a PUBLISH but for its packet identifier. Raises EncodeError.

    `topic` is trusted to be a topic name (topic_rules.validate_topic_name), or "" with a topic alias.
    """
    body = encode_string(topic)
    after = payload if version != MQTT_5_0 else encode_properties(properties or {}, PacketType.PUBLISH) + payload
    first = bytes((0x30 | qos << 1 | retain,))
    if qos == 0:
        return EncodedPublish(first + encode_variable(len(body) + len(after)) + body + after, b"", qos=0)
    return EncodedPublish(first + encode_variable(len(body) + 2 + len(after)) + body, after, qos=qos)


def _encode_publish(packet: Publish, version: int) -> bytes:
    qos = packet.qos
    if not 0 <= qos <= 2 or (packet.dup and not qos):  # [MQTT5-3.3.1-4] [MQTT5-3.3.1-2]
        raise EncodeError(f"PUBLISH with QoS {qos} and DUP {packet.dup}")
    prepared = prepare_publish(
        packet.topic, packet.payload, version=version, qos=qos, retain=packet.retain, properties=packet.properties
    )
    if qos == 0:
        return prepared.head
    if packet.packet_id not in _PACKET_IDS:
        raise EncodeError(f"packet identifier {packet.packet_id}")
    return prepared.with_packet_id(packet.packet_id, dup=packet.dup)


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + encode_variable(len(body)) + body


def _properties(properties: Properties, version: int, carrier: int) -> bytes:
    return encode_properties(properties, carrier) if version == MQTT_5_0 else b""


def _reason_codes(packet_type: PacketType, *codes: int) -> bytes:
    for code in codes:
        if code not in REASON_CODES[packet_type]:
            raise EncodeError(f"reason code {code:#04x} in {packet_type.name}")
    return bytes(codes)


def _encode_connect(packet: Connect, version: int) -> bytes:
    if packet.version != version:
        raise EncodeError(f"a CONNECT of version {packet.version} on a connection of version {version}")
    name = b"MQIsdp" if version == MQTT_3_1 else b"MQTT"
    flags = packet.clean_start << 1
    payload = [encode_string(packet.client_id)]
    if (will := packet.will) is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        payload.append(_properties(will.properties, version, WILL))
        payload += (encode_string(will.topic), encode_binary(will.payload))
    if packet.username is not None:
        flags |= 0x80
        payload.append(encode_string(packet.username))
    if packet.password is not None:
        if packet.username is None and version != MQTT_5_0:  # [MQTT3-3.1.2-22]
            raise EncodeError("a password without a user name")
        flags |= 0x40
        payload.append(encode_binary(packet.password))
    level = version | (0x80 if packet.bridge else 0)
    head = encode_binary(name) + bytes((level, flags)) + encode_two_bytes(packet.keep_alive_s)
    return _packet(0x10, head, _properties(packet.properties, version, PacketType.CONNECT), *payload)


def _encode_connack(packet: ConnAck, version: int) -> bytes:
    session_present = packet.session_present and version != MQTT_3_1
    if packet.session_present and packet.reason_code:  # [MQTT5-3.2.2-6]
        raise EncodeError("a refused connection has no session present")
    code = _reason_codes(PacketType.CONNACK, packet.reason_code)
    if version != MQTT_5_0:
        return bytes((0x20, 2, session_present, connect_return_code(packet.reason_code)))
    return _packet(0x20, bytes((session_present,)), code, encode_properties(packet.properties, PacketType.CONNACK))


_Acknowledgement = PubAck | PubRec | PubRel | PubComp


def _acknowledgement(packet_type: PacketType) -> Callable[[_Acknowledgement, int], bytes]:
    header = _SHORT_HEADERS[packet_type]

    def write(packet: _Acknowledgement, version: int) -> bytes:
        packet_id = packet.packet_id
        if packet_id not in _PACKET_IDS:
            raise EncodeError(f"packet identifier {packet_id}")
        if version != MQTT_5_0 or not (packet.reason_code or packet.properties):
            return header + packet_id.to_bytes(2, "big")
        tail = _reason_codes(packet_type, packet.reason_code)
        if packet.properties:
            tail += encode_properties(packet.properties, packet_type)
        return _packet(header[0], packet_id.to_bytes(2, "big"), tail)

    return write


def _encode_subscribe(packet: Subscribe, version: int) -> bytes:
    if not packet.subscriptions:  # [MQTT5-3.8.3-2]
        raise EncodeError("SUBSCRIBE without a topic filter")
    return _packet(
        0x82,
        encode_packet_id(packet.packet_id),
        _properties(packet.properties, version, PacketType.SUBSCRIBE),
        *(_encode_subscription(subscription, version) for subscription in packet.subscriptions),
    )


def _encode_subscription(subscription: Subscription, version: int) -> bytes:
    options = subscription.qos
    if version == MQTT_5_0:
        options |= subscription.no_local << 2 | subscription.retain_as_published << 3
        options |= subscription.retain_handling << 4
    return encode_string(subscription.topic_filter) + bytes((options,))


def _encode_suback(packet: SubAck, version: int) -> bytes:
    codes = _reason_codes(PacketType.SUBACK, *packet.reason_codes)
    if version != MQTT_5_0:
        codes = bytes(suback_return_code(code) for code in codes)
    properties = _properties(packet.properties, version, PacketType.SUBACK)
    return _packet(0x90, encode_packet_id(packet.packet_id), properties, codes)


def _encode_unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    if not packet.topic_filters:  # [MQTT5-3.10.3-2]
        raise EncodeError("UNSUBSCRIBE without a topic filter")
    properties = _properties(packet.properties, version, PacketType.UNSUBSCRIBE)
    return _packet(0xA2, encode_packet_id(packet.packet_id), properties, *map(encode_string, packet.topic_filters))


def _encode_unsuback(packet: UnsubAck, version: int) -> bytes:
    if version != MQTT_5_0:
        return _packet(0xB0, encode_packet_id(packet.packet_id))
    codes = _reason_codes(PacketType.UNSUBACK, *packet.reason_codes)
    properties = encode_properties(packet.properties, PacketType.UNSUBACK)
    return _packet(0xB0, encode_packet_id(packet.packet_id), properties, codes)


def _encode_disconnect(packet: Disconnect, version: int) -> bytes:
    if version != MQTT_5_0 or not (packet.reason_code or packet.properties):
        return b"\xe0\x00"
    code = _reason_codes(PacketType.DISCONNECT, packet.reason_code)
    if not packet.properties:
        return _packet(0xE0, code)
    return _packet(0xE0, code, encode_properties(packet.properties, PacketType.DISCONNECT))


def _encode_auth(packet: Auth, version: int) -> bytes:
    if version != MQTT_5_0:
        raise EncodeError("AUTH before 5.0")
    if not (packet.reason_code or packet.properties):
        return b"\xf0\x00"
    code = _reason_codes(PacketType.AUTH, packet.reason_code)
    return _packet(0xF0, code, encode_properties(packet.properties, PacketType.AUTH))


_WRITERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    Connect: _encode_connect,
    ConnAck: _encode_connack,
    Publish: _encode_publish,
    PubAck: _acknowledgement(PacketType.PUBACK),
    PubRec: _acknowledgement(PacketType.PUBREC),
    PubRel: _acknowledgement(PacketType.PUBREL),
    PubComp: _acknowledgement(PacketType.PUBCOMP),
    Subscribe: _encode_subscribe,
    SubAck: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    UnsubAck: _encode_unsuback,
    PingReq: lambda _packet, _version: b"\xc0\x00",
    PingResp: lambda _packet, _version: b"\xd0\x00",
    Disconnect: _encode_disconnect,
    Auth: _encode_auth,
}
