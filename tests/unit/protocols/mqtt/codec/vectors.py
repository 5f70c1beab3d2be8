"""Bytes <-> packets <-> errors, byte by byte: what the codec and the server are held to.

`VALID` round-trips. `READ_ONLY` are other spellings of a packet that we accept and do not write. `INVALID` says which
error, with which reason code, ends the connection, and by which rule of which specification.
"""

from typing import Final, NamedTuple

from protocols.mqtt.codec.errors import (
    MalformedPacketError,
    MqttError,
    PacketTooLargeError,
    ProtocolError,
    UnsupportedProtocolVersionError,
)
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
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

MAX_PACKET_BYTES: Final = 4096


class Vector(NamedTuple):
    """`data` is `packet` in MQTT `version`."""

    name: str
    version: int
    data: bytes
    packet: Packet


class InvalidVector(NamedTuple):
    """`data`, sent on a connection of `version` (None: nothing sent yet), raises `error` with `reason_code`."""

    name: str
    version: int | None
    data: bytes
    error: type[MqttError]
    reason_code: int
    rule: str


WILL_5: Final = Will(
    topic="w",
    payload=b"gone",
    qos=2,
    retain=True,
    properties={
        "will_delay_interval": 30,
        "payload_format_indicator": 1,
        "message_expiry_interval": 60,
        "content_type": "t",
        "response_topic": "r",
        "correlation_data": b"\x00\xff",
        "user_property": [("a", "b")],
    },
)
WILL_5_PROPERTIES: Final = (
    b"\x20"
    b"\x18\x00\x00\x00\x1e"
    b"\x01\x01"
    b"\x02\x00\x00\x00\x3c"
    b"\x03\x00\x01t"
    b"\x08\x00\x01r"
    b"\x09\x00\x02\x00\xff"
    b"\x26\x00\x01a\x00\x01b"
)

