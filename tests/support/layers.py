"""Layers of every back end that extensions of layers are run over."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.layers import BaseChannelLayer, InMemoryChannelLayer
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.redis import ClusterSetup, RedisServer

MakeLayer = Callable[..., BaseChannelLayer]


@pytest.fixture(params=["memory", "pubsub", "redis", "cluster pubsub", "cluster redis"])
async def make_layer(request: pytest.FixtureRequest) -> AsyncIterator[MakeLayer]:
    """Makes layers that share one server, as processes do. In memory there is one process: it is always the same."""
    made: list[Any] = []
    prefix = f"test-{uuid.uuid4().hex}"

    def make(**options: Any) -> BaseChannelLayer:
        if request.param == "memory":
            if not made:
                made.append(InMemoryChannelLayer(**options))
            return made[0]
        layer_class = RedisPubSubChannelLayer if request.param.endswith("pubsub") else RedisChannelLayer
        made.append(layer_class(hosts=[_host(request)], prefix=prefix, **options))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


def _host(request: pytest.FixtureRequest) -> Any:
    if request.param.startswith("cluster"):
        cluster: ClusterSetup = request.getfixturevalue("redis_cluster")
        return {"cluster": cluster.addresses}
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url
