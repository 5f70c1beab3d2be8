"""The control packets of MQTT 3.1, 3.1.1 and 5.0 as values, and their reason codes.

One class per packet for all versions: what a version lacks has its default. Packets are msgspec structs because one is
made per message: a frozen dataclass takes about ten times as long to construct.
"""

from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgspec

MQTT_3_1: Final = 3
MQTT_3_1_1: Final = 4
MQTT_5_0: Final = 5

Properties: TypeAlias = dict[str, Any]
"""Properties by their name in snake case (`session_expiry_interval`, `topic_alias`, ...; properties.PROPERTIES is the
table). Values are int, str or bytes; `user_property` is a list of (str, str) pairs, `subscription_identifier` of a
PUBLISH a list of int; flags (byte properties) are int."""


class PacketType(IntEnum):
    """The packet type in the high four bits of the first byte [MQTT5-2.1.2]."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class ReasonCode(IntEnum):
    """Reason codes of MQTT 5.0 [MQTT5-2.4]. codec maps those of a CONNACK or SUBACK to the codes of 3.1 and 3.1.1."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """The message to publish when the connection ends without a DISCONNECT [MQTT5-3.1.2.5]."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = {}


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """CONNECT [MQTT5-3.1]. `clean_start` is "clean session" before 5.0. `bridge` is the 0x80 bit that Mosquitto's
    bridges set in the protocol level of 3.1 and 3.1.1."""

    version: int = MQTT_3_1_1
    client_id: str = ""
    clean_start: bool = True
    keep_alive_s: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = {}
    bridge: bool = False


class ConnAck(msgspec.Struct, frozen=True, kw_only=True):
    """CONNACK [MQTT5-3.2]. `reason_code` is always one of 5.0; the codec writes and reads the older codes."""

    reason_code: int = ReasonCode.SUCCESS
    session_present: bool = False
    properties: Properties = {}


class Publish(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """PUBLISH [MQTT5-3.3]. `packet_id` is 0 at QoS 0. `topic` is "" where 5.0 gives only a topic alias."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = {}


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """PUBACK, the answer to a PUBLISH at QoS 1 [MQTT5-3.4]."""

    packet_id: int
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


class PubRec(msgspec.Struct, frozen=True, gc=False):
    """PUBREC, the answer to a PUBLISH at QoS 2 [MQTT5-3.5]."""

    packet_id: int
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


class PubRel(msgspec.Struct, frozen=True, gc=False):
    """PUBREL, the answer to a PUBREC [MQTT5-3.6]."""

    packet_id: int
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


class PubComp(msgspec.Struct, frozen=True, gc=False):
    """PUBCOMP, the end of a delivery at QoS 2 [MQTT5-3.7]."""

    packet_id: int
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """One topic filter of a SUBSCRIBE with its options [MQTT5-3.8.3.1]. `retain_handling`: 0 send retained messages,
    1 only if the subscription is new, 2 never."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """SUBSCRIBE [MQTT5-3.8]."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = {}


class SubAck(msgspec.Struct, frozen=True, kw_only=True):
    """SUBACK, one reason code per filter in the order of the SUBSCRIBE [MQTT5-3.9]."""

    packet_id: int
    reason_codes: tuple[int, ...]
    properties: Properties = {}


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True):
    """UNSUBSCRIBE [MQTT5-3.10]."""

    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = {}


class UnsubAck(msgspec.Struct, frozen=True, kw_only=True):
    """UNSUBACK [MQTT5-3.11]; before 5.0 it has no reason codes on the wire."""

    packet_id: int
    reason_codes: tuple[int, ...] = ()
    properties: Properties = {}


class PingReq(msgspec.Struct, frozen=True):
    """PINGREQ [MQTT5-3.12]."""


class PingResp(msgspec.Struct, frozen=True):
    """PINGRESP [MQTT5-3.13]."""


class Disconnect(msgspec.Struct, frozen=True, kw_only=True):
    """DISCONNECT [MQTT5-3.14]; before 5.0 only a client sends it, and it has no reason code."""

    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """AUTH [MQTT5-3.15], 5.0 only."""

    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = {}


Packet: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
