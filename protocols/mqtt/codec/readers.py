"""Reads the body of every control packet except PUBLISH and the plain acknowledgements, which decoder.Decoder reads.

Each function takes a Reader of exactly one body and the version of the connection, returns the packet, and raises
ProtocolError or MalformedPacketError. 3.1 is read leniently where it says that a field is not used and later versions
say that it is reserved; a client identifier of more than 23 bytes is accepted there too, as every broker does.
"""

from collections.abc import Callable
from typing import Final

from protocols.mqtt.codec.errors import MqttError, ProtocolError, UnsupportedProtocolVersionError
from protocols.mqtt.codec.packets import (
    MQTT_3_1,
    MQTT_3_1_1,
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
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.codec.primitives import Reader, malformed
from protocols.mqtt.codec.properties import WILL, read_properties
from protocols.mqtt.codec.reason_codes import REASON_CODES, REASON_OF_RETURN_CODE, SUBACK_FAILURE
from protocols.mqtt.codec.topic_rules import SHARE_PREFIX

_VERSIONS: Final = {(b"MQIsdp", MQTT_3_1): MQTT_3_1, (b"MQTT", MQTT_3_1_1): MQTT_3_1_1, (b"MQTT", MQTT_5_0): MQTT_5_0}
_PROTOCOL_NAMES: Final = (b"MQTT", b"MQIsdp")
_BRIDGE_BIT: Final = 0x80

REFUSED_BEFORE_5: Final = b"\x20\x02\x00\x01"
REFUSED_SINCE_5: Final = b"\x20\x03\x00\x84\x00"


def read_version(reader: Reader) -> tuple[int, bool]:
    """Reads the protocol name and level of a CONNECT: the version, and whether the bridge bit is set.

    Raises UnsupportedProtocolVersionError with the answer that suits the form of the CONNECT [MQTT3-3.1.2-2]
    [MQTT5-3.1.2-2]; to another protocol name the answer is silence [MQTT3-3.1.2-1] [MQTT5-3.1.2-1].
    """
    name = reader.binary()
    if name not in _PROTOCOL_NAMES:
        raise UnsupportedProtocolVersionError("the protocol name is not that of MQTT", answer=b"")
    level = reader.byte()
    version = _VERSIONS.get((name, level))
    if version is not None:
        return version, False
    version = _VERSIONS.get((name, level & ~_BRIDGE_BIT))
    if version is not None and version != MQTT_5_0:
        return version, True
    answer = REFUSED_SINCE_5 if _has_form_of_5(reader) else REFUSED_BEFORE_5
    raise UnsupportedProtocolVersionError(f"protocol level {level} of {name.decode()}", answer=answer)


def _has_form_of_5(reader: Reader) -> bool:
    """Whether a CONNECT, behind its protocol level, reads as one of 5.0: then that is what its client reads too."""
    try:
        read_connect(Reader(reader.data, reader.position, reader.stop), MQTT_5_0, bridge=False)
    except MqttError:
        return False
    return True


_USERNAME_FLAG, _PASSWORD_FLAG, _WILL_RETAIN_FLAG, _WILL_FLAG, _CLEAN_FLAG = 0x80, 0x40, 0x20, 0x04, 0x02
_WILL_FLAGS: Final = 0x38


def read_connect(reader: Reader, version: int, *, bridge: bool) -> Connect:
    """Reads a CONNECT behind its protocol level [MQTT5-3.1] [MQTT3-3.1]."""
    flags = reader.byte()
    if version != MQTT_3_1:
        _check_connect_flags(flags, version)
    keep_alive_s = reader.two_bytes()
    properties = _properties(reader, version, PacketType.CONNECT)
    if "authentication_data" in properties and "authentication_method" not in properties:  # [MQTT5-3.1.2.11.10]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "authentication_data without authentication_method")
    client_id = reader.name()
    will = _read_will(reader, version, flags) if flags & _WILL_FLAG else None
    # 3.1 §3.1: the remaining length takes precedence over these two flags.
    cut_short = version == MQTT_3_1
    username = reader.name() if flags & _USERNAME_FLAG and (reader or not cut_short) else None
    password = reader.binary() if flags & _PASSWORD_FLAG and (reader or not cut_short) else None
    reader.expect_end()
    return Connect(
        version=version,
        client_id=client_id,
        clean_start=bool(flags & _CLEAN_FLAG),
        keep_alive_s=keep_alive_s,
        username=username,
        password=password,
        will=will,
        properties=properties,
        bridge=bridge,
    )


def _check_connect_flags(flags: int, version: int) -> None:
    if flags & 0x01:  # [MQTT5-3.1.2-3] [MQTT3-3.1.2-3]
        raise malformed("the reserved connect flag is set")
    if flags & _WILL_FLAG:
        if flags & 0x18 == 0x18:  # [MQTT5-3.1.2-12] [MQTT3-3.1.2-14]
            raise malformed("will QoS 3")
    elif flags & _WILL_FLAGS:  # [MQTT5-3.1.2-11] [MQTT5-3.1.2-13] [MQTT3-3.1.2-13] [MQTT3-3.1.2-15]
        raise malformed("will QoS or will retain without a will")
    if version == MQTT_3_1_1 and flags & _PASSWORD_FLAG and not flags & _USERNAME_FLAG:  # [MQTT3-3.1.2-22]
        raise malformed("a password without a user name")


def _read_will(reader: Reader, version: int, flags: int) -> Will:
    properties = _properties(reader, version, WILL)
    topic = reader.name()
    if not topic or "+" in topic or "#" in topic:  # it is published, so it is a topic name [MQTT5-3.3.2-2]
        raise malformed("the will topic is not a topic name")
    qos = (flags & 0x18) >> 3
    if qos == 3:
        raise malformed("will QoS 3")
    return Will(
        topic=topic, payload=reader.binary(), qos=qos, retain=bool(flags & _WILL_RETAIN_FLAG), properties=properties
    )


def _properties(reader: Reader, version: int, carrier: int) -> Properties:
    return read_properties(reader, carrier) if version == MQTT_5_0 else {}


def _reason_code(reader: Reader, packet_type: PacketType) -> int:
    reason_code = reader.byte()
    if reason_code not in REASON_CODES[packet_type]:  # [MQTT5-3.4.2-1] and its like in each packet
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"reason code {reason_code:#04x} in {packet_type.name}")
    return reason_code