VALID: Final[tuple[Vector, ...]] = (
    # CONNECT
    Vector(
        "CONNECT of 3.1",
        3,
        b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02ab",
        Connect(version=3, client_id="ab", keep_alive_s=60),
    ),
    Vector(
        "CONNECT of a bridge in 3.1",
        3,
        b"\x10\x10\x00\x06MQIsdp\x83\x00\x00\x3c\x00\x02ab",
        Connect(version=3, client_id="ab", keep_alive_s=60, clean_start=False, bridge=True),
    ),
    Vector("CONNECT of 3.1.1", 4, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", Connect(version=4)),
    Vector(
        "CONNECT of a bridge in 3.1.1",
        4,
        b"\x10\x0d\x00\x04MQTT\x84\x02\x00\x0a\x00\x01b",
        Connect(version=4, client_id="b", keep_alive_s=10, bridge=True),
    ),
    Vector(
        "CONNECT of 3.1.1 with everything",
        4,
        b"\x10\x24\x00\x04MQTT\x04\xec\xff\xff\x00\x03dev\x00\x03w/t\x00\x04gone\x00\x04user\x00\x02\x00\xff",
        Connect(
            version=4,
            client_id="dev",
            clean_start=False,
            keep_alive_s=65535,
            will=Will(topic="w/t", payload=b"gone", qos=1, retain=True),
            username="user",
            password=b"\x00\xff",
        ),
    ),
    Vector(
        "CONNECT with a user name and no password",
        4,
        b"\x10\x11\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c\x00\x02me",
        Connect(version=4, client_id="c", keep_alive_s=60, username="me"),
    ),
    Vector(
        "CONNECT of 5.0",
        5,
        b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
        Connect(version=5, client_id="c", keep_alive_s=60),
    ),
    Vector(
        "CONNECT of 5.0 with a password and no user name [MQTT5-3.1.2.9]",
        5,
        b"\x10\x11\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c\x00\x01p",
        Connect(version=5, client_id="c", keep_alive_s=60, password=b"p"),
    ),
    Vector(
        "CONNECT of 5.0 with every property",
        5,
        b"\x10\x69\x00\x04MQTT\x05\xf6\x00\x3c"
        b"\x2b"
        b"\x11\xff\xff\xff\xff"
        b"\x21\x00\x14"
        b"\x27\x00\x00\x10\x00"
        b"\x22\x00\x0a"
        b"\x19\x01"
        b"\x17\x00"
        b"\x26\x00\x01k\x00\x01v"
        b"\x26\x00\x01k\x00\x01w"
        b"\x15\x00\x01m"
        b"\x16\x00\x02\x00\x01"
        b"\x00\x01c" + WILL_5_PROPERTIES + b"\x00\x01w\x00\x04gone\x00\x01u\x00\x01p",
        Connect(
            version=5,
            client_id="c",
            keep_alive_s=60,
            properties={
                "session_expiry_interval": 0xFFFFFFFF,
                "receive_maximum": 20,
                "maximum_packet_size": 4096,
                "topic_alias_maximum": 10,
                "request_response_information": 1,
                "request_problem_information": 0,
                "user_property": [("k", "v"), ("k", "w")],
                "authentication_method": "m",
                "authentication_data": b"\x00\x01",
            },
            will=WILL_5,
            username="u",
            password=b"p",
        ),
    ),
    # CONNACK
    Vector("CONNACK", 4, b"\x20\x02\x00\x00", ConnAck()),
    Vector("CONNACK with session present", 4, b"\x20\x02\x01\x00", ConnAck(session_present=True)),
    Vector("CONNACK of 3.1", 3, b"\x20\x02\x00\x00", ConnAck()),
    Vector("CONNACK 1", 4, b"\x20\x02\x00\x01", ConnAck(reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)),
    Vector("CONNACK 2", 4, b"\x20\x02\x00\x02", ConnAck(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID)),
    Vector("CONNACK 3", 4, b"\x20\x02\x00\x03", ConnAck(reason_code=ReasonCode.SERVER_UNAVAILABLE)),
    Vector("CONNACK 4", 3, b"\x20\x02\x00\x04", ConnAck(reason_code=ReasonCode.BAD_USER_NAME_OR_PASSWORD)),
    Vector("CONNACK 5", 4, b"\x20\x02\x00\x05", ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED)),
    Vector("CONNACK of 5.0", 5, b"\x20\x03\x00\x00\x00", ConnAck()),
    Vector(
        "CONNACK of 5.0 with a refusal",
        5,
        b"\x20\x08\x00\x86\x05\x1f\x00\x02no",
        ConnAck(reason_code=ReasonCode.BAD_USER_NAME_OR_PASSWORD, properties={"reason_string": "no"}),
    ),
    Vector(
        "CONNACK of 5.0 with every property",
        5,
        b"\x20\x40\x01\x00\x3d"
        b"\x11\x00\x00\x00\x78"
        b"\x21\x00\x64"
        b"\x24\x01"
        b"\x25\x01"
        b"\x27\x00\x01\x00\x00"
        b"\x12\x00\x02id"
        b"\x22\x00\x10"
        b"\x1f\x00\x01r"
        b"\x26\x00\x01k\x00\x01v"
        b"\x28\x01\x29\x01\x2a\x00"
        b"\x13\x00\x1e"
        b"\x1a\x00\x01i"
        b"\x1c\x00\x01s"
        b"\x15\x00\x01m"
        b"\x16\x00\x01d",
        ConnAck(
            session_present=True,
            properties={
                "session_expiry_interval": 120,
                "receive_maximum": 100,
                "maximum_qos": 1,
                "retain_available": 1,
                "maximum_packet_size": 65536,
                "assigned_client_identifier": "id",
                "topic_alias_maximum": 16,
                "reason_string": "r",
                "user_property": [("k", "v")],
                "wildcard_subscription_available": 1,
                "subscription_identifier_available": 1,
                "shared_subscription_available": 0,
                "server_keep_alive": 30,
                "response_information": "i",
                "server_reference": "s",
                "authentication_method": "m",
                "authentication_data": b"d",
            },
        ),
    ),
    # PUBLISH
    Vector("PUBLISH at QoS 0", 4, b"\x30\x06\x00\x03a/bx", Publish(topic="a/b", payload=b"x")),
    Vector("PUBLISH with an empty payload", 4, b"\x31\x03\x00\x01a", Publish(topic="a", retain=True)),
    Vector("PUBLISH at QoS 1", 3, b"\x32\x06\x00\x01a\x00\x0ax", Publish(topic="a", payload=b"x", qos=1, packet_id=10)),
    Vector(
        "PUBLISH at QoS 2, again and retained",
        4,
        b"\x3d\x06\x00\x01a\xff\xffx",
        Publish(topic="a", payload=b"x", qos=2, dup=True, retain=True, packet_id=65535),
    ),
    Vector(
        "PUBLISH with a topic of many scripts",
        4,
        b"\x30\x0b\x00\x09\xc3\xa9\xf0\x9f\x8c\xa1\xef\xbb\xbf",
        Publish(topic="\u00e9\U0001f321\ufeff"),
    ),
    Vector(
        "PUBLISH of 200 bytes: a remaining length of two bytes",
        4,
        b"\x30\xcb\x01\x00\x01a" + b"x" * 200,
        Publish(topic="a", payload=b"x" * 200),
    ),
    Vector("PUBLISH of 5.0", 5, b"\x30\x05\x00\x01a\x00x", Publish(topic="a", payload=b"x")),
    Vector(
        "PUBLISH of 5.0 at QoS 1",
        5,
        b"\x32\x07\x00\x01a\x01\x02\x00x",
        Publish(topic="a", payload=b"x", qos=1, packet_id=258),
    ),
    Vector(
        "PUBLISH of 5.0 with an alias and no topic",
        5,
        b"\x30\x07\x00\x00\x03\x23\x00\x05x",
        Publish(topic="", payload=b"x", properties={"topic_alias": 5}),
    ),
    Vector(
        "PUBLISH of 5.0 with every property",
        5,
        b"\x34\x2f\x00\x01a\x00\x01\x28"
        b"\x01\x00"
        b"\x02\x00\x00\x00\x0a"
        b"\x23\xff\xff"
        b"\x08\x00\x01r"
        b"\x09\x00\x01c"
        b"\x26\x00\x00\x00\x00"
        b"\x26\x00\x01k\x00\x01v"
        b"\x0b\x01"
        b"\x0b\xff\xff\xff\x7f"
        b"\x03\x00\x00"
        b"x",
        Publish(
            topic="a",
            payload=b"x",
            qos=2,
            packet_id=1,
            properties={
                "payload_format_indicator": 0,
                "message_expiry_interval": 10,
                "topic_alias": 65535,
                "response_topic": "r",
                "correlation_data": b"c",
                "user_property": [("", ""), ("k", "v")],
                "subscription_identifier": [1, 268435455],
                "content_type": "",
            },
        ),
    ),
    # PUBACK, PUBREC, PUBREL, PUBCOMP
    Vector("PUBACK", 4, b"\x40\x02\x00\x01", PubAck(1)),
    Vector("PUBREC", 4, b"\x50\x02\x00\x01", PubRec(1)),
    Vector("PUBREL", 4, b"\x62\x02\x00\x01", PubRel(1)),
    Vector("PUBCOMP", 4, b"\x70\x02\xff\xff", PubComp(65535)),
    Vector("PUBACK of 5.0", 5, b"\x40\x02\x01\x00", PubAck(256)),
    Vector("PUBREL of 5.0", 5, b"\x62\x02\x00\x01", PubRel(1)),
    Vector("PUBACK with a reason", 5, b"\x40\x03\x00\x01\x10", PubAck(1, ReasonCode.NO_MATCHING_SUBSCRIBERS)),
    Vector("PUBREC with a reason", 5, b"\x50\x03\x00\x01\x87", PubRec(1, ReasonCode.NOT_AUTHORIZED)),
    Vector("PUBREL with a reason", 5, b"\x62\x03\x00\x01\x92", PubRel(1, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)),
    Vector("PUBCOMP with a reason", 5, b"\x70\x03\x00\x01\x92", PubComp(1, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)),
    Vector(
        "PUBACK with properties",
        5,
        b"\x40\x0f\x00\x01\x97\x0b\x1f\x00\x01r\x26\x00\x01k\x00\x01v",
        PubAck(1, ReasonCode.QUOTA_EXCEEDED, {"reason_string": "r", "user_property": [("k", "v")]}),
    ),
    Vector(
        "PUBCOMP with properties and success",
        5,
        b"\x70\x08\x00\x01\x00\x04\x1f\x00\x01r",
        PubComp(1, ReasonCode.SUCCESS, {"reason_string": "r"}),
    ),
    # SUBSCRIBE, SUBACK
    Vector(
        "SUBSCRIBE",
        4,
        b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/#\x02",
        Subscribe(
            packet_id=10,
            subscriptions=(Subscription(topic_filter="a/b", qos=1), Subscription(topic_filter="c/#", qos=2)),
        ),
    ),
    Vector(
        "SUBSCRIBE of 3.1",
        3,
        b"\x82\x06\x00\x01\x00\x01+\x00",
        Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="+"),)),
    ),
    Vector(
        "SUBSCRIBE of 5.0",
        5,
        b"\x82\x1a\x00\x01\x09\x0b\x80\x01\x26\x00\x01k\x00\x00\x00\x01a\x2e\x00\x07$share/\x10",
        Subscribe(
            packet_id=1,
            subscriptions=(
                Subscription(topic_filter="a", qos=2, no_local=True, retain_as_published=True, retain_handling=2),
                Subscription(topic_filter="$share/", retain_handling=1),
            ),
            properties={"subscription_identifier": 128, "user_property": [("k", "")]},
        ),
    ),
    Vector("SUBACK", 4, b"\x90\x06\x00\x0a\x00\x01\x02\x80", SubAck(packet_id=10, reason_codes=(0, 1, 2, 0x80))),
    Vector(
        "SUBACK of 5.0",
        5,
        b"\x90\x09\x00\x01\x04\x1f\x00\x01r\x02\x9e",
        SubAck(
            packet_id=1,
            reason_codes=(2, ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
            properties={"reason_string": "r"},
        ),
    ),
    # UNSUBSCRIBE, UNSUBACK
    Vector(
        "UNSUBSCRIBE",
        4,
        b"\xa2\x0a\x00\x0b\x00\x03a/b\x00\x01#",
        Unsubscribe(packet_id=11, topic_filters=("a/b", "#")),
    ),
    Vector(
        "UNSUBSCRIBE of 5.0",
        5,
        b"\xa2\x0d\x00\x01\x07\x26\x00\x01k\x00\x01v\x00\x01a",
        Unsubscribe(packet_id=1, topic_filters=("a",), properties={"user_property": [("k", "v")]}),
    ),
    Vector("UNSUBACK", 4, b"\xb0\x02\x00\x0b", UnsubAck(packet_id=11)),
    Vector(
        "UNSUBACK of 5.0",
        5,
        b"\xb0\x05\x00\x01\x00\x00\x11",
        UnsubAck(packet_id=1, reason_codes=(0, ReasonCode.NO_SUBSCRIPTION_EXISTED)),
    ),
    # PINGREQ, PINGRESP, DISCONNECT, AUTH
    Vector("PINGREQ", 4, b"\xc0\x00", PingReq()),
    Vector("PINGRESP", 4, b"\xd0\x00", PingResp()),
    Vector("PINGREQ of 5.0", 5, b"\xc0\x00", PingReq()),
    Vector("DISCONNECT", 4, b"\xe0\x00", Disconnect()),
    Vector("DISCONNECT of 5.0", 5, b"\xe0\x00", Disconnect()),
    Vector("DISCONNECT with a reason", 5, b"\xe0\x01\x04", Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL)),
    Vector(
        "DISCONNECT with properties",
        5,
        b"\xe0\x0f\x9d\x0d\x11\x00\x00\x00\x00\x1f\x00\x01r\x1c\x00\x01s",
        Disconnect(
            reason_code=ReasonCode.SERVER_MOVED,
            properties={"session_expiry_interval": 0, "reason_string": "r", "server_reference": "s"},
        ),
    ),
    Vector("AUTH", 5, b"\xf0\x00", Auth()),
    Vector(
        "AUTH with properties",
        5,
        b"\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d",
        Auth(
            reason_code=ReasonCode.CONTINUE_AUTHENTICATION,
            properties={"authentication_method": "m", "authentication_data": b"d"},
        ),
    ),
)

