"""The scope and the events of docs/events.md: a type for each, with its keys, and a function that makes it.

`TO_APPLICATION` and `FROM_APPLICATION` are the tables of both, by the name that the event has there. A function takes
each key of its event as a keyword argument; an optional key that is not given, or None, is left out.

Longer than most files: the contract is to be read, and compared with docs/events.md, in one place.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypedDict, cast

from protocols.asgi import ASGI_VERSION, MQTT_SPEC_VERSION, Event, Scope
from protocols.mqtt.codec.packets import Connect, Properties
from protocols.mqtt.codec.topic_rules import split_shared
from protocols.sockets import server_address, tls_extension


class WillMessage(TypedDict):
    """The will in a scope."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties


class MqttScope(TypedDict):
    """The scope of one connection."""

    type: Literal["mqtt"]
    asgi: dict[str, str]
    mqtt_version: int
    client_id: str
    username: str | None
    clean_start: bool
    keep_alive_s: int
    will: WillMessage | None
    properties: Properties
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    scheme: str
    extensions: dict[str, Any]
    state: dict[str, Any]


# To the application


class ConnectEvent(TypedDict):
    """`mqtt.connect`."""

    type: Literal["mqtt.connect"]
    password: bytes | None
    allow_anonymous: bool
    authentication_method: str | None
    authentication_data: bytes | None


class PublishEvent(TypedDict):
    """`mqtt.publish`, of the client."""

    type: Literal["mqtt.publish"]
    ack_id: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    properties: Properties


class SubscriptionRequest(TypedDict):
    """One of the `subscriptions` of a SubscribeEvent."""

    topic_filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    retain_handling: int
    share_name: str | None


class SubscribeEvent(TypedDict):
    """`mqtt.subscribe`."""

    type: Literal["mqtt.subscribe"]
    ack_id: int
    subscriptions: Sequence[SubscriptionRequest]
    properties: Properties


class RetainedEvent(TypedDict):
    """`mqtt.retained`."""

    type: Literal["mqtt.retained"]
    ack_id: int
    topics: Sequence[str]


class UnsubscribeEvent(TypedDict):
    """`mqtt.unsubscribe`."""

    type: Literal["mqtt.unsubscribe"]
    ack_id: int
    topic_filters: Sequence[str]
    properties: Properties


class AuthEvent(TypedDict):
    """`mqtt.auth`, of the client."""

    type: Literal["mqtt.auth"]
    reauthenticate: bool
    data: bytes | None
    properties: Properties


class DeliveredEvent(TypedDict):
    """`mqtt.delivered`."""

    type: Literal["mqtt.delivered"]
    delivery_id: int
    reason_code: int


class SubscriptionsEvent(TypedDict):
    """`mqtt.subscriptions`."""

    type: Literal["mqtt.subscriptions"]
    granted: Mapping[str, int]


class DisconnectEvent(TypedDict):
    """`mqtt.disconnect`."""

    type: Literal["mqtt.disconnect"]
    reason_code: int
    reason: str
    properties: Properties


# From the application


class AcceptEvent(TypedDict):
    """`mqtt.accept`."""

    type: Literal["mqtt.accept"]
    client_id: NotRequired[str]
    name: NotRequired[str]
    will: NotRequired[bool]
    owner: NotRequired[str]
    properties: NotRequired[Properties]
    maximum_qos: NotRequired[int]
    report_subscriptions: NotRequired[bool]
    authentication_method: NotRequired[str]
    authentication_data: NotRequired[bytes]


class RejectEvent(TypedDict):
    """`mqtt.reject`."""

    type: Literal["mqtt.reject"]
    reason_code: int
    reason_string: NotRequired[str]
    log_reason: NotRequired[str]
    properties: NotRequired[Properties]


class AuthToClientEvent(TypedDict):
    """`mqtt.auth`, of the application."""

    type: Literal["mqtt.auth"]
    data: NotRequired[bytes]
    reason_code: NotRequired[int]
    reason_string: NotRequired[str]
    properties: NotRequired[Properties]


class AckEvent(TypedDict):
    """`mqtt.ack`."""

    type: Literal["mqtt.ack"]
    ack_id: int
    reason_code: NotRequired[int]
    reason_codes: NotRequired[Sequence[int]]
    reason_string: NotRequired[str]
    drop: NotRequired[bool]
    no_subscribers: NotRequired[bool]
    route: NotRequired[bool]
    check_retained: NotRequired[bool]
    properties: NotRequired[Properties]


class PublishToClientEvent(TypedDict):
    """`mqtt.publish`, of the application."""

    type: Literal["mqtt.publish"]
    topic: str
    payload: bytes
    qos: NotRequired[int]
    retain: NotRequired[bool]
    properties: NotRequired[Properties]
    delivery_id: NotRequired[int]


class CloseEvent(TypedDict):
    """`mqtt.close`."""

    type: Literal["mqtt.close"]
    reason_code: NotRequired[int]
    reason_string: NotRequired[str]
    log_reason: NotRequired[str]
    properties: NotRequired[Properties]
    will: NotRequired[bool]


