"""Layers over Redis, and channels of theirs that keep what they get."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.layers import LayerEvent
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.redis import RedisServer

Layer = RedisPubSubChannelLayer | RedisChannelLayer
MakeLayer = Callable[..., Layer]


@pytest.fixture(params=[RedisPubSubChannelLayer, RedisChannelLayer])
def redis_layer_class(request: pytest.FixtureRequest) -> type[Layer]:
    chosen: type[Layer] = request.param
    return chosen


@pytest.fixture
async def make_redis_layer(redis_layer_class: type[Layer]) -> AsyncIterator[MakeLayer]:
    """Makes layers with a prefix of this test's own."""
    prefix = f"test-{uuid.uuid4().hex}"
    made: list[Layer] = []

    def make(server: RedisServer | None, **options: Any) -> Layer:
        options.setdefault("prefix", prefix)
        if server is not None:
            options.setdefault("hosts", [server.url])
        layer = redis_layer_class(**options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()


class Receiver:
    """An attached channel that keeps what it gets."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.messages: list[dict[str, Any]] = []

    async def join(self, *groups: str) -> "Receiver":
        self.channel = await self.layer.new_channel()
        self.layer.attach(self.channel, self.messages.append)
        for group in groups:
            await self.layer.group_add(group, self.channel)
        return self

    def events(self) -> list[str]:
        return [message["type"] for message in self.messages if isinstance(message, LayerEvent)]

    def heard(self, since: int = 0) -> set[str]:
        """The "group" of each message that has one, after as many messages as `since`."""
        return {message["group"] for message in self.messages[since:] if "group" in message}


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("gateway_layer_dropped_total", {"reason": reason}) or 0.0