READ_ONLY: Final[tuple[Vector, ...]] = (
    Vector("PUBACK with reason success written out", 5, b"\x40\x03\x00\x01\x00", PubAck(1)),
    Vector("PUBREC with an empty property length", 5, b"\x50\x04\x00\x01\x00\x00", PubRec(1)),
    Vector("DISCONNECT with reason success written out", 5, b"\xe0\x01\x00", Disconnect()),
    Vector("DISCONNECT with an empty property length", 5, b"\xe0\x02\x00\x00", Disconnect()),
    Vector("a remaining length of two bytes where one is enough", 4, b"\xc0\x80\x00", PingReq()),
    Vector(
        "PUBLISH with a remaining length of four bytes",
        4,
        b"\x30\x84\x80\x80\x00\x00\x01ax",
        Publish(topic="a", payload=b"x"),
    ),
    Vector(
        "SUBSCRIBE of 3.1, sent again with DUP",
        3,
        b"\x8a\x06\x00\x01\x00\x01a\x01",
        Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="a", qos=1),)),
    ),
    Vector("PUBREL of 3.1, sent again with DUP", 3, b"\x6a\x02\x00\x01", PubRel(1)),
    Vector("CONNACK of 3.1 with its unused byte set", 3, b"\x20\x02\x07\x00", ConnAck()),
    Vector(
        "CONNECT of 3.1 with the flags of a user name and a password that are missing",
        3,
        b"\x10\x10\x00\x06MQIsdp\x03\xc2\x00\x3c\x00\x02ab",
        Connect(version=3, client_id="ab", keep_alive_s=60),
    ),
    Vector(
        "CONNECT of 3.1 with unused flags set",
        3,
        b"\x10\x10\x00\x06MQIsdp\x03\x3b\x00\x3c\x00\x02ab",
        Connect(version=3, client_id="ab", keep_alive_s=60),
    ),
    Vector(
        "CONNECT of 3.1 with a client identifier of 24 bytes",
        3,
        b"\x10\x26\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x18" + b"c" * 24,
        Connect(version=3, client_id="c" * 24, keep_alive_s=60),
    ),
)


