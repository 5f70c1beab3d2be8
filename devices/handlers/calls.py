"""What devices ask the server to do: methods by name, of this gateway and of other distributions.

A distribution adds a method by an entry point of the group `gateway.device_methods`, named as the method:

    async def time_zone(message: Message, params: Any) -> Any:
        return await zone_of(message.device.device_id)

It returns any JSON value. CallError is an answer, too: the device gets its text as the error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, TypeAlias

from devices.handlers.base import Message
from devices.profiles import MAX_PAYLOAD_BYTES
from gateway.exceptions import GatewayError
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.devices")

ENTRY_POINT_GROUP: Final = "gateway.device_methods"
CALL_TIMEOUT_S: Final = 30.0
"""How long a method may take."""
_PACKET_OVERHEAD_BYTES: Final = 256
"""More than a packet of MQTT has around the payload of a message to a topic of the device API."""


class CallError(GatewayError):
    """Raised by a method that cannot do what it is asked; the device is told the text."""


Method: TypeAlias = Callable[[Message, Any], Awaitable[Any]]


async def call(message: Message) -> bytes:
    """Calls a method and answers with what it returns, or with the error: no such method, CallError, no answer within
    CALL_TIMEOUT_S, or a fault of the method, which is logged."""
    profile = message.device.profile
    asked = profile.decode_call(message.payload)
    method = methods().get(asked.method)
    if method is None:
        return profile.encode_error(f"there is no method {asked.method!r}")
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return profile.encode_answer(await method(message, asked.params))
    except CallError as error:
        return profile.encode_error(str(error))
    except TimeoutError:
        why = f"no answer within {CALL_TIMEOUT_S:g} s"
        _log(message, asked.method, why)
        return profile.encode_error(why)
    except Exception as error:
        _log(message, asked.method, "it has failed", error)
        return profile.encode_error("the method has failed")


def _log(message: Message, method: str, why: str, error: Exception | None = None) -> None:
    peer = f"device/{message.device.device_id}"
    peer_log.error(peer, "the method %r, called by %s: %s", method, message.device, why, exc_info=error)


@cache
def methods() -> Mapping[str, Method]:
    """The methods that there are, by name; one of a distribution takes the place of one of this gateway."""
    return {
        "getSessionLimits": session_limits,
        **{entry.name: entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)},
    }


async def session_limits(message: Message, params: Any) -> dict[str, Any]:
    """What the device may send: largest payload, messages without acknowledgement, messages in a time, as ThingsBoard
    writes it: "20:1,300:60" is 20 in a second and 300 in a minute, "" is any number."""
    limits = message.scope["extensions"].get("mqtt.limits")
    if limits is None:
        return _limits(MAX_PAYLOAD_BYTES, 1, "")
    rate = limits["max_messages_per_s"]
    return _limits(
        min(limits["max_packet_bytes"] - _PACKET_OVERHEAD_BYTES, MAX_PAYLOAD_BYTES),
        limits["receive_maximum"],
        f"{rate}:1" if rate else "",
    )


def _limits(payload_bytes: int, unacknowledged: int, messages: str) -> dict[str, Any]:
    return {
        "maxPayloadSize": payload_bytes,
        "maxInflightMessages": unacknowledged,
        "rateLimits": {"messages": messages, "telemetryMessages": messages, "telemetryDataPoints": ""},
    }
