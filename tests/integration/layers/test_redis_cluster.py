"""What the Redis layers do when a cluster changes under them: a node fails over, a slot moves, nodes come back."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.crc import key_slot

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import LayerUnavailableError
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.ports import free_port
from tests.support.redis import ClusterSetup, RedisServer
from tests.support.redis_layers import Layer, Receiver
from tests.support.waiting import until

MakeLayer = Callable[[ClusterSetup], Layer]

TOLD = ["layer.disconnected", "layer.reconnected"]


@pytest.fixture(params=["pubsub", "plain pubsub", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
async def make_layer(kind: str) -> AsyncIterator[MakeLayer]:
    """Makes layers with a prefix of this test's own."""
    prefix = f"test-{uuid.uuid4().hex}"
    made: list[Layer] = []

    def make(cluster: ClusterSetup) -> Layer:
        host: dict[str, Any] = {"cluster": cluster.addresses, "socket_timeout": 1.0}
        if kind == "plain pubsub":
            host["sharded"] = False
        layer_class = RedisChannelLayer if kind == "redis" else RedisPubSubChannelLayer
        made.append(layer_class(hosts=[host], prefix=prefix))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


async def send_all_the_time(layer: Layer, groups: list[str]) -> None:
    while True:
        for group in groups:
            with contextlib.suppress(LayerUnavailableError):
                await layer.group_send(group, {"type": "load", "group": group})
        await asyncio.sleep(0.01)


async def send_until_it_fails(layer: Layer, group: str) -> None:
    async with asyncio.timeout(30):
        while True:
            await layer.group_send(group, {"type": "lost", "group": "lost"})


def groups_of(layer: Layer, cluster: ClusterSetup, node: RedisServer, count: int) -> list[str]:
    """Names of groups whose keys are on `node`."""
    names = (f"group.{number}" for number in range(10_000))
    found = [name for name in names if cluster.owner(layer.group_key(name)) is node]
    return found[:count]


