"""The way of a published message from the channel layer to the brokers of a process."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from gateway.layers import BaseChannelLayer, LayerEvent, get_channel_layer
from protocols.server import ProtocolServer, Publisher

logger = logging.getLogger("gateway.mqtt")

GROUP: Final = "gateway.mqtt"
MESSAGE_TYPE: Final = "mqtt.publish"


@asynccontextmanager
async def relaying(servers: Sequence[ProtocolServer]) -> AsyncIterator[None]:
    """While entered, what `gateway.mqtt.publish` sends in any process reaches the subscribers of these servers.

    Raises LayerUnavailableError if the server of the layer is away then; later on the layer comes back by itself.
    """
    layer = get_channel_layer()
    async with AsyncExitStack() as entered:
        for server in servers:
            if layer is not None and isinstance(server, Publisher):
                await entered.enter_async_context(relayed_to_broker(layer, server))
        yield


@asynccontextmanager
async def relayed_to_broker(layer: BaseChannelLayer, broker: Publisher) -> AsyncIterator[None]:
    """While entered, what `gateway.mqtt.publish` sends on `layer` is published by `broker`.

    Raises LayerUnavailableError as `relaying` does.
    """

    def deliver(message: dict[str, Any]) -> bool:
        if isinstance(message, LayerEvent):
            return True
        if message.get("type") != MESSAGE_TYPE:
            return False
        try:
            broker.publish(message["topic"], message["payload"], qos=message["qos"], retain=message["retain"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # not of `publish`, or too many
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
