"""What a consumer must know of the events of any protocol: which ends a connection, how large one is."""

import asyncio
from typing import Any

from gateway.exceptions import StopConsumer
from protocols.asgi import Event
from protocols.mqtt import ReasonCode
from protocols.mqtt import events as mqtt_events

_OVERHEAD_BYTES = 256
_CONTENT_KEYS = ("text", "bytes", "body", "payload")


def is_disconnect(event: Event) -> bool:
    """Whether `event` is the last one of its connection, as http, websocket and mqtt name it."""
    return str(event.get("type", "")).endswith(".disconnect")


def size_bytes(event: Event) -> int:
    """What `event` takes of an inbox, roughly: its content and something for the rest."""
    return _OVERHEAD_BYTES + sum(len(event.get(key) or b"") for key in _CONTENT_KEYS)


def disconnect_event(protocol: str, cause: BaseException) -> Event:
    """The event that tells a consumer of its end when its connection did not send one.

    The codes say whose fault it was: the consumer stopped, its handler failed, the connection broke, or the server
    cancelled it.
    """
    event: dict[str, Any] = {"type": f"{protocol}.disconnect"}
    if protocol == "websocket":
        event |= {"code": _websocket_code(cause), "reason": ""}
    elif protocol == "mqtt":
        cancelled = isinstance(cause, asyncio.CancelledError)
        return mqtt_events.disconnect(
            reason_code=ReasonCode.SERVER_SHUTTING_DOWN if cancelled else ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
            reason="shutdown" if cancelled else "application",
        )
    return event


def _websocket_code(cause: BaseException) -> int:
    if isinstance(cause, StopConsumer):
        return 1000
    if isinstance(cause, asyncio.CancelledError):
        return 1012  # service restart
    if isinstance(cause, OSError):
        return 1006  # the connection broke
    return 1011