class TestFailover:
    async def test_a_node_that_fails_over_is_followed_and_its_members_told_once(
        self, own_redis_cluster: ClusterSetup, make_layer: MakeLayer, kind: str
    ) -> None:
        here, elsewhere = make_layer(own_redis_cluster), make_layer(own_redis_cluster)
        failing, staying, _ = own_redis_cluster.nodes
        groups = groups_of(here, own_redis_cluster, failing, 3)
        others = groups_of(here, own_redis_cluster, staying, 3)
        member = await Receiver(here).join(*groups, *others)
        load = asyncio.create_task(send_all_the_time(elsewhere, groups + others))
        await until(lambda: member.heard() == {*groups, *others})

        failing.stop()
        if kind == "redis":  # which hears of the loss when the queue of this process was there
            await until(lambda: not elsewhere.connected)
        else:
            await until(lambda: member.events() == TOLD)
        await until(lambda: elsewhere.connected and here.connected)
        before = len(member.messages)
        await until(lambda: member.heard(before) == {*groups, *others})
        load.cancel()

        await until(lambda: member.events() in ([], TOLD) if kind == "redis" else member.events() == TOLD)

    async def test_who_joins_and_sends_while_a_node_is_away_is_served_when_it_is_replaced(
        self, own_redis_cluster: ClusterSetup, make_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_layer(own_redis_cluster), make_layer(own_redis_cluster)
        failing = own_redis_cluster.nodes[0]
        [early, late] = groups_of(here, own_redis_cluster, failing, 2)
        member = await Receiver(here).join(early)
        await elsewhere.check()

        failing.stop()
        with pytest.raises(LayerUnavailableError):
            await send_until_it_fails(elsewhere, early)
        await here.group_add(late, member.channel)
        load = asyncio.create_task(send_all_the_time(elsewhere, [early, late]))
        await until(lambda: {early, late} <= member.heard())
        load.cancel()


class TestMovingSlots:
    async def test_a_group_whose_slot_moves_is_followed(
        self, own_redis_cluster: ClusterSetup, make_layer: MakeLayer, kind: str
    ) -> None:
        here, elsewhere = make_layer(own_redis_cluster), make_layer(own_redis_cluster)
        _, source, target = own_redis_cluster.nodes
        [group, other] = groups_of(here, own_redis_cluster, source, 2)
        member = await Receiver(here).join(group, other)
        if kind == "redis":  # an empty slot is moved in one step; this key is written again
            with source.client() as client:
                client.delete(here.group_key(group))
        await elsewhere.group_send(other, {"type": "before", "group": other})
        await until(lambda: member.heard() == {other})

        own_redis_cluster.move_slot(key_slot(here.group_key(group)), source, target)
        load = asyncio.create_task(send_all_the_time(elsewhere, [group, other]))
        if kind == "redis":
            await here.group_add(group, (await Receiver(here).join()).channel)
            await elsewhere.group_add(group, member.channel)
        await until(lambda: member.heard() == {group, other})
        load.cancel()

    async def test_commands_follow_at_once_and_none_is_lost(
        self, own_redis_cluster: ClusterSetup, make_layer: MakeLayer, kind: str
    ) -> None:
        if kind != "redis":
            pytest.skip("queues only: publish and subscribe has nothing that stays on a node")
        layer = make_layer(own_redis_cluster)
        assert isinstance(layer, RedisChannelLayer)
        _, source, target = own_redis_cluster.nodes
        channel = next(
            f"work.{n}" for n in range(10_000) if own_redis_cluster.owner(layer.queue_key(f"work.{n}")) is source
        )
        reader = asyncio.create_task(layer.receive(channel))
        await layer.send(channel, {"type": "n", "number": -1})
        assert (await reader)["number"] == -1

        own_redis_cluster.move_slot(key_slot(layer.queue_key(channel)), source, target)
        for number in range(20):
            await layer.send(channel, {"type": "n", "number": number})

        async with asyncio.timeout(30):
            assert [(await layer.receive(channel))["number"] for _ in range(20)] == list(range(20))


class TestFromThreads:
    async def test_the_sync_api_finds_the_node(self, redis_cluster: ClusterSetup, make_layer: MakeLayer) -> None:
        layer = make_layer(redis_cluster)
        groups = [group for node in redis_cluster.nodes for group in groups_of(layer, redis_cluster, node, 2)]
        member = await Receiver(layer).join(*groups)

        def send() -> None:
            for group in groups:
                layer.sync.group_send(group, {"type": "m", "group": group})
            layer.sync.send(member.channel, {"type": "m", "group": "direct"})

        await asyncio.to_thread(send)

        await until(lambda: member.heard() == {*groups, "direct"})
        await asyncio.to_thread(layer.sync.close)


class TestConfiguration:
    async def test_a_cluster_that_is_not_there_is_an_error_at_once(self, kind: str) -> None:
        layer_class = RedisChannelLayer if kind == "redis" else RedisPubSubChannelLayer
        layer = layer_class(hosts=[{"cluster": [("127.0.0.1", free_port()), ("127.0.0.1", free_port())]}])

        with pytest.raises(LayerUnavailableError, match=r"cluster 127\.0\.0\.1"):
            await layer.check()
        with pytest.raises(LayerUnavailableError):
            await layer.new_channel()
        with pytest.raises(LayerUnavailableError):
            await asyncio.to_thread(layer.sync.group_send, "group", {"type": "m"})
        await layer.close()

    async def test_a_single_server_is_not_taken_for_a_cluster(self, redis_server: RedisServer) -> None:
        layer = RedisPubSubChannelLayer(hosts=[{"cluster": [("127.0.0.1", redis_server.port)]}])

        with pytest.raises(LayerUnavailableError, match="cluster support disabled"):
            await layer.check()
        await layer.close()

    def test_a_cluster_is_the_only_host_and_has_nodes(self) -> None:
        with pytest.raises(InvalidChannelLayerError, match="the only host"):
            RedisPubSubChannelLayer(hosts=[{"cluster": [("a", 1)]}, "redis://b"])
        with pytest.raises(ValueError, match="at least one"):
            RedisPubSubChannelLayer(hosts=[{"cluster": []}])
