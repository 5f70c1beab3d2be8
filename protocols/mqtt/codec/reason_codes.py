"""Which reason codes each packet may carry, and how those of 5.0 and the return codes of 3.1 and 3.1.1 translate."""

from typing import Final

from protocols.mqtt.codec.packets import PacketType, ReasonCode

_R = ReasonCode
_PUBACK = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_PUBREL = frozenset({_R.SUCCESS, _R.PACKET_IDENTIFIER_NOT_FOUND})

REASON_CODES: Final[dict[PacketType, frozenset[int]]] = {
    PacketType.CONNACK: frozenset(
        {0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
    ),
    PacketType.PUBACK: _PUBACK,
    PacketType.PUBREC: _PUBACK,
    PacketType.PUBREL: _PUBREL,
    PacketType.PUBCOMP: _PUBREL,
    PacketType.SUBACK: frozenset({0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    PacketType.UNSUBACK: frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)}
    ),
    PacketType.AUTH: frozenset({_R.SUCCESS, _R.CONTINUE_AUTHENTICATION, _R.REAUTHENTICATE}),
}
"""[MQTT5-2.4]: the codes that a packet of each type may have; others are a protocol error."""

CONNECT_RETURN_CODES: Final[dict[int, int]] = {
    _R.SUCCESS: 0,
    _R.UNSUPPORTED_PROTOCOL_VERSION: 1,
    _R.CLIENT_IDENTIFIER_NOT_VALID: 2,
    _R.SERVER_UNAVAILABLE: 3,
    _R.BAD_USER_NAME_OR_PASSWORD: 4,
    _R.NOT_AUTHORIZED: 5,
}
"""Reason code -> return code of a CONNACK before 5.0 where they say the same [MQTT3-3.2.2.3]."""

REASON_OF_RETURN_CODE: Final = {code: _R(reason) for reason, code in CONNECT_RETURN_CODES.items()}

_NOT_AUTHORIZED_BEFORE_5: Final = frozenset(
    {_R.BANNED, _R.BAD_AUTHENTICATION_METHOD, _R.TOPIC_NAME_INVALID, _R.RETAIN_NOT_SUPPORTED, _R.QOS_NOT_SUPPORTED}
)
"""Refusals that last: a client told "server unavailable" would try again for ever."""


def connect_return_code(reason_code: int) -> int:
    """The return code of 3.1 and 3.1.1 that says most nearly what the reason code of a CONNACK says."""
    if reason_code in _NOT_AUTHORIZED_BEFORE_5:
        return CONNECT_RETURN_CODES[_R.NOT_AUTHORIZED]
    return CONNECT_RETURN_CODES.get(reason_code, CONNECT_RETURN_CODES[_R.SERVER_UNAVAILABLE])


def sendable(reason_code: int, packet_type: PacketType) -> int:
    """The code if a packet of this type can carry it, else "implementation specific error", which all can."""
    return reason_code if reason_code in REASON_CODES[packet_type] else _R.IMPLEMENTATION_SPECIFIC_ERROR


def is_failure(reason_code: int) -> bool:
    """Whether the code is one of an error, 0x80 or more [MQTT5-2.4]."""
    return reason_code >= 0x80


SUBACK_FAILURE: Final = 0x80
"""The return code of a SUBACK before 5.0 for a filter that is refused."""


def suback_return_code(reason_code: int) -> int:
    """The return code of 3.1.1: the granted QoS, or 0x80 for any failure [MQTT3-3.9.3-2].

    3.1 knows no failure; it gets 0x80 too, since a granted QoS would promise messages that do not come.
    """
    return SUBACK_FAILURE if is_failure(reason_code) else reason_code
