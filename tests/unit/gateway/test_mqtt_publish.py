"""Publishing to MQTT subscribers from anywhere."""

from typing import Any

import pytest

from gateway.layers import InMemoryChannelLayer, channel_layers
from gateway.mqtt import GROUP, bridged, publish


@pytest.fixture
def layer() -> Any:
    layer = InMemoryChannelLayer()
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", before)  # type: ignore[arg-type]


class Broker:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, int, bool]] = []

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if topic == "refused":
            raise ValueError("refused")
        self.published.append((topic, payload, qos, retain))


async def test_every_broker_on_the_layer_gets_the_message(layer: InMemoryChannelLayer) -> None:
    one, other = Broker(), Broker()

    async with bridged(layer, one.publish), bridged(layer, other.publish):
        await publish("home/lamp", "on", qos=1, retain=True)

    assert one.published == other.published == [("home/lamp", b"on", 1, True)]


async def test_nothing_is_left_on_the_layer_when_the_broker_stops(layer: InMemoryChannelLayer) -> None:
    async with bridged(layer, Broker().publish):
        pass

    assert layer.groups == {}
    await publish("home/lamp", b"on")


@pytest.mark.parametrize("topic", ["", "home/+", "home/#", "home\0"])
async def test_a_topic_that_cannot_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        await publish(topic, b"")


async def test_there_are_three_qualities_of_service() -> None:
    with pytest.raises(ValueError, match="qos is 0, 1 or 2"):
        await publish("home", b"", qos=3)


async def test_what_others_put_into_the_group_does_no_harm(layer: InMemoryChannelLayer) -> None:
    broker = Broker()

    async with bridged(layer, broker.publish):
        await layer.group_send(GROUP, {"type": "mqtt.publish"})
        await layer.group_send(GROUP, {"type": "something.else"})
        await publish("refused", b"")
        await publish("home/lamp", b"on")

    assert broker.published == [("home/lamp", b"on", 0, False)]
