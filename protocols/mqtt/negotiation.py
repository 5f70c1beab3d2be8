"""What client and server agree on in CONNECT and CONNACK, from what one asks and the other allows."""

import secrets
from typing import Any, Final

import msgspec

from protocols.asgi import Event
from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import MQTT_3_1, MQTT_5_0, Connect, Properties, ReasonCode, Will
from protocols.mqtt.options import NEVER_EXPIRES, MqttOptions

UNLIMITED: Final = 0xFFFF_FFFF
_RECEIVE_MAXIMUM_DEFAULT: Final = 65_535


class Terms(msgspec.Struct, frozen=True):
    """What holds for one connection."""

    client_id: str
    will: Will | None
    keep_alive_s: int
    """0 for none."""
    session_expiry_s: int
    maximum_qos: int
    send_maximum: int
    """How many QoS 1 and 2 messages may be under way to the client."""
    max_packet_bytes: int
    """The largest packet that the client takes."""
    outbound_aliases: int
    connack: Properties
    """The properties of the CONNACK; empty before 5.0."""


def check_connect(connect: Connect) -> None:
    """Raises ProtocolError, with the code for the CONNACK, for a CONNECT that no application needs to see."""
    if not connect.client_id:
        if connect.version == MQTT_3_1:  # 3.1 §3.1: 1 to 23 characters
            raise ProtocolError(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "MQTT 3.1 needs a client identifier")
        if connect.version != MQTT_5_0 and not connect.clean_start:  # [MQTT3-3.1.3-8]
            raise ProtocolError(
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "a session that is to be kept needs a client identifier"
            )


def with_assigned_client_id(connect: Connect) -> Connect:
    """The CONNECT of a client without an identifier, with one that the server assigns [MQTT5-3.1.3-6]."""
    return msgspec.structs.replace(connect, client_id=f"auto-{secrets.token_hex(12)}")


def agree(connect: Connect, accept: Event, options: MqttOptions, *, assigned: bool) -> Terms:
    """The terms of a connection that the application accepts. Raises ProtocolError if the will asks too much.

    `assigned` says that the client sent no identifier, and the one in `connect` is ours. The client is told of that one
    only, and not of the identity that the application gives it: clients take what they are told for their identifier,
    and the application would be given its own identity to map when they come back.
    """
    client_id = connect.client_id
    if accept.get("client_id") is not None:
        client_id = accept["client_id"]
    maximum_qos = int(accept.get("maximum_qos", 2))
    will = connect.will if accept.get("will", True) else None
    if will is not None and will.qos > maximum_qos:  # [MQTT5-3.2.2-12]
        raise ProtocolError(ReasonCode.QOS_NOT_SUPPORTED, f"will QoS {will.qos}; at most {maximum_qos}")
    asked = connect.properties
    keep_alive_s = _keep_alive(connect, options)
    session_expiry_s = min(_asked_expiry(connect), options.max_session_expiry_s)
    connack: dict[str, Any] = {}
    if connect.version == MQTT_5_0:
        connack = {
            "receive_maximum": options.receive_maximum,
            "maximum_packet_size": options.max_packet_bytes,
            "topic_alias_maximum": options.max_topic_aliases,
        }
        if maximum_qos < 2:  # [MQTT5-3.2.2-9]
            connack["maximum_qos"] = maximum_qos
        if assigned:  # [MQTT5-3.2.2-16]
            connack["assigned_client_identifier"] = connect.client_id
        if keep_alive_s != connect.keep_alive_s:  # [MQTT5-3.2.2-21]
            connack["server_keep_alive"] = keep_alive_s
        if session_expiry_s != asked.get("session_expiry_interval", 0):
            connack["session_expiry_interval"] = session_expiry_s
        connack.update(accept.get("properties") or {})
        if not asked.get("request_response_information"):  # [MQTT5-3.1.2-28]
            connack.pop("response_information", None)
    return Terms(
        client_id=client_id,
        will=will,
        keep_alive_s=keep_alive_s,
        session_expiry_s=session_expiry_s,
        maximum_qos=maximum_qos,
        send_maximum=min(options.max_inflight, asked.get("receive_maximum", _RECEIVE_MAXIMUM_DEFAULT)),
        max_packet_bytes=asked.get("maximum_packet_size", UNLIMITED),
        outbound_aliases=min(options.max_topic_aliases, asked.get("topic_alias_maximum", 0)),
        connack=connack,
    )


def _keep_alive(connect: Connect, options: MqttOptions) -> int:
    """Only a client of 5.0 can be told a keep alive; others get the one they asked for."""
    if connect.version != MQTT_5_0:
        return connect.keep_alive_s
    return min(connect.keep_alive_s or options.max_keep_alive_s, options.max_keep_alive_s)


def _asked_expiry(connect: Connect) -> int:
    if connect.version == MQTT_5_0:
        expiry: int = connect.properties.get("session_expiry_interval", 0)
        return expiry
    return 0 if connect.clean_start else NEVER_EXPIRES  # [MQTT3-3.1.2-6]: kept until the client says otherwise
