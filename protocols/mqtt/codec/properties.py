"""The properties of MQTT 5.0 [MQTT5-2.2.2]: one table, and reading and writing by it.

A packet that cannot carry a property, an unknown identifier and a wrong type are malformed [MQTT5-2.2.2.2]; a repeated
property and a value that the specification excludes are protocol errors.
"""

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from protocols.mqtt.codec.errors import EncodeError, ProtocolError
from protocols.mqtt.codec.packets import PacketType, Properties, ReasonCode
from protocols.mqtt.codec.primitives import (
    MAX_FOUR_BYTES,
    MAX_TWO_BYTES,
    MAX_VARIABLE,
    Reader,
    encode_binary,
    encode_four_bytes,
    encode_string,
    encode_two_bytes,
    encode_variable,
    malformed,
)

WILL: Final = 0
"""Stands for the will in a CONNECT where a packet type says who carries a property; 0 is no packet's type."""


class ValueType(Enum):
    """The data type of a property's value."""

    BYTE = auto()
    TWO_BYTES = auto()
    FOUR_BYTES = auto()
    VARIABLE = auto()
    BINARY = auto()
    STRING = auto()
    STRING_PAIR = auto()


class Property(NamedTuple):
    """One row of the table.

    `carriers` are the packet types (and WILL) that may have it, `repeated_in` those that may have it more than once.
    Integers are within `minimum` and `maximum`; a value outside them is answered with `reason_code`.
    """

    identifier: int
    name: str
    kind: ValueType
    carriers: frozenset[int]
    repeated_in: frozenset[int] = frozenset()
    minimum: int = 0
    maximum: int = 0
    reason_code: ReasonCode = ReasonCode.PROTOCOL_ERROR


_CONNECT, _CONNACK = PacketType.CONNECT, PacketType.CONNACK
_PUBLISH, _AUTH, _DISCONNECT = PacketType.PUBLISH, PacketType.AUTH, PacketType.DISCONNECT
_ANSWERS = (
    PacketType.PUBACK,
    PacketType.PUBREC,
    PacketType.PUBREL,
    PacketType.PUBCOMP,
    PacketType.SUBACK,
    PacketType.UNSUBACK,
)
_REQUESTS = (PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE)

_MAXIMA: Final = {
    ValueType.BYTE: 1,  # every byte property is a flag, or maximum_qos, where 2 is said by leaving it out
    ValueType.TWO_BYTES: MAX_TWO_BYTES,
    ValueType.FOUR_BYTES: MAX_FOUR_BYTES,
    ValueType.VARIABLE: MAX_VARIABLE,
}


def _row(
    identifier: int,
    name: str,
    kind: ValueType,
    *carriers: int,
    repeated_in: tuple[int, ...] = (),
    minimum: int = 0,
    reason_code: ReasonCode = ReasonCode.PROTOCOL_ERROR,
) -> Property:
    maximum = _MAXIMA.get(kind, 0)
    return Property(identifier, name, kind, frozenset(carriers), frozenset(repeated_in), minimum, maximum, reason_code)


_EVERYWHERE = (_CONNECT, _CONNACK, _PUBLISH, WILL, _DISCONNECT, _AUTH, *_ANSWERS, *_REQUESTS)

PROPERTIES: Final[tuple[Property, ...]] = (
    _row(0x01, "payload_format_indicator", ValueType.BYTE, _PUBLISH, WILL),
    _row(0x02, "message_expiry_interval", ValueType.FOUR_BYTES, _PUBLISH, WILL),
    _row(0x03, "content_type", ValueType.STRING, _PUBLISH, WILL),
    _row(0x08, "response_topic", ValueType.STRING, _PUBLISH, WILL),
    _row(0x09, "correlation_data", ValueType.BINARY, _PUBLISH, WILL),
    _row(
        0x0B,
        "subscription_identifier",
        ValueType.VARIABLE,
        _PUBLISH,
        PacketType.SUBSCRIBE,
        repeated_in=(_PUBLISH,),
        minimum=1,  # [MQTT5-3.8.2.1.2]
    ),
    _row(0x11, "session_expiry_interval", ValueType.FOUR_BYTES, _CONNECT, _CONNACK, _DISCONNECT),
    _row(0x12, "assigned_client_identifier", ValueType.STRING, _CONNACK),
    _row(0x13, "server_keep_alive", ValueType.TWO_BYTES, _CONNACK),
    _row(0x15, "authentication_method", ValueType.STRING, _CONNECT, _CONNACK, _AUTH),
    _row(0x16, "authentication_data", ValueType.BINARY, _CONNECT, _CONNACK, _AUTH),
    _row(0x17, "request_problem_information", ValueType.BYTE, _CONNECT),
    _row(0x18, "will_delay_interval", ValueType.FOUR_BYTES, WILL),
    _row(0x19, "request_response_information", ValueType.BYTE, _CONNECT),
    _row(0x1A, "response_information", ValueType.STRING, _CONNACK),
    _row(0x1C, "server_reference", ValueType.STRING, _CONNACK, _DISCONNECT),
    _row(0x1F, "reason_string", ValueType.STRING, _CONNACK, _DISCONNECT, _AUTH, *_ANSWERS),
    _row(0x21, "receive_maximum", ValueType.TWO_BYTES, _CONNECT, _CONNACK, minimum=1),
    _row(0x22, "topic_alias_maximum", ValueType.TWO_BYTES, _CONNECT, _CONNACK),
    _row(
        0x23,
        "topic_alias",
        ValueType.TWO_BYTES,
        _PUBLISH,
        minimum=1,
        reason_code=ReasonCode.TOPIC_ALIAS_INVALID,  # [MQTT5-3.3.2-8]
    ),
    _row(0x24, "maximum_qos", ValueType.BYTE, _CONNACK),
    _row(0x25, "retain_available", ValueType.BYTE, _CONNACK),
    _row(0x26, "user_property", ValueType.STRING_PAIR, *_EVERYWHERE, repeated_in=_EVERYWHERE),
    _row(0x27, "maximum_packet_size", ValueType.FOUR_BYTES, _CONNECT, _CONNACK, minimum=1),
    _row(0x28, "wildcard_subscription_available", ValueType.BYTE, _CONNACK),
    _row(0x29, "subscription_identifier_available", ValueType.BYTE, _CONNACK),
    _row(0x2A, "shared_subscription_available", ValueType.BYTE, _CONNACK),
)

