"""Publishing to MQTT subscribers from anywhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway import mqtt
from gateway.layers import InMemoryChannelLayer, channel_layers
from gateway.mqtt.relay import GROUP, relayed_to_broker


@pytest.fixture
def layer() -> Any:
    layer = InMemoryChannelLayer()
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", before)  # type: ignore[arg-type]


async def publish_in_thread(*args: Any, **options: Any) -> None:
    await asyncio.to_thread(mqtt.publish_sync, *args, **options)


@pytest.fixture(params=[mqtt.publish, publish_in_thread], ids=["publish", "publish_sync"])
def publish(request: pytest.FixtureRequest) -> Callable[..., Awaitable[None]]:
    function: Callable[..., Awaitable[None]] = request.param
    return function


class Broker:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, int, bool]] = []

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        if topic == "refused":
            raise ValueError("refused")
        if topic == "overloaded":
            raise RuntimeError("overloaded")
        self.published.append((topic, payload, qos, retain))


async def test_every_broker_on_the_layer_gets_the_message(layer: InMemoryChannelLayer, publish: Any) -> None:
    one, other = Broker(), Broker()

    async with relayed_to_broker(layer, one), relayed_to_broker(layer, other):
        await publish("home/lamp", "on", qos=1, retain=True)

    assert one.published == other.published == [("home/lamp", b"on", 1, True)]


async def test_nothing_is_left_on_the_layer_when_the_broker_stops(layer: InMemoryChannelLayer, publish: Any) -> None:
    async with relayed_to_broker(layer, Broker()):
        pass

    assert layer.groups == {}
    await publish("home/lamp", b"on")


@pytest.mark.parametrize("topic", ["", "home/+", "home/#", "home\0"])
async def test_a_topic_that_cannot_be_published_to_is_refused(publish: Any, topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        await publish(topic, b"")


async def test_there_are_three_qualities_of_service(publish: Any) -> None:
    with pytest.raises(ValueError, match="qos is 0, 1 or 2"):
        await publish("home", b"", qos=3)


@pytest.mark.parametrize(
    "topic", ["v1/devices/me/rpc/request/1", "v1/devices/me/attributes", "v1/gateway/rpc", "v2/r/req/1"]
)
async def test_topics_by_which_each_device_speaks_to_the_gateway_alone_are_refused(publish: Any, topic: str) -> None:
    with pytest.raises(ValueError, match="gives one device a command") as refusal:
        await publish(topic, b"{}")

    assert topic in str(refusal.value)


async def test_what_others_put_into_the_group_does_no_harm(layer: InMemoryChannelLayer) -> None:
    broker = Broker()

    async with relayed_to_broker(layer, broker):
        await layer.group_send(GROUP, {"type": "mqtt.publish"})
        await layer.group_send(GROUP, {"type": "something.else"})
        await mqtt.publish("refused", b"")
        await mqtt.publish("overloaded", b"")
        await mqtt.publish("home/lamp", b"on")

    assert broker.published == [("home/lamp", b"on", 0, False)]