def _malformed(name: str, version: int | None, data: bytes, rule: str) -> InvalidVector:
    return InvalidVector(name, version, data, MalformedPacketError, ReasonCode.MALFORMED_PACKET, rule)


def _protocol(name: str, version: int | None, data: bytes, rule: str) -> InvalidVector:
    return InvalidVector(name, version, data, ProtocolError, ReasonCode.PROTOCOL_ERROR, rule)


def _version(name: str, data: bytes, rule: str) -> InvalidVector:
    error = UnsupportedProtocolVersionError
    return InvalidVector(name, None, data, error, ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, rule)


def _connect5(properties: bytes) -> bytes:
    return (
        b"\x10"
        + bytes([14 + len(properties)])
        + b"\x00\x04MQTT\x05\x02\x00\x3c"
        + (bytes([len(properties)]) + properties + b"\x00\x01c")
    )


def _publish5(properties: bytes) -> bytes:
    return b"\x30" + bytes([4 + len(properties)]) + b"\x00\x01a" + bytes([len(properties)]) + properties


def _connect(version: int, flags: int, *payload: bytes) -> bytes:
    properties = b"\x00" if version == 5 else b""
    body = b"\x00\x04MQTT" + bytes((version, flags)) + b"\x00\x00" + properties + b"".join(payload)
    return b"\x10" + bytes((len(body),)) + body


_ID: Final = b"\x00\x01c"
_ILL: Final = b"\x00\x02\xc3("
"""A string that is not UTF-8."""


def _bad_connects(version: int, rules: tuple[str, ...]) -> tuple[InvalidVector, ...]:
    """What must be wrong with a CONNECT of 3.1.1 and of 5.0 alike, with the rule of each."""
    name = "3.1.1" if version == 4 else "5.0"
    will_properties = b"\x00" if version == 5 else b""
    packets = (
        ("with the reserved flag", 0x03, _ID),
        ("with a will QoS and no will", 0x0A, _ID),
        ("with will retain and no will", 0x22, _ID),
        ("with will QoS 3", 0x1E, _ID, will_properties, b"\x00\x01w", b"\x00\x00"),
        ("with a will that is missing", 0x06, _ID),
        ("with a user name that is missing", 0x82, _ID),
        ("with a user name that is not announced", 0x02, _ID, b"\x00\x01u"),
        ("with a password that is missing", 0xC2, _ID, b"\x00\x01u"),
        ("with a password that is not announced", 0x82, _ID, b"\x00\x01u", b"\x00\x01p"),
        ("without a client identifier", 0x02),
        ("with a client identifier that is not UTF-8", 0x02, _ILL),
        ("with a will topic that is not UTF-8", 0x06, _ID, will_properties, _ILL, b"\x00\x00"),
        ("with a user name that is not UTF-8", 0x82, _ID, _ILL),
    )
    return tuple(
        _malformed(f"a CONNECT of {name} {what}", None, _connect(version, flags, *payload), rule)
        for (what, flags, *payload), rule in zip(packets, rules, strict=True)
    )


