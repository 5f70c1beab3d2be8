"""Publishing to MQTT subscribers from anywhere: a view, a consumer, a worker, another process.

`publish`, and `publish_sync` for synchronous code, send over the channel layer; every gateway process on that layer
gives the message to its own broker (gateway.mqtt.relay), which routes it to its subscribers.
"""

from typing import Any, Final

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import BaseChannelLayer, get_channel_layer
from gateway.mqtt.relay import GROUP, MESSAGE_TYPE

_reserved_topics: Final[dict[str, str]] = {}
"""The beginnings of topics that are not published to, and why not."""


async def publish(topic: str, payload: bytes | str, qos: int = 0, retain: bool = False) -> None:
    """Gives a message to every MQTT subscriber of `topic`; text is sent as UTF-8.

    At most once as far as the brokers, as a channel layer is; from there on as `qos` says. Raises ValueError for a
    topic that cannot be published to or is reserved, or a `qos` other than 0, 1, 2, and what the layer raises.
    """
    message = _message(topic, payload, qos, retain)
    await _layer().group_send(GROUP, message)


def publish_sync(topic: str, payload: bytes | str, qos: int = 0, retain: bool = False) -> None:
    """As `publish`, for synchronous code, in any thread: by the layer's synchronous client, without an event loop."""
    message = _message(topic, payload, qos, retain)
    _layer().sync.group_send(GROUP, message)


def reserve_topics(prefix: str, reason: str) -> None:
    """Has `publish` refuse topics that begin with `prefix`, with `reason` in the error.

    For topics by which each client speaks to the server alone: all clients subscribe to the same ones, and a message
    would reach every one of them. To be called when Django starts (AppConfig.ready).
    """
    _reserved_topics[prefix] = reason


def _message(topic: str, payload: bytes | str, qos: int, retain: bool) -> dict[str, Any]:
    if not topic or any(character in topic for character in "+#\0"):
        raise ValueError(f"not a topic that can be published to: {topic!r}")
    for prefix, reason in _reserved_topics.items():
        if topic.startswith(prefix):
            raise ValueError(f"{topic!r} is not published to: {reason}")
    if qos not in (0, 1, 2):
        raise ValueError(f"qos is 0, 1 or 2, not {qos!r}")
    data = payload.encode() if isinstance(payload, str) else payload
    return {"type": MESSAGE_TYPE, "topic": topic, "payload": data, "qos": qos, "retain": retain}


def _layer() -> BaseChannelLayer:
    layer = get_channel_layer()
    if layer is None:
        raise InvalidChannelLayerError("publishing needs CHANNEL_LAYERS with a default layer")
    return layer