_PAIR_BYTES: Final = 160
"""Two strings and the tuple that holds them, besides their characters."""

_BY_IDENTIFIER: Final = {row.identifier: row for row in PROPERTIES}
_BY_NAME: Final = {row.name: row for row in PROPERTIES}


def read_properties(reader: Reader, carrier: int) -> Properties:
    """Reads the property length and the properties of a packet of type `carrier` (or WILL).

    A property that may be repeated there is a list, in the order of the wire [MQTT5-3.1.3-10] [MQTT5-3.3.2-18].
    """
    size = reader.variable()
    if size == 0:
        return {}
    body = reader.sub_reader(size)
    properties: Properties = {}
    while body:
        row = _BY_IDENTIFIER.get(body.variable())
        if row is None:
            raise malformed("unknown property")
        if carrier not in row.carriers:
            raise malformed(f"{row.name} does not belong to this packet")
        value = _read_value(body, row)
        if carrier in row.repeated_in:
            properties.setdefault(row.name, []).append(value)
        elif row.name in properties:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"{row.name} comes twice")
        else:
            properties[row.name] = value
    return properties


def _read_value(reader: Reader, row: Property) -> Any:
    match row.kind:
        case ValueType.STRING:
            text = reader.string()
            _check_text(row, text)
            return text
        case ValueType.STRING_PAIR:
            return reader.string(), reader.string()
        case ValueType.BINARY:
            return reader.binary()
        case ValueType.BYTE:
            value = reader.byte()
        case ValueType.TWO_BYTES:
            value = reader.two_bytes()
        case ValueType.FOUR_BYTES:
            value = reader.four_bytes()
        case ValueType.VARIABLE:
            value = reader.variable()
    if not row.minimum <= value <= row.maximum:
        raise ProtocolError(row.reason_code, f"{row.name} cannot be {value}")
    return value


def _check_text(row: Property, text: str) -> None:
    if row.name == "response_topic" and (not text or "+" in text or "#" in text):  # [MQTT5-3.3.2-14]
        raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "response_topic is not a topic name")


def size_bytes(properties: Properties) -> int:
    """What properties take of memory, roughly: a peer may send a hundred thousand of them in one packet."""
    size = 0
    for value in properties.values():
        if isinstance(value, list):
            size += sum(_PAIR_BYTES + len(name) + len(text) for name, text in value)
        elif isinstance(value, (str, bytes)):
            size += len(value)
    return size


def encode_properties(properties: Properties, carrier: int) -> bytes:
    """The property length and the properties. Raises EncodeError if the table does not allow them."""
    if not properties:
        return b"\0"
    parts: list[bytes] = []
    for name, value in properties.items():
        row = _BY_NAME.get(name)
        if row is None or carrier not in row.carriers:
            raise EncodeError(f"{name!r} is not a property of this packet")
        values = value if carrier in row.repeated_in else (value,)
        identifier = encode_variable(row.identifier)
        parts.extend(identifier + _encode_value(row, item) for item in values)
    body = b"".join(parts)
    return encode_variable(len(body)) + body


def _encode_value(row: Property, value: Any) -> bytes:
    match row.kind, value:
        case ValueType.STRING, str():
            try:
                _check_text(row, value)
            except ProtocolError as error:
                raise EncodeError(error.text) from error
            return encode_string(value)
        case ValueType.STRING_PAIR, (str(key), str(text)):
            return encode_string(key) + encode_string(text)
        case ValueType.BINARY, bytes():
            return encode_binary(value)
        case _, int() if row.maximum and row.minimum <= value <= row.maximum:
            return _INTEGERS[row.kind](value)
    raise EncodeError(f"{row.name} cannot be {value!r}")


_INTEGERS: Final = {
    ValueType.BYTE: encode_variable,  # 0 or 1: the same byte
    ValueType.TWO_BYTES: encode_two_bytes,
    ValueType.FOUR_BYTES: encode_four_bytes,
    ValueType.VARIABLE: encode_variable,
}
