"""What the queue layer adds: messages that wait in Redis, workers that share a channel, members of other processes."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.exceptions import ChannelFull
from gateway.layers import GroupSendResult
from gateway.layers.redis import RedisChannelLayer
from tests.support.redis import RedisServer
from tests.support.waiting import until

MakeLayer = Callable[..., RedisChannelLayer]


@pytest.fixture
async def make_layer(redis_server: RedisServer) -> AsyncIterator[MakeLayer]:
    """Makes layers with a prefix of this test's own: each is a process."""
    prefix = f"test-{uuid.uuid4().hex}"
    made: list[RedisChannelLayer] = []

    def make(**options: Any) -> RedisChannelLayer:
        made.append(RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, **options))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


async def receive(layer: RedisChannelLayer, channel: str) -> dict[str, Any]:
    return await asyncio.wait_for(layer.receive(channel), 60)


async def cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})


class TestQueues:
    async def test_messages_wait_for_a_reader_and_keep_their_order(self, make_layer: MakeLayer) -> None:
        writer = make_layer()
        for number in range(30):
            await writer.send("work", {"type": "n", "number": number})
        await writer.close()
        reader = make_layer()

        assert [(await receive(reader, "work"))["number"] for _ in range(30)] == list(range(30))

    async def test_each_message_goes_to_one_of_the_workers(self, make_layer: MakeLayer) -> None:
        workers, writer = [make_layer() for _ in range(3)], make_layer()
        got: list[int] = []

        async def work(layer: RedisChannelLayer) -> None:
            while True:
                got.append((await layer.receive("work"))["number"])

        tasks = [asyncio.create_task(work(layer)) for layer in workers for _ in range(2)]
        for number in range(100):
            await writer.send("work", {"type": "n", "number": number})
            await asyncio.sleep(0)
        await until(lambda: len(got) >= 100, "all messages")
        for task in tasks:
            await cancel(task)

        assert sorted(got) == list(range(100))

    async def test_a_reader_takes_no_more_than_it_was_asked_for(self, make_layer: MakeLayer) -> None:
        one, two = make_layer(), make_layer()
        for number in range(3):
            await one.send("work", {"type": "n", "number": number})

        assert (await receive(one, "work"))["number"] == 0
        assert [(await receive(two, "work"))["number"] for _ in range(2)] == [1, 2]

    async def test_a_message_for_a_reader_that_left_goes_to_the_next(self, make_layer: MakeLayer) -> None:
        leaving, staying = make_layer(), make_layer()
        for _ in range(20):
            task = asyncio.create_task(leaving.receive("work"))
            await leaving.check()
            await cancel(task)

        for number in range(40):
            await staying.send("work", {"type": "n", "number": number})

        assert [(await receive(staying, "work"))["number"] for _ in range(40)] == list(range(40))

    async def test_a_full_channel_refuses(self, make_layer: MakeLayer) -> None:
        layer = make_layer(capacity=10, channel_capacity={"small*": 2})
        await layer.send("small.1", {"type": "m"})
        await layer.send("small.1", {"type": "m"})

        with pytest.raises(ChannelFull):
            await layer.send("small.1", {"type": "m"})
        with pytest.raises(ChannelFull):
            await asyncio.to_thread(layer.sync.send, "small.1", {"type": "m"})

    async def test_expired_messages_make_room_and_are_not_received(self, make_layer: MakeLayer) -> None:
        layer = make_layer(expiry=0.05, capacity=1)
        await layer.send("work", {"type": "old"})

        await asyncio.sleep(0.06)
        layer.expiry = 60
        await layer.send("work", {"type": "new"})

        assert await receive(layer, "work") == {"type": "new"}

    async def test_nothing_is_left_in_redis_when_nobody_reads(
        self, make_layer: MakeLayer, redis_server: RedisServer
    ) -> None:
        layer = make_layer(expiry=0.05)
        await layer.send("work", {"type": "m"})

        await asyncio.sleep(0.1)

        with redis_server.client() as client:
            assert client.keys(f"{layer.prefix}*") == []

    async def test_flush_empties_the_queues_of_this_prefix_only(self, make_layer: MakeLayer) -> None:
        layer = make_layer()
        other = RedisChannelLayer(hosts=layer.hosts, prefix=layer.prefix + "-other")
        await layer.send("work", {"type": "gone"})
        await other.send("work", {"type": "stays"})

        await layer.flush()

        await layer.send("work", {"type": "next"})
        assert await receive(layer, "work") == {"type": "next"}
        assert await receive(other, "work") == {"type": "stays"}
        await other.flush()
        await other.close()