# Their makers


def scope(
    *,
    mqtt_version: int,
    client_id: str,
    username: str | None,
    clean_start: bool,
    keep_alive_s: int,
    will: WillMessage | None,
    properties: Properties,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
    scheme: str,
    extensions: dict[str, Any],
    state: Mapping[str, Any],
) -> Scope:
    """The scope of a connection; `state` is copied."""
    made: MqttScope = {
        "type": "mqtt",
        "asgi": {"version": ASGI_VERSION, "spec_version": MQTT_SPEC_VERSION},
        "mqtt_version": mqtt_version,
        "client_id": client_id,
        "username": username,
        "clean_start": clean_start,
        "keep_alive_s": keep_alive_s,
        "will": will,
        "properties": properties,
        "client": client,
        "server": server,
        "scheme": scheme,
        "extensions": extensions,
        "state": dict(state),
    }
    return cast(Scope, made)


def scope_of(
    connect: Connect,
    transport: asyncio.BaseTransport,
    *,
    client: tuple[str, int] | None,
    scheme: str,
    state: Mapping[str, Any],
    extensions: dict[str, Any],
) -> Scope:
    """The scope of a connection from `client` that has sent its CONNECT. `scheme` and `extensions` are those of the
    listener; the transport may know better. All connections share the extensions: each has few bytes."""
    tls = tls_extension(transport)
    will = connect.will
    return scope(
        mqtt_version=connect.version,
        client_id=connect.client_id,
        username=connect.username,
        clean_start=connect.clean_start,
        keep_alive_s=connect.keep_alive_s,
        will=None
        if will is None
        else WillMessage(
            topic=will.topic, payload=will.payload, qos=will.qos, retain=will.retain, properties=will.properties
        ),
        properties={name: value for name, value in connect.properties.items() if name != "authentication_data"},
        client=client,
        server=server_address(transport),
        scheme=transport.get_extra_info("scheme") or scheme,
        extensions={**extensions, "tls": tls} if tls else extensions,
        state=state,
    )


def connect(
    *,
    password: bytes | None,
    allow_anonymous: bool,
    authentication_method: str | None = None,
    authentication_data: bytes | None = None,
) -> Event:
    """`mqtt.connect`."""
    event: ConnectEvent = {
        "type": "mqtt.connect",
        "password": password,
        "allow_anonymous": allow_anonymous,
        "authentication_method": authentication_method,
        "authentication_data": authentication_data,
    }
    return cast(Event, event)


def publish(
    *, ack_id: int, topic: str, payload: bytes, qos: int, retain: bool, dup: bool, properties: Properties
) -> Event:
    """`mqtt.publish`, of the client."""
    event: PublishEvent = {
        "type": "mqtt.publish",
        "ack_id": ack_id,
        "topic": topic,
        "payload": payload,
        "qos": qos,
        "retain": retain,
        "dup": dup,
        "properties": properties,
    }
    return cast(Event, event)


def subscription_request(
    topic_filter: str,
    qos: int,
    *,
    no_local: bool = False,
    retain_as_published: bool = False,
    retain_handling: int = 0,
) -> SubscriptionRequest:
    """One of the `subscriptions` of `subscribe`; `topic_filter` has the $share/NAME/ of a shared one in front."""
    share_name, inner = split_shared(topic_filter)
    return {
        "topic_filter": inner,
        "qos": qos,
        "no_local": no_local,
        "retain_as_published": retain_as_published,
        "retain_handling": retain_handling,
        "share_name": share_name,
    }


def subscribe(*, ack_id: int, subscriptions: Sequence[SubscriptionRequest], properties: Properties) -> Event:
    """`mqtt.subscribe`."""
    event: SubscribeEvent = {
        "type": "mqtt.subscribe",
        "ack_id": ack_id,
        "subscriptions": subscriptions,
        "properties": properties,
    }
    return cast(Event, event)


def retained(*, ack_id: int, topics: Sequence[str]) -> Event:
    """`mqtt.retained`."""
    event: RetainedEvent = {"type": "mqtt.retained", "ack_id": ack_id, "topics": topics}
    return cast(Event, event)


def unsubscribe(*, ack_id: int, topic_filters: Sequence[str], properties: Properties) -> Event:
    """`mqtt.unsubscribe`."""
    event: UnsubscribeEvent = {
        "type": "mqtt.unsubscribe",
        "ack_id": ack_id,
        "topic_filters": topic_filters,
        "properties": properties,
    }
    return cast(Event, event)


def auth(*, reauthenticate: bool, data: bytes | None, properties: Properties) -> Event:
    """`mqtt.auth`, of the client."""
    event: AuthEvent = {"type": "mqtt.auth", "reauthenticate": reauthenticate, "data": data, "properties": properties}
    return cast(Event, event)


def delivered(*, delivery_id: int, reason_code: int) -> Event:
    """`mqtt.delivered`."""
    event: DeliveredEvent = {
        "type": "mqtt.delivered",
        "delivery_id": delivery_id,
        "reason_code": int(reason_code),
    }
    return cast(Event, event)


