"""The ASGI scope of an MQTT connection (docs/events.md)."""

import asyncio
from typing import Any

from protocols.asgi import ASGI_VERSION, MQTT_SPEC_VERSION, Scope
from protocols.mqtt.auth_exchange import DATA
from protocols.mqtt.codec.packets import Connect, Properties, Will
from protocols.mqtt.server_state import ListenerContext
from protocols.sockets import server_address, tls_extension


def mqtt_scope(
    connect: Connect, transport: asyncio.BaseTransport, context: ListenerContext, client: tuple[str, int] | None
) -> Scope:
    """What the application is told of a connection from `client` that has sent its CONNECT."""
    tls = tls_extension(transport)
    return {
        "type": "mqtt",
        "asgi": {"version": ASGI_VERSION, "spec_version": MQTT_SPEC_VERSION},
        "mqtt_version": connect.version,
        "client_id": connect.client_id,
        "username": connect.username,
        "clean_start": connect.clean_start,
        "keep_alive_s": connect.keep_alive_s,
        "will": _will(connect.will),
        "properties": _without_proof(connect.properties),
        "client": client,
        "server": server_address(transport),
        "scheme": transport.get_extra_info("scheme") or context.scheme,
        "extensions": {"tls": tls} if tls else {},
        "state": dict(context.server_state.state),
    }


def _without_proof(properties: Properties) -> Properties:
    if DATA not in properties:
        return properties
    return {name: value for name, value in properties.items() if name != DATA}


def _will(will: Will | None) -> dict[str, Any] | None:
    if will is None:
        return None
    return {
        "topic": will.topic,
        "payload": will.payload,
        "qos": will.qos,
        "retain": will.retain,
        "properties": will.properties,
    }