def _read_connack(reader: Reader, version: int) -> ConnAck:
    flags = reader.byte()
    if version == MQTT_3_1:  # there the byte is reserved and not used
        flags = 0
    if flags > 1:  # [MQTT5-3.2.2-1]
        raise malformed("a reserved flag of CONNACK is set")
    if version == MQTT_5_0:
        reason_code = _reason_code(reader, PacketType.CONNACK)
    else:
        return_code = reader.byte()
        if return_code not in REASON_OF_RETURN_CODE:
            raise malformed(f"connect return code {return_code}")
        reason_code = REASON_OF_RETURN_CODE[return_code]
    if flags and reason_code:  # [MQTT5-3.2.2-6] [MQTT3-3.2.2-4]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "a refused connection has no session present")
    properties = _properties(reader, version, PacketType.CONNACK)
    return ConnAck(reason_code=reason_code, session_present=bool(flags), properties=properties)


_Acknowledgement = type[PubAck] | type[PubRec] | type[PubRel] | type[PubComp]


def _acknowledgement(packet_type: PacketType, packet: _Acknowledgement) -> Callable[[Reader, int], Packet]:
    """Reads PUBACK, PUBREC, PUBREL and PUBCOMP; reason code and properties may be left out [MQTT5-3.4.2.1]."""

    def read(reader: Reader, version: int) -> Packet:
        packet_id = reader.packet_id()
        if version != MQTT_5_0 or not reader:
            return packet(packet_id)
        reason_code = _reason_code(reader, packet_type)
        return packet(packet_id, reason_code, read_properties(reader, packet_type) if reader else {})

    return read


def _read_subscribe(reader: Reader, version: int) -> Subscribe:
    packet_id = reader.packet_id()
    properties = _properties(reader, version, PacketType.SUBSCRIBE)
    subscriptions = []
    while reader:
        subscriptions.append(_read_subscription(reader, version))
    if not subscriptions:  # [MQTT5-3.8.3-2] [MQTT3-3.8.3-3]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "SUBSCRIBE without a topic filter")
    return Subscribe(packet_id=packet_id, subscriptions=tuple(subscriptions), properties=properties)


def _read_subscription(reader: Reader, version: int) -> Subscription:
    """One topic filter and its options."""
    topic_filter = _topic_filter(reader)
    options = reader.byte()
    qos = options & 0x03
    if qos == 3:  # [MQTT5-3.8.3-5] [MQTT3-3.8.3-4]
        raise malformed("requested QoS 3")
    if version != MQTT_5_0:
        if options > 2:  # [MQTT3-3.8.3-4]
            raise malformed("a reserved subscription option is set")
        return Subscription(topic_filter=topic_filter, qos=qos)
    if options & 0xC0:  # [MQTT5-3.8.3-5]
        raise malformed("a reserved subscription option is set")
    retain_handling = options >> 4
    if retain_handling == 3:  # [MQTT5-3.8.3.1]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "retain handling 3")
    no_local = bool(options & 0x04)
    if no_local and topic_filter.startswith(SHARE_PREFIX):  # [MQTT5-3.8.3-4]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "no local on a shared subscription")
    return Subscription(
        topic_filter=topic_filter,
        qos=qos,
        no_local=no_local,
        retain_as_published=bool(options & 0x08),
        retain_handling=retain_handling,
    )