def _bad_requests(version: int, rules: tuple[str, ...]) -> tuple[InvalidVector, ...]:
    """The same for packets on a connection."""
    name = "3.1.1" if version == 4 else "5.0"
    properties = b"\x00" if version == 5 else b""
    packets = (
        ("PUBREL without its flags", b"\x60", b"\x00\x01"),
        ("SUBSCRIBE without its flags", b"\x80", b"\x00\x01", properties, b"\x00\x01a\x00"),
        ("UNSUBSCRIBE without its flags", b"\xa0", b"\x00\x01", properties, b"\x00\x01a"),
        (
            "DISCONNECT with flags",
            b"\xe4",
        ),
        ("PUBACK with flags", b"\x41", b"\x00\x01"),
        ("PUBLISH at QoS 3", b"\x36", b"\x00\x01a\x00\x01", properties),
        ("PUBLISH at QoS 0 with DUP", b"\x38", b"\x00\x01a", properties),
        ("PUBLISH to a topic that is not UTF-8", b"\x30", _ILL, properties),
        ("SUBSCRIBE to a filter that is not UTF-8", b"\x82", b"\x00\x01", properties, _ILL, b"\x00"),
        ("UNSUBSCRIBE from a filter that is not UTF-8", b"\xa2", b"\x00\x01", properties, _ILL),
    )
    return tuple(
        _malformed(f"a {what} ({name})", version, first + bytes((len(b"".join(body)),)) + b"".join(body), rule)
        for (what, first, *body), rule in zip(packets, rules, strict=True)
    )


