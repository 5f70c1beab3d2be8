"""Publishing to MQTT subscribers from anywhere: a view, a consumer, a worker, another process.

`publish` sends over the channel layer; every gateway process on that layer gives the message to its own broker, which
routes it to its subscribers.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import BaseChannelLayer, LayerEvent, get_channel_layer

logger = logging.getLogger("gateway.mqtt")

GROUP: Final = "gateway.mqtt"
MESSAGE_TYPE: Final = "mqtt.publish"


async def publish(topic: str, payload: bytes | str, qos: int = 0, retain: bool = False) -> None:
    """Gives a message to every MQTT subscriber of `topic`; text is sent as UTF-8.

    At most once as far as the brokers, as a channel layer is; from there on as `qos` says. Raises ValueError for a
    topic that cannot be published to or a `qos` other than 0, 1, 2, and what the layer raises.
    """
    if not topic or any(character in topic for character in "+#\0"):
        raise ValueError(f"not a topic that can be published to: {topic!r}")
    if qos not in (0, 1, 2):
        raise ValueError(f"qos is 0, 1 or 2, not {qos!r}")
    layer = get_channel_layer()
    if layer is None:
        raise InvalidChannelLayerError("publishing needs CHANNEL_LAYERS with a default layer")
    data = payload.encode() if isinstance(payload, str) else payload
    await layer.group_send(GROUP, {"type": MESSAGE_TYPE, "topic": topic, "payload": data, "qos": qos, "retain": retain})


@asynccontextmanager
async def bridged(layer: BaseChannelLayer, broker_publish: Callable[..., Any]) -> AsyncIterator[None]:
    """While entered, what `publish` sends anywhere on `layer` reaches `broker_publish(topic, payload, qos=, retain=)`.

    Raises LayerUnavailableError if the server of the layer is away then; later on the layer comes back by itself.
    """

    def deliver(message: dict[str, Any]) -> bool:
        if isinstance(message, LayerEvent):
            return True
        if message.get("type") != MESSAGE_TYPE:
            return False
        try:
            broker_publish(message["topic"], message["payload"], qos=message["qos"], retain=message["retain"])
        except (KeyError, TypeError, ValueError) as error:  # sent by something else than `publish`
            logger.warning("a message of the group %s cannot be published: %r", GROUP, error)
            return False
        return True

    channel = await layer.new_channel()
    layer.attach(channel, deliver)
    try:
        await layer.group_add(GROUP, channel)
        yield
    finally:
        layer.detach(channel)