def subscriptions(*, granted: Mapping[str, int]) -> Event:
    """`mqtt.subscriptions`."""
    event: SubscriptionsEvent = {"type": "mqtt.subscriptions", "granted": granted}
    return cast(Event, event)


def disconnect(*, reason_code: int, reason: str, properties: Properties | None = None) -> Event:
    """`mqtt.disconnect`."""
    event: DisconnectEvent = {
        "type": "mqtt.disconnect",
        "reason_code": int(reason_code),
        "reason": reason,
        "properties": properties or {},
    }
    return cast(Event, event)


def _with_given(event: Mapping[str, Any], **optional: Any) -> Event:
    return {**event, **{key: value for key, value in optional.items() if value is not None}}


def accept(
    *,
    client_id: str | None = None,
    name: str | None = None,
    will: bool | None = None,
    owner: str | None = None,
    properties: Properties | None = None,
    maximum_qos: int | None = None,
    report_subscriptions: bool | None = None,
    authentication_method: str | None = None,
    authentication_data: bytes | None = None,
) -> Event:
    """`mqtt.accept`."""
    return _with_given(
        {"type": "mqtt.accept"},
        client_id=client_id,
        name=name,
        will=will,
        owner=owner,
        properties=properties,
        maximum_qos=maximum_qos,
        report_subscriptions=report_subscriptions,
        authentication_method=authentication_method,
        authentication_data=authentication_data,
    )


def reject(
    *,
    reason_code: int,
    reason_string: str | None = None,
    log_reason: str | None = None,
    properties: Properties | None = None,
) -> Event:
    """`mqtt.reject`."""
    required: RejectEvent = {"type": "mqtt.reject", "reason_code": reason_code}
    return _with_given(required, reason_string=reason_string, log_reason=log_reason, properties=properties)


def auth_to_client(
    *,
    data: bytes | None = None,
    reason_code: int | None = None,
    reason_string: str | None = None,
    properties: Properties | None = None,
) -> Event:
    """`mqtt.auth`, of the application."""
    return _with_given(
        {"type": "mqtt.auth"}, data=data, reason_code=reason_code, reason_string=reason_string, properties=properties
    )


def ack(
    *,
    ack_id: int,
    reason_code: int | None = None,
    reason_codes: Sequence[int] | None = None,
    reason_string: str | None = None,
    drop: bool | None = None,
    no_subscribers: bool | None = None,
    route: bool | None = None,
    check_retained: bool | None = None,
    properties: Properties | None = None,
) -> Event:
    """`mqtt.ack`."""
    required: AckEvent = {"type": "mqtt.ack", "ack_id": ack_id}
    return _with_given(
        required,
        reason_code=reason_code,
        reason_codes=reason_codes,
        reason_string=reason_string,
        drop=drop,
        no_subscribers=no_subscribers,
        route=route,
        check_retained=check_retained,
        properties=properties,
    )


def publish_to_client(
    *,
    topic: str,
    payload: bytes,
    qos: int | None = None,
    retain: bool | None = None,
    properties: Properties | None = None,
    delivery_id: int | None = None,
) -> Event:
    """`mqtt.publish`, of the application."""
    required: PublishToClientEvent = {"type": "mqtt.publish", "topic": topic, "payload": payload}
    return _with_given(required, qos=qos, retain=retain, properties=properties, delivery_id=delivery_id)


def close(
    *,
    reason_code: int | None = None,
    reason_string: str | None = None,
    log_reason: str | None = None,
    properties: Properties | None = None,
    will: bool | None = None,
) -> Event:
    """`mqtt.close`."""
    return _with_given(
        {"type": "mqtt.close"},
        reason_code=reason_code,
        reason_string=reason_string,
        log_reason=log_reason,
        properties=properties,
        will=will,
    )


class EventKind(NamedTuple):
    """An event in the code: the type with its keys, and the function that makes it."""

    keys: type[Any]
    make: Callable[..., Event]


TO_APPLICATION: Final = {
    "mqtt.connect": EventKind(ConnectEvent, connect),
    "mqtt.publish": EventKind(PublishEvent, publish),
    "mqtt.subscribe": EventKind(SubscribeEvent, subscribe),
    "mqtt.retained": EventKind(RetainedEvent, retained),
    "mqtt.unsubscribe": EventKind(UnsubscribeEvent, unsubscribe),
    "mqtt.auth": EventKind(AuthEvent, auth),
    "mqtt.delivered": EventKind(DeliveredEvent, delivered),
    "mqtt.subscriptions": EventKind(SubscriptionsEvent, subscriptions),
    "mqtt.disconnect": EventKind(DisconnectEvent, disconnect),
}
FROM_APPLICATION: Final = {
    "mqtt.accept": EventKind(AcceptEvent, accept),
    "mqtt.reject": EventKind(RejectEvent, reject),
    "mqtt.auth": EventKind(AuthToClientEvent, auth_to_client),
    "mqtt.ack": EventKind(AckEvent, ack),
    "mqtt.publish": EventKind(PublishToClientEvent, publish_to_client),
    "mqtt.close": EventKind(CloseEvent, close),
}