class TestChannelsOfAProcess:
    async def test_carry_the_prefix_of_their_layer(self, make_layer: MakeLayer) -> None:
        one, other = make_layer(), make_layer()

        assert one.client_prefix != other.client_prefix
        assert (await one.new_channel()).startswith(f"specific.{one.client_prefix}")
        assert one.require_valid_channel_name(await one.new_channel())

    async def test_channels_of_a_process_are_read_there_only(self, make_layer: MakeLayer) -> None:
        here, elsewhere = make_layer(), make_layer()
        channel = await elsewhere.new_channel()

        with pytest.raises(AssertionError, match="Wrong client prefix"):
            await here.receive(channel)
        with pytest.raises(AssertionError, match="Wrong client prefix"):
            here.attach(channel, print)

        await here.send(channel, {"type": "m"})
        assert await receive(elsewhere, channel) == {"type": "m"}


class TestGroups:
    async def test_a_worker_channel_and_a_channel_of_another_process_may_be_members(
        self, make_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_layer(), make_layer()
        channel = await elsewhere.new_channel()
        await here.group_add("group", "worker")
        await here.group_add("group", channel)

        await make_layer().group_send("group", {"type": "m"})

        assert await receive(here, "worker") == {"type": "m"}
        assert await receive(elsewhere, channel) == {"type": "m"}

        await here.group_discard("group", "worker")
        await here.group_discard("group", channel)
        assert await make_layer().group_send("group", {"type": "m"}) == GroupSendResult(0, 0)

    async def test_a_full_worker_channel_is_reported(self, make_layer: MakeLayer) -> None:
        layer = make_layer(capacity=1)
        await layer.group_add("group", "worker")

        results = [await layer.group_send("group", {"type": "m"}) for _ in range(2)]

        assert results == [GroupSendResult(0, 0), GroupSendResult(0, 1)]

    async def test_a_member_that_lives_on_stays_after_the_group_expiry(self, make_layer: MakeLayer) -> None:
        here, elsewhere = make_layer(group_expiry=1), make_layer(group_expiry=1)
        got: list[dict[str, Any]] = []
        channel = await here.new_channel()
        here.attach(channel, got.append)
        await here.group_add("group", channel)
        await here.group_add("group", "dead-worker")

        await asyncio.sleep(2.3)

        async with asyncio.timeout(60):
            while not got:  # this event loop may have been too busy to say in time that it lives
                await elsewhere.group_send("group", {"type": "m"})
                await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(elsewhere.receive("dead-worker"), 0.1)

    async def test_who_joins_while_the_connection_for_commands_is_lost_is_a_member(
        self, own_redis_server: RedisServer
    ) -> None:
        here, elsewhere = (RedisChannelLayer(hosts=[own_redis_server.url]) for _ in range(2))
        got: list[dict[str, Any]] = []
        channel = await here.new_channel()
        here.attach(channel, got.append)
        await here.group_add("before", channel)
        with own_redis_server.client() as client:
            for connection in client.client_list():
                if connection["cmd"] not in ("blpop", "client|list"):  # the one that waits for messages stays
                    client.client_kill_filter(_id=connection["id"])

        await here.group_add("after", channel)

        async with asyncio.timeout(60):
            while not got:
                await elsewhere.group_send("after", {"type": "m"})
                await asyncio.sleep(0.05)
        await here.close()
        await elsewhere.close()

    @pytest.mark.parametrize("written_by", ["join", "refresh"])
    async def test_who_joins_a_group_that_was_left_while_it_was_being_written_is_a_member(
        self, make_layer: MakeLayer, written_by: str
    ) -> None:
        here, elsewhere = make_layer(), make_layer()
        got: list[dict[str, Any]] = []
        channel = await here.new_channel()
        here.attach(channel, got.append)
        await here.group_add("other", channel)
        state = here._loops.here
        inflight = state.commands.connections[0]._inflight
        if written_by == "refresh":
            await here.group_add("group", channel)
        await until(lambda: not inflight)
        write = state.memberships.write_all() if written_by == "refresh" else here.group_add("group", channel)
        writing = asyncio.create_task(write)
        await until(lambda: inflight)

        await here.group_discard("group", channel)
        await writing
        await here.group_add("group", channel)

        await elsewhere.group_send("group", {"type": "m"})
        await elsewhere.group_send("other", {"type": "end"})
        await until(lambda: {"type": "end"} in got)
        assert got == [{"type": "m"}, {"type": "end"}]

    async def test_memberships_that_redis_lost_are_written_again(
        self, own_redis_server: RedisServer, make_layer: MakeLayer
    ) -> None:
        layer = RedisChannelLayer(hosts=[own_redis_server.url], prefix="p")
        channel = await layer.new_channel()
        for number in range(50):
            await layer.group_add(f"group.{number}", channel)

        own_redis_server.stop()
        own_redis_server.start()

        with own_redis_server.client() as client:
            async with asyncio.timeout(60):
                while len(client.keys("p:group:*")) < 50:
                    await asyncio.sleep(0.05)
        await layer.close()