INVALID: Final[tuple[InvalidVector, ...]] = (
    *_bad_connects(
        4,
        (
            "MQTT3-3.1.2-3",
            "MQTT3-3.1.2-11 MQTT3-3.1.2-13",
            "MQTT3-3.1.2-11 MQTT3-3.1.2-15",
            "MQTT3-3.1.2-14",
            "MQTT3-3.1.2-9",
            "MQTT3-3.1.2-19",
            "MQTT3-3.1.2-18",
            "MQTT3-3.1.2-21",
            "MQTT3-3.1.2-20",
            "MQTT3-3.1.3-3",
            "MQTT3-3.1.3-4 MQTT3-1.5.3-1",
            "MQTT3-3.1.3-10 MQTT3-1.5.3-1",
            "MQTT3-3.1.3-11 MQTT3-1.5.3-1",
        ),
    ),
    *_bad_connects(
        5,
        (
            "MQTT5-3.1.2-3",
            "MQTT5-3.1.2-11",
            "MQTT5-3.1.2-13",
            "MQTT5-3.1.2-12",
            "MQTT5-3.1.2-9",
            "MQTT5-3.1.2-17",
            "MQTT5-3.1.2-16",
            "MQTT5-3.1.2-19",
            "MQTT5-3.1.2-18",
            "MQTT5-3.1.3-3",
            "MQTT5-3.1.3-4 MQTT5-1.5.4-1",
            "MQTT5-3.1.3-11 MQTT5-1.5.4-1",
            "MQTT5-3.1.3-12 MQTT5-1.5.4-1",
        ),
    ),
    *_bad_requests(
        4,
        (
            "MQTT3-3.6.1-1 MQTT3-2.2.2-1 MQTT3-2.2.2-2",
            "MQTT3-3.8.1-1 MQTT3-2.2.2-1 MQTT3-2.2.2-2",
            "MQTT3-3.10.1-1 MQTT3-2.2.2-1 MQTT3-2.2.2-2",
            "MQTT3-3.14.1-1 MQTT3-2.2.2-1 MQTT3-2.2.2-2",
            "MQTT3-2.2.2-1 MQTT3-2.2.2-2",
            "MQTT3-3.3.1-4",
            "MQTT3-3.3.1-2",
            "MQTT3-3.3.2-1 MQTT3-1.5.3-1",
            "MQTT3-3.8.3-1 MQTT3-1.5.3-1",
            "MQTT3-3.10.3-1 MQTT3-1.5.3-1",
        ),
    ),
    *_bad_requests(
        5,
        (
            "MQTT5-3.6.1-1 MQTT5-2.1.3-1",
            "MQTT5-3.8.1-1 MQTT5-2.1.3-1",
            "MQTT5-3.10.1-1 MQTT5-2.1.3-1",
            "MQTT5-3.14.1-1 MQTT5-2.1.3-1",
            "MQTT5-2.1.3-1",
            "MQTT5-3.3.1-4",
            "MQTT5-3.3.1-2",
            "MQTT5-3.3.2-1 MQTT5-1.5.4-1",
            "MQTT5-3.8.3-1 MQTT5-1.5.4-1",
            "MQTT5-3.10.3-1 MQTT5-1.5.4-1",
        ),
    ),
    # Fixed header
    _protocol("packet type 0", 4, b"\x00\x00", "MQTT3-2.2.1"),
    _protocol("packet type 0 in 5.0", 5, b"\x00\x00", "MQTT5-2.1.2"),
    _protocol("AUTH before 5.0", 4, b"\xf0\x00", "MQTT3-2.2.1"),
    _malformed("a remaining length of five bytes", 4, b"\x30\xff\xff\xff\xff\x01", "MQTT5-1.5.5"),
    _malformed("a remaining length that is too long", 5, b"\xc0\x80\x00", "MQTT5-1.5.5-1"),
    InvalidVector(
        "a packet over the limit, before its body", 4, b"\x30\xfe\x1f", PacketTooLargeError, 0x95, "MQTT5-3.2.2-15"
    ),
    _malformed("PINGREQ with flags", 4, b"\xc1\x00", "MQTT3-2.2.2-2"),
    _malformed("PINGREQ with a body", 5, b"\xc0\x01\x00", "MQTT5-3.12"),
    _malformed("PUBACK with flags", 5, b"\x42\x02\x00\x01", "MQTT5-2.1.3-1"),
    _malformed("CONNECT with flags", None, b"\x11\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", "MQTT3-2.2.2-2"),
    # CONNECT
    _protocol("the first packet is not a CONNECT", None, b"\xc0\x00", "MQTT5-3.1.0-1"),
    _protocol("the first packet is not a CONNECT and not complete", None, b"\x30\x7f", "MQTT3-3.1.0-1"),
    _version("another protocol", b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x00\x00\x00", "MQTT3-3.1.2-1"),
    _version("the name of 3.1 in lower case", b"\x10\x0e\x00\x06mqisdp\x03\x02\x00\x00\x00\x00", "MQTT3-3.1.2-1"),
    _version("level 3 under the name of 3.1.1", b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00", "MQTT3-3.1.2-2"),
    _version("level 6", b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", "MQTT5-3.1.2-2"),
    _version("level 5 with the bridge bit", b"\x10\x0d\x00\x04MQTT\x85\x02\x00\x00\x00\x00\x00", "MQTT5-3.1.2-2"),
    _malformed("will QoS 3", None, b"\x10\x11\x00\x04MQTT\x04\x1e\x00\x00\x00\x00\x00\x01w\x00\x00", "MQTT3-3.1.2-14"),
    _malformed(
        "will QoS 3 in 3.1", None, b"\x10\x13\x00\x06MQIsdp\x03\x1e\x00\x00\x00\x00\x00\x01w\x00\x00", "MQTT 3.1 §3.1"
    ),
    _malformed(
        "a will topic with a wildcard",
        None,
        b"\x10\x11\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x01#\x00\x00",
        "MQTT5-3.3.2-2",
    ),
    _malformed(
        "an empty will topic", None, b"\x10\x10\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x00\x00\x00", "MQTT3-4.7.3-1"
    ),
    _malformed(
        "a password without a user name before 5.0",
        None,
        b"\x10\x0f\x00\x04MQTT\x04\x42\x00\x00\x00\x00\x00\x01p",
        "MQTT3-3.1.2-22",
    ),
    _malformed(
        "a user name that is announced and missing",
        None,
        b"\x10\x0c\x00\x04MQTT\x04\x82\x00\x00\x00\x00",
        "MQTT3-3.1.2-19",
    ),
    _malformed("bytes after a CONNECT", None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x00", "MQTT3-3.1.3"),
    _malformed("a CONNECT cut short", None, b"\x10\x0b\x00\x04MQTT\x04\x02\x00\x00\x00", "MQTT3-3.1.3"),
    _malformed(
        "a client identifier with U+0000", None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00", ("MQTT3-1.5.3-2")
    ),
    _malformed(
        "a client identifier with a surrogate",
        None,
        b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03\xed\xa0\x80",
        "MQTT3-1.5.3-1",
    ),
    _malformed(
        "a client identifier with a line break", None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\n", "MQTT3-1.5.3"
    ),
    _malformed(
        "a user name with a control character of C1",
        None,
        b"\x10\x10\x00\x04MQTT\x04\x82\x00\x00\x00\x00\x00\x02\xc2\x9f",
        "MQTT3-1.5.3",
    ),
    _malformed(
        "a will topic with a non-character",
        None,
        b"\x10\x13\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x03\xef\xbf\xbf\x00\x00",
        "MQTT3-1.5.3",
    ),
    _protocol("authentication data without a method", None, _connect5(b"\x16\x00\x01d"), "MQTT5-3.1.2.11.10"),
    # Properties
    _malformed("an unknown property", 5, _publish5(b"\x04\x00"), "MQTT5-2.2.2.2"),
    _malformed("a property of another packet", 5, _publish5(b"\x21\x00\x01"), "MQTT5-2.2.2.2"),
    _malformed("a will property in CONNECT", None, _connect5(b"\x18\x00\x00\x00\x01"), "MQTT5-2.2.2.2"),
    _malformed("a property length beyond the packet", 5, b"\x30\x05\x00\x01a\x02\x01", "MQTT5-2.2.2.1"),
    _malformed("a property beyond the property length", 5, b"\x30\x06\x00\x01a\x01\x01\x00", "MQTT5-2.2.2.1"),
    _malformed("a property length that is too long", 5, b"\x30\x05\x00\x01a\x80\x00", "MQTT5-1.5.5-1"),
    _malformed("PUBLISH without a property length", 5, b"\x30\x03\x00\x01a", "MQTT5-2.2.2-1"),
    _protocol("a property twice", 5, _publish5(b"\x01\x00\x01\x00"), "MQTT5-3.3.2.3.2"),
    _protocol("content_type twice", 5, _publish5(b"\x03\x00\x00\x03\x00\x00"), "MQTT5-3.3.2.3.9"),
    _protocol("payload_format_indicator 2", 5, _publish5(b"\x01\x02"), "MQTT5-3.3.2.3.2"),
    _protocol("subscription identifier 0", 5, _publish5(b"\x0b\x00"), "MQTT5-3.3.2.3.8"),
    _protocol(
        "subscription identifier 0 in SUBSCRIBE", 5, b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00", "MQTT5-3.8.2.1.2"
    ),
    _protocol(
        "subscription identifier twice in SUBSCRIBE",
        5,
        b"\x82\x0b\x00\x01\x04\x0b\x01\x0b\x01\x00\x01a\x00",
        "MQTT5-3.8.2.1.2",
    ),
    InvalidVector(
        "topic alias 0", 5, _publish5(b"\x23\x00\x00"), ProtocolError, ReasonCode.TOPIC_ALIAS_INVALID, "MQTT5-3.3.2-8"
    ),
    _malformed("a response topic that is not UTF-8", 5, _publish5(b"\x08\x00\x02\xc3("), "MQTT5-3.3.2-13"),
    _malformed("a content type that is not UTF-8", 5, _publish5(b"\x03\x00\x02\xc3("), "MQTT5-3.3.2-19"),
    _malformed(
        "a user property whose value is not UTF-8", 5, _publish5(b"\x26\x00\x01k\x00\x02\xc3("), "MQTT5-1.5.7-1"
    ),
    _protocol("a response topic with a wildcard", 5, _publish5(b"\x08\x00\x01#"), "MQTT5-3.3.2-14"),
    _protocol("receive_maximum 0", None, _connect5(b"\x21\x00\x00"), "MQTT5-3.1.2.11.3"),
    _protocol("maximum_packet_size 0", None, _connect5(b"\x27\x00\x00\x00\x00"), "MQTT5-3.1.2.11.4"),
    _protocol("request_response_information 2", None, _connect5(b"\x19\x02"), "MQTT5-3.1.2.11.6"),
    _protocol("request_problem_information 2", None, _connect5(b"\x17\x02"), "MQTT5-3.1.2.11.7"),
    _protocol("maximum_qos 2", 5, b"\x20\x05\x00\x00\x02\x24\x02", "MQTT5-3.2.2.3.4"),
    _malformed("a property cut short", 5, _publish5(b"\x02\x00\x00\x00"), "MQTT5-2.2.2.2"),
    # CONNACK
    _malformed("CONNACK with a reserved flag", 4, b"\x20\x02\x02\x00", "MQTT5-3.2.2-1"),
    _malformed("connect return code 6", 4, b"\x20\x02\x00\x06", "MQTT3-3.2.2.3"),
    _protocol("CONNACK with an unknown reason code", 5, b"\x20\x03\x00\x11\x00", "MQTT5-3.2.2-8"),
    _protocol("a refusal with session present", 5, b"\x20\x03\x01\x80\x00", "MQTT5-3.2.2-6"),
    # PUBLISH
    _protocol("PUBLISH with packet identifier 0", 4, b"\x32\x05\x00\x01a\x00\x00", "MQTT3-2.3.1-1"),
    _protocol("PUBLISH without a topic", 4, b"\x30\x02\x00\x00", "MQTT3-4.7.3-1"),
    _protocol("PUBLISH of 5.0 without a topic and an alias", 5, b"\x30\x03\x00\x00\x00", "MQTT5-3.3.2.1"),
    _malformed("PUBLISH to a wildcard", 4, b"\x30\x05\x00\x03a/+", "MQTT3-3.3.2-2"),
    _malformed("PUBLISH to '#'", 5, b"\x30\x04\x00\x01#\x00", "MQTT5-3.3.2-2"),
    _malformed("PUBLISH to a topic with U+0000", 5, b"\x30\x05\x00\x02a\x00\x00", "MQTT5-1.5.4-2"),
    _malformed("PUBLISH to a topic that is not UTF-8", 4, b"\x30\x03\x00\x01\xff", "MQTT3-1.5.3-1"),
    _malformed("PUBLISH to a topic with an overlong '/'", 4, b"\x30\x04\x00\x02\xc0\xaf", "MQTT5-1.5.4-1"),
    _malformed("PUBLISH to a topic with a control character", 5, b"\x30\x05\x00\x02a\x1f\x00", "MQTT5-1.5.4"),
    _malformed("PUBLISH with nothing", 4, b"\x30\x00", "MQTT3-3.3.2"),
    _malformed("PUBLISH with one byte", 4, b"\x30\x01\x00", "MQTT3-3.3.2"),
    _malformed("PUBLISH with a topic beyond its end", 4, b"\x30\x03\x00\x02a", "MQTT3-3.3.2"),
    _malformed("PUBLISH with half a packet identifier", 4, b"\x32\x04\x00\x01a\x00", "MQTT3-3.3.2"),
    _protocol("PUBLISH of 5.0 with packet identifier 0", 5, b"\x32\x06\x00\x01a\x00\x00\x00", "MQTT5-2.2.1-3"),
    _protocol("SUBSCRIBE of 5.0 with packet identifier 0", 5, b"\x82\x07\x00\x00\x00\x00\x01a\x00", "MQTT5-2.2.1-3"),
    _protocol("UNSUBSCRIBE of 5.0 with packet identifier 0", 5, b"\xa2\x06\x00\x00\x00\x00\x01a", "MQTT5-2.2.1-3"),
    _protocol("UNSUBSCRIBE with packet identifier 0", 4, b"\xa2\x05\x00\x00\x00\x01a", "MQTT3-2.3.1-1"),
    # PUBACK and its like
    _protocol("PUBACK with packet identifier 0", 4, b"\x40\x02\x00\x00", "MQTT3-2.3.1-1"),
    _protocol("PUBACK of 5.0 with packet identifier 0", 5, b"\x40\x03\x00\x00\x00", "MQTT5-2.2.1-3"),
    _malformed("PUBACK with one byte", 4, b"\x40\x01\x00", "MQTT3-3.4.2"),
    _malformed("PUBACK of 3.1.1 with a reason code", 4, b"\x40\x03\x00\x01\x00", "MQTT3-3.4.1"),
    _protocol("PUBACK with an unknown reason code", 5, b"\x40\x03\x00\x01\x11", "MQTT5-3.4.2-1"),
    _protocol("PUBREL with a reason code of PUBREC", 5, b"\x62\x03\x00\x01\x87", "MQTT5-3.6.2-1"),
    _malformed("bytes after the properties of PUBACK", 5, b"\x40\x05\x00\x01\x00\x00\x00", "MQTT5-3.4.2"),
    _protocol("reason_string twice", 5, b"\x40\x0a\x00\x01\x80\x06\x1f\x00\x00\x1f\x00\x00", "MQTT5-3.4.2.2.2"),
    # SUBSCRIBE, SUBACK
    _protocol("SUBSCRIBE without a filter", 4, b"\x82\x02\x00\x01", "MQTT3-3.8.3-3"),
    _protocol("SUBSCRIBE of 5.0 without a filter", 5, b"\x82\x03\x00\x01\x00", "MQTT5-3.8.3-2"),
    _protocol("SUBSCRIBE with packet identifier 0", 4, b"\x82\x06\x00\x00\x00\x01a\x00", "MQTT3-2.3.1-1"),
    _malformed("SUBSCRIBE without options", 4, b"\x82\x05\x00\x01\x00\x01a", "MQTT3-3.8.3"),
    _malformed("SUBSCRIBE at QoS 3", 4, b"\x82\x06\x00\x01\x00\x01a\x03", "MQTT3-3.8.3-4"),
    _malformed("SUBSCRIBE of 5.0 at QoS 3", 5, b"\x82\x07\x00\x01\x00\x00\x01a\x03", "MQTT5-3.8.3-5"),
    _malformed("options of 5.0 in 3.1.1", 4, b"\x82\x06\x00\x01\x00\x01a\x04", "MQTT3-3.8.3-4"),
    _malformed("a reserved option bit", 5, b"\x82\x07\x00\x01\x00\x00\x01a\x40", "MQTT5-3.8.3-5"),
    _protocol("retain handling 3", 5, b"\x82\x07\x00\x01\x00\x00\x01a\x30", "MQTT5-3.8.3.1"),
    _protocol("no local on a shared subscription", 5, b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", "MQTT5-3.8.3-4"),
    _malformed("SUBSCRIBE to an empty filter", 4, b"\x82\x05\x00\x01\x00\x00\x00", "MQTT3-4.7.3-1"),
    _malformed(
        "SUBSCRIBE to an empty filter behind another",
        5,
        b"\x82\x0a\x00\x01\x00\x00\x01a\x00\x00\x00\x00",
        "MQTT5-4.7.3-1",
    ),
    _malformed("SUBSCRIBE to a filter with U+0000", 5, b"\x82\x07\x00\x01\x00\x00\x01\x00\x00", "MQTT5-1.5.4-2"),
    _malformed("SUBSCRIBE to a filter with DEL", 4, b"\x82\x06\x00\x01\x00\x01\x7f\x00", "MQTT3-1.5.3"),
    _malformed("SUBACK with return code 3", 4, b"\x90\x03\x00\x01\x83", "MQTT3-3.9.3-2"),
    _protocol("SUBACK with an unknown reason code", 5, b"\x90\x04\x00\x01\x00\x03", "MQTT5-3.9.3"),
    _malformed("SUBACK without a code", 4, b"\x90\x02\x00\x01", "MQTT3-3.9.3"),
    # UNSUBSCRIBE, UNSUBACK
    _protocol("UNSUBSCRIBE without a filter", 4, b"\xa2\x02\x00\x01", "MQTT3-3.10.3-2"),
    _malformed("UNSUBSCRIBE from an empty filter", 5, b"\xa2\x05\x00\x01\x00\x00\x00", "MQTT5-4.7.3-1"),
    _protocol("UNSUBSCRIBE of 5.0 without a filter", 5, b"\xa2\x03\x00\x01\x00", "MQTT5-3.10.3-2"),
    _malformed("UNSUBSCRIBE with a filter beyond its end", 4, b"\xa2\x05\x00\x01\x00\x02a", "MQTT3-3.10.3"),
    _malformed("UNSUBACK of 3.1.1 with codes", 4, b"\xb0\x03\x00\x01\x00", "MQTT3-3.11.3"),
    _malformed("UNSUBACK of 5.0 without codes", 5, b"\xb0\x03\x00\x01\x00", "MQTT5-3.11.3"),
    # DISCONNECT, AUTH
    _malformed("DISCONNECT of 3.1.1 with a body", 4, b"\xe0\x01\x00", "MQTT3-3.14.2"),
    _protocol("DISCONNECT with an unknown reason code", 5, b"\xe0\x01\x01", "MQTT5-3.14.2-1"),
    _protocol("AUTH with an unknown reason code", 5, b"\xf0\x02\x01\x00", "MQTT5-3.15.2-1"),
    _protocol("AUTH without a method", 5, b"\xf0\x02\x18\x00", "MQTT5-3.15.2.2.2"),
    _malformed("AUTH with a reason code alone", 5, b"\xf0\x01\x18", "MQTT5-3.15.2.1"),
)
