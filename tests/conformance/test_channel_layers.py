"""What every channel layer does, run over each of them; the Redis ones on a real server.

Two layers of one `Layers` are two processes as far as the layer can tell: they share the server and nothing else. The
in-memory layer has one process, so there both are the same object.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.exceptions import ChannelFull
from gateway.layers import BaseChannelLayer, GroupSendResult, InMemoryChannelLayer
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.redis import ClusterSetup, RedisServer

Layers = Callable[..., BaseChannelLayer]

TIMEOUT_S = 60

NAMES = ["plain-name_1.x", "user@example.org", "v1/devices/me/+", "größe ✓", "a" * 5000, "%41", "A", "a b\n", "~"]


@pytest.fixture(params=["memory", "pubsub", "redis", "cluster pubsub", "cluster plain pubsub", "cluster redis"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def layers(backend: str, request: pytest.FixtureRequest) -> AsyncIterator[Layers]:
    """Makes layers that share one server; options as in CONFIG."""
    made: list[Any] = []
    if backend == "memory":
        shared: list[InMemoryChannelLayer] = []

        def make(**options: Any) -> BaseChannelLayer:
            options.pop("symmetric_encryption_keys", None)
            if not shared:
                shared.append(InMemoryChannelLayer(**options))
            return shared[0]

    else:
        hosts = _hosts(backend, request)
        prefix = f"test-{uuid.uuid4().hex}"

        def make(**options: Any) -> BaseChannelLayer:
            layer_class = RedisPubSubChannelLayer if backend.endswith("pubsub") else RedisChannelLayer
            layer = layer_class(hosts=hosts, prefix=prefix, **options)
            made.append(layer)
            return layer

    yield make
    for layer in made:
        await layer.close()


def _hosts(backend: str, request: pytest.FixtureRequest) -> list[Any]:
    if not backend.startswith("cluster"):
        server: RedisServer = request.getfixturevalue("redis_server")
        return [server.url]
    cluster: ClusterSetup = request.getfixturevalue("redis_cluster")
    host: dict[str, Any] = {"cluster": cluster.addresses}
    if backend == "cluster plain pubsub":  # what a cluster before Redis 7 is used with
        host["sharded"] = False
    return [host]


async def receive(layer: BaseChannelLayer, channel: str) -> dict[str, Any]:
    return await asyncio.wait_for(layer.receive(channel), TIMEOUT_S)


async def nothing_more(layer: BaseChannelLayer, channel: str) -> bool:
    """True when `channel` has no message, and none under way."""
    await layer.send(channel, {"type": "last"})
    return (await receive(layer, channel))["type"] == "last"


class TestChannels:
    async def test_messages_to_a_channel_arrive_in_the_order_sent(self, layers: Layers) -> None:
        reader, writer = layers(), layers()
        channel = await reader.new_channel()

        for number in range(50):
            await writer.send(channel, {"type": "n", "number": number})

        assert [(await receive(reader, channel))["number"] for _ in range(50)] == list(range(50))

    async def test_a_channel_gets_only_its_own_messages(self, layers: Layers) -> None:
        layer = layers()
        one, two = await layer.new_channel(), await layer.new_channel()

        await layer.send(one, {"type": "for.one"})

        assert await receive(layer, one) == {"type": "for.one"}
        assert await nothing_more(layer, two)

    async def test_what_is_received_is_not_the_object_that_was_sent(self, layers: Layers) -> None:
        layer = layers()
        channel = await layer.new_channel()
        message = {"type": "m", "nested": {"values": [1, 2]}}

        await layer.send(channel, message)
        message["nested"]["values"].append(3)

        assert await receive(layer, channel) == {"type": "m", "nested": {"values": [1, 2]}}

    async def test_a_megabyte_passes(self, layers: Layers) -> None:
        reader, writer = layers(), layers()
        channel = await reader.new_channel()

        await writer.send(channel, {"type": "big", "data": b"x" * 1_000_000})

        assert len((await receive(reader, channel))["data"]) == 1_000_000

    async def test_a_message_must_be_a_dict_without_the_reserved_key(self, layers: Layers) -> None:
        layer = layers()

        with pytest.raises(AssertionError, match="message is not a dict"):
            await layer.send("a", "text")  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match="__asgi_channel__"):
            await layer.send("a", {"type": "m", "__asgi_channel__": "b"})

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    async def test_any_string_names_a_channel_and_a_group(self, layers: Layers, name: str) -> None:
        reader, writer = layers(), layers()
        channel = await reader.new_channel()
        named = asyncio.create_task(receive(reader, name))
        await reader.group_add(name, channel)
        for other in NAMES:
            if other != name:
                await writer.group_send(other, {"type": "wrong"})

        await writer.group_send(name, {"type": "right"})
        while not named.done():  # on a cluster, another node may not know yet that it is read
            await writer.send(name, {"type": "direct"})
            await asyncio.sleep(0.01)

        assert await receive(reader, channel) == {"type": "right"}
        assert await named == {"type": "direct"}

    @pytest.mark.parametrize("name", [None, 7, b"bytes", ""])
    async def test_a_name_that_is_no_string_is_a_type_error(self, layers: Layers, name: Any) -> None:
        layer = layers()

        with pytest.raises(TypeError, match="Channel name must be a valid unicode string"):
            await layer.send(name, {"type": "m"})
        with pytest.raises(TypeError, match="Channel name must be a valid unicode string"):
            await layer.receive(name)
        with pytest.raises(TypeError, match="Group name must be a valid unicode string"):
            await layer.group_send(name, {"type": "m"})


class TestGroups:
    async def test_every_member_gets_a_message_of_its_own(self, layers: Layers) -> None:
        layer, elsewhere = layers(), layers()
        channels = [await layer.new_channel(), await layer.new_channel(), await elsewhere.new_channel()]
        for owner, channel in zip([layer, layer, elsewhere], channels, strict=True):
            await owner.group_add("group", channel)

        await layer.group_send("group", {"type": "m", "to": "all"})

        for owner, channel in zip([layer, layer, elsewhere], channels, strict=True):
            message = await receive(owner, channel)
            assert message == {"type": "m", "to": "all"}
            message["to"] = "nobody else"

    async def test_messages_to_a_group_arrive_in_the_order_sent(self, layers: Layers) -> None:
        reader, writer = layers(), layers()
        channel = await reader.new_channel()
        await reader.group_add("group", channel)

        await asyncio.gather(*(writer.group_send("group", {"type": "n", "number": n}) for n in range(50)))

        assert [(await receive(reader, channel))["number"] for _ in range(50)] == list(range(50))

    async def test_no_message_sent_after_group_add_is_missed(self, layers: Layers) -> None:
        reader, writer = layers(), layers()
        for number in range(20):
            channel = await reader.new_channel()
            await reader.group_add(f"group.{number}", channel)
            await writer.group_send(f"group.{number}", {"type": "m"})
            assert await receive(reader, channel) == {"type": "m"}
            await reader.group_discard(f"group.{number}", channel)

    async def test_a_channel_that_was_discarded_gets_no_more(self, layers: Layers) -> None:
        layer = layers()
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_discard("group", channel)
        await layer.group_discard("group", channel)

        await layer.group_send("group", {"type": "m"})

        assert await nothing_more(layer, channel)

    async def test_a_channel_added_twice_gets_one_copy(self, layers: Layers) -> None:
        layer = layers()
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_add("group", channel)

        await layer.group_send("group", {"type": "m"})

        assert await receive(layer, channel) == {"type": "m"}
        assert await nothing_more(layer, channel)

    async def test_leaving_and_joining_at_once_keeps_the_member(self, layers: Layers) -> None:
        reader, writer = layers(), layers()
        channel = await reader.new_channel()
        await reader.group_add("group", channel)

        await reader.group_discard("group", channel)
        await reader.group_add("group", channel)
        await writer.group_send("group", {"type": "m"})

        assert await receive(reader, channel) == {"type": "m"}

    async def test_a_group_without_members_takes_messages(self, layers: Layers) -> None:
        assert await layers().group_send("nobody", {"type": "m"}) == GroupSendResult(0, 0)

    async def test_flush_drops_messages_and_memberships(self, layers: Layers) -> None:
        layer = layers()
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.send(channel, {"type": "m"})

        await layer.flush()

        assert await layer.group_send("group", {"type": "m"}) == GroupSendResult(0, 0)
        fresh = await layer.new_channel()
        await layer.send(fresh, {"type": "fresh"})
        assert await receive(layer, fresh) == {"type": "fresh"}


class TestAttachedChannels:
    async def test_messages_go_straight_to_the_function(self, layers: Layers) -> None:
        layer = layers()
        got: list[dict[str, Any]] = []
        channel = await layer.new_channel()
        layer.attach(channel, got.append)
        await layer.group_add("group", channel)

        result = await layer.group_send("group", {"type": "m"})
        await layer.send(channel, {"type": "direct"})

        assert got == [{"type": "m"}, {"type": "direct"}]
        assert result == GroupSendResult(delivered=1, dropped=0)

    async def test_messages_that_came_before_attach_are_delivered_first(self, layers: Layers) -> None:
        layer = layers()
        got: list[dict[str, Any]] = []
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        layer.attach(channel, got.append)

        assert got == [{"type": "early"}]

    async def test_detach_ends_delivery_and_memberships(self, layers: Layers) -> None:
        layer = layers()
        got: list[dict[str, Any]] = []
        channel = await layer.new_channel()
        layer.attach(channel, got.append)
        await layer.group_add("group", channel)

        layer.detach(channel)

        assert await layer.group_send("group", {"type": "m"}) == GroupSendResult(0, 0)
        assert got == []

    async def test_a_refused_message_is_counted_and_others_get_theirs(self, layers: Layers) -> None:
        layer = layers()
        got: list[dict[str, Any]] = []

        def fail(message: dict[str, Any]) -> None:
            raise RuntimeError("a fault of the receiver")

        for deliver in (lambda message: False, fail, got.append):
            channel = await layer.new_channel()
            layer.attach(channel, deliver)
            await layer.group_add("group", channel)

        assert await layer.group_send("group", {"type": "m"}) == GroupSendResult(delivered=1, dropped=2)
        assert got == [{"type": "m"}]

    async def test_a_refused_direct_message_is_channel_full(self, layers: Layers) -> None:
        layer = layers()
        channel = await layer.new_channel()
        layer.attach(channel, lambda message: False)

        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "m"})

    async def test_one_message_is_decoded_once_for_all_members(self, layers: Layers) -> None:
        layer = layers()
        got: list[dict[str, Any]] = []
        for _ in range(3):
            channel = await layer.new_channel()
            layer.attach(channel, got.append)
            await layer.group_add("group", channel)

        await layer.group_send("group", {"type": "m", "text": "x" * 100})

        assert got[0] is not got[1]
        assert got[0]["text"] is got[1]["text"] is got[2]["text"]


class TestBounds:
    async def test_a_full_channel_refuses_by_its_capacity(self, layers: Layers) -> None:
        layer = layers(capacity=3, channel_capacity={"nothing*": 1, "*": 2})
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "m"})
        await layer.send(channel, {"type": "m"})

        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "m"})

        await receive(layer, channel)
        await layer.send(channel, {"type": "m"})

    async def test_a_full_member_is_dropped_and_reported(self, layers: Layers) -> None:
        layer = layers(capacity=2)
        channel = await layer.new_channel()
        await layer.group_add("group", channel)

        results = [await layer.group_send("group", {"type": "n", "number": n}) for n in range(3)]

        assert results == [GroupSendResult(1, 0), GroupSendResult(1, 0), GroupSendResult(0, 1)]
        assert [(await receive(layer, channel))["number"] for _ in range(2)] == [0, 1]

    async def test_an_unread_message_expires(self, layers: Layers) -> None:
        layer = layers(expiry=0.05)
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "old"})

        await asyncio.sleep(0.06)
        reader = asyncio.create_task(receive(layer, channel))
        while not reader.done():  # which may be slow enough for a new one to expire
            await layer.send(channel, {"type": "new"})
            await asyncio.sleep(0.01)

        assert await reader == {"type": "new"}


class TestNothingIsLost:
    async def test_cancelled_receivers_lose_no_message(self, layers: Layers) -> None:
        layer = layers(capacity=1000)
        channel = await layer.new_channel()
        got: list[int] = []
        for number in range(200):
            waiting = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0)
            await layer.send(channel, {"type": "n", "number": number})
            waiting.cancel()
            try:
                got.append((await waiting)["number"])
            except asyncio.CancelledError:
                pass

        while len(got) < 200:
            got.append((await receive(layer, channel))["number"])
        assert got == list(range(200))

    async def test_readers_that_stay_get_everything_while_others_come_and_go(self, layers: Layers) -> None:
        reader, writer = layers(capacity=5000), layers(capacity=5000)
        stayers = [await reader.new_channel() for _ in range(10)]
        for channel in stayers:
            await reader.group_add("group", channel)

        async def stay(channel: str) -> list[int]:
            return [(await receive(reader, channel))["number"] for _ in range(500)]

        async def come_and_go() -> None:
            for _ in range(25):
                channel = await reader.new_channel()
                await reader.group_add("group", channel)
                waiting = asyncio.create_task(reader.receive(channel))
                await asyncio.sleep(0)
                waiting.cancel()
                reader.detach(channel)

        async def write() -> None:
            for number in range(500):
                await writer.group_send("group", {"type": "n", "number": number})

        *received, _, _ = await asyncio.gather(*map(stay, stayers), come_and_go(), write())

        assert received == [list(range(500))] * 10
