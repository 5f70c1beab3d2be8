"""Retained messages that a consumer keeps from clients which may subscribe to more than they may read."""

from typing import Any

import pytest

from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer
from protocols.mqtt.codec.packets import PubAck, Publish, SubAck, Subscribe, Subscription
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.integration.mqtt.raw_client import RawClient


class Reader(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        self.unrestricted = True
        await self.accept()

    async def authorize_retained(self, topic: str) -> bool:
        return "secret" not in topic


class SyncReader(MqttConsumer):
    def connect(self, password: bytes | None) -> None:
        self.unrestricted = True
        self.accept()

    def authorize_retained(self, topic: str) -> bool:
        return "secret" not in topic


async def retain(client: RawClient, *topics: str) -> None:
    for topic in topics:
        client.send(Publish(topic=topic, payload=b"kept", qos=1, retain=True, packet_id=1))
        assert isinstance(await client.receive(), PubAck)


@pytest.mark.parametrize("consumer", [Reader, SyncReader])
@pytest.mark.parametrize("version", [4, 5])
async def test_a_client_gets_those_that_it_may_read(serve: Serve, raw: OpenRaw, consumer: Any, version: int) -> None:
    address = await serve(consumer.as_asgi())
    await retain(await raw("writer", 5, to=address), "a/open", "a/secret", "a/public")
    reader = await raw("reader", version, to=address)

    assert await reader.subscribe("a/#") == 0

    received = [await reader.receive(), await reader.receive()]
    assert received == [Publish(topic=topic, payload=b"kept", retain=True) for topic in ("a/open", "a/public")]
    await reader.expect_nothing_more()


async def test_however_many_there_are_and_the_client_is_served_meanwhile(serve: Serve, raw: OpenRaw) -> None:
    address = await serve(Reader.as_asgi())
    topics = [f"a/{'secret' if number % 3 == 0 else 'open'}/{number}" for number in range(250)]
    await retain(await raw("writer", 5, to=address), *topics)
    reader = await raw("reader", 5, to=address)

    for packet_id, topic_filter in enumerate(("a/#", "+/open/1"), 1):
        subscription = Subscription(topic_filter=topic_filter)
        reader.send(Subscribe(packet_id=packet_id, subscriptions=(subscription,)))
    reader.send(Publish(topic="a/open/1", payload=b"new", qos=1, packet_id=7))

    open_topics = [topic for topic in topics if "open" in topic]
    packets = [await reader.receive() for _ in range(3 + len(open_topics) + 2)]
    assert [packet.packet_id for packet in packets if isinstance(packet, SubAck)] == [1, 2]
    assert [packet.packet_id for packet in packets if isinstance(packet, PubAck)] == [7]
    publishes = [packet for packet in packets if isinstance(packet, Publish)]
    assert [packet.topic for packet in publishes if packet.retain] == [*open_topics, "a/open/1"]
    assert [packet.payload for packet in publishes if not packet.retain] == [b"new"]
    await reader.expect_nothing_more()