def _topic_filter(reader: Reader) -> str:
    """A topic filter of at least one character. Whether it is valid is not asked here: one that is not is refused by
    itself in the SUBACK or UNSUBACK (topic_rules.validate_topic_filter), and the others of the packet are granted."""
    topic_filter = reader.name()
    if not topic_filter:  # [MQTT5-4.7.3-1] [MQTT3-4.7.3-1]
        raise malformed("an empty topic filter")
    return topic_filter


def _read_suback(reader: Reader, version: int) -> SubAck:
    packet_id = reader.packet_id()
    properties = _properties(reader, version, PacketType.SUBACK)
    codes = _reason_codes(reader, PacketType.SUBACK)
    if version != MQTT_5_0 and any(2 < code != SUBACK_FAILURE for code in codes):  # [MQTT3-3.9.3-2]
        raise malformed("a reserved return code in SUBACK")
    return SubAck(packet_id=packet_id, reason_codes=codes, properties=properties)


def _read_unsubscribe(reader: Reader, version: int) -> Unsubscribe:
    packet_id = reader.packet_id()
    properties = _properties(reader, version, PacketType.UNSUBSCRIBE)
    topic_filters = []
    while reader:
        topic_filters.append(_topic_filter(reader))
    if not topic_filters:  # [MQTT5-3.10.3-2] [MQTT3-3.10.3-2]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "UNSUBSCRIBE without a topic filter")
    return Unsubscribe(packet_id=packet_id, topic_filters=tuple(topic_filters), properties=properties)


def _read_unsuback(reader: Reader, version: int) -> UnsubAck:
    packet_id = reader.packet_id()
    if version != MQTT_5_0:
        return UnsubAck(packet_id=packet_id)
    properties = read_properties(reader, PacketType.UNSUBACK)
    return UnsubAck(packet_id=packet_id, reason_codes=_reason_codes(reader, PacketType.UNSUBACK), properties=properties)


def _reason_codes(reader: Reader, packet_type: PacketType) -> tuple[int, ...]:
    codes = []
    while reader:
        codes.append(_reason_code(reader, packet_type))
    if not codes:
        raise malformed(f"{packet_type.name} without a reason code")
    return tuple(codes)


def _read_disconnect(reader: Reader, version: int) -> Disconnect:
    if version != MQTT_5_0 or not reader:  # [MQTT5-3.14.2.1]
        return Disconnect()
    reason_code = _reason_code(reader, PacketType.DISCONNECT)
    properties = read_properties(reader, PacketType.DISCONNECT) if reader else {}
    return Disconnect(reason_code=reason_code, properties=properties)


def _read_auth(reader: Reader, version: int) -> Auth:
    if version != MQTT_5_0:  # [MQTT3-2.2.1]: type 15 is reserved
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "packet type 15 is reserved before 5.0")
    if not reader:  # [MQTT5-3.15.2.1]
        return Auth()
    reason_code = _reason_code(reader, PacketType.AUTH)
    properties = read_properties(reader, PacketType.AUTH)
    if "authentication_method" not in properties:  # [MQTT5-3.15.2.2.2]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "AUTH without authentication_method")
    return Auth(reason_code=reason_code, properties=properties)


READERS: Final[dict[int, Callable[[Reader, int], Packet]]] = {
    PacketType.CONNACK: _read_connack,
    PacketType.PUBACK: _acknowledgement(PacketType.PUBACK, PubAck),
    PacketType.PUBREC: _acknowledgement(PacketType.PUBREC, PubRec),
    PacketType.PUBREL: _acknowledgement(PacketType.PUBREL, PubRel),
    PacketType.PUBCOMP: _acknowledgement(PacketType.PUBCOMP, PubComp),
    PacketType.SUBSCRIBE: _read_subscribe,
    PacketType.SUBACK: _read_suback,
    PacketType.UNSUBSCRIBE: _read_unsubscribe,
    PacketType.UNSUBACK: _read_unsuback,
    PacketType.PINGREQ: lambda _reader, _version: PingReq(),
    PacketType.PINGRESP: lambda _reader, _version: PingResp(),
    PacketType.DISCONNECT: _read_disconnect,
    PacketType.AUTH: _read_auth,
}
