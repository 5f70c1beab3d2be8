"""What the layers over Redis do beyond the common contract: losing the server, encryption, loops, threads, hosts."""

import asyncio
import contextlib
import gc
import threading
import time
import uuid
import warnings
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from gateway.layers import GroupSendResult, LayerUnavailableError
from gateway.layers.pubsub import RedisPubSubChannelLayer
from tests.support.ports import free_port
from tests.support.redis import RedisServer, SentinelSetup
from tests.support.redis_layers import Layer, MakeLayer, Receiver, dropped
from tests.support.waiting import until


def wait_until_alone(client: "redis.Redis") -> None:
    """Returns when the server has noticed that all other connections are closed."""
    deadline = time.monotonic() + 60
    while len(client.client_list()) > 1:
        assert time.monotonic() < deadline, client.client_list()
        time.sleep(0.01)


class TestLosingRedis:
    async def test_members_are_told_once_and_are_in_their_groups_again(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_redis_layer(own_redis_server), make_redis_layer(own_redis_server)
        members = [await Receiver(here).join("group", "other") for _ in range(3)]
        assert here.connected

        own_redis_server.stop()
        await until(lambda: not here.connected)
        own_redis_server.start()
        await until(lambda: len(members[0].events()) == 2)
        await until(lambda: elsewhere.connected)
        await send_until_it_works(elsewhere, "group", {"type": "after"})
        await until(lambda: {"type": "after"} in members[0].messages)

        for member in members:
            assert member.messages == [
                {"type": "layer.disconnected", "generation": 0},
                {"type": "layer.reconnected", "generation": 1},
                {"type": "after"},
            ]

    async def test_members_in_the_same_process_go_on_receiving(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(own_redis_server)
        member = await Receiver(layer).join("group")

        own_redis_server.stop()
        await until(lambda: not layer.connected)
        with pytest.raises(LayerUnavailableError) as raised:
            await layer.group_send("group", {"type": "local"})

        assert raised.value.result == GroupSendResult(delivered=1, dropped=0)
        assert member.messages[-1] == {"type": "local"}

    async def test_sending_while_redis_is_away_does_not_wait(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(own_redis_server)
        await layer.group_send("group", {"type": "m"})
        own_redis_server.stop()
        with pytest.raises(LayerUnavailableError):
            await layer.group_send("group", {"type": "first"})
        before = dropped("unavailable")

        started = time.perf_counter()
        for _ in range(100):
            with pytest.raises(LayerUnavailableError):
                await layer.group_send("group", {"type": "m"})

        assert time.perf_counter() - started < 20  # of the 200 s that waiting for each would take
        assert dropped("unavailable") - before == 100

    async def test_a_server_that_hangs_is_given_up_in_time(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(None, hosts=[f"{own_redis_server.url}?socket_timeout=1.5"])
        member = await Receiver(layer).join("group")
        await layer.check()

        own_redis_server.pause()
        with pytest.raises(LayerUnavailableError, match=r"no answer for 1\.5 s"):
            await asyncio.wait_for(layer.group_send("group", {"type": "m"}), 60)
        own_redis_server.resume()

        await send_until_it_works(make_redis_layer(own_redis_server), "group", {"type": "after"})
        await until(lambda: {"type": "after"} in member.messages)

    async def test_a_loop_that_was_blocked_for_long_has_not_lost_its_server(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(None, hosts=[f"{redis_server.url}?socket_timeout=1"])
        member = await Receiver(layer).join("group")

        sending = asyncio.create_task(layer.group_send("group", {"type": "m"}))
        while not layer._loops.here.commands.connections[0]._asked_at:
            await asyncio.sleep(0)
        time.sleep(1.6)  # as code that is not made for an event loop does

        await sending
        assert member.messages == [{"type": "m"}]

    async def test_who_joins_while_redis_is_away_is_a_member_when_it_is_back(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_redis_layer(own_redis_server), make_redis_layer(own_redis_server)
        early = await Receiver(here).join("group")
        own_redis_server.stop()
        await until(lambda: early.events() == ["layer.disconnected"])

        late = await Receiver(here).join("late")
        own_redis_server.start()
        await until(lambda: late.events() == ["layer.reconnected"])
        await elsewhere.group_send("late", {"type": "after"})

        await until(lambda: {"type": "after"} in late.messages)

    async def test_a_server_that_was_never_there_is_an_error_at_once(self, make_redis_layer: MakeLayer) -> None:
        layer = make_redis_layer(None, hosts=[f"redis://user:secret@127.0.0.1:{free_port()}"])

        with pytest.raises(LayerUnavailableError, match="not available") as raised:
            await layer.check()
        with pytest.raises(LayerUnavailableError):
            await layer.new_channel()

        assert "secret" not in str(raised.value)

    async def test_configured_events_and_functions_are_called(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        calls: list[str] = []

        async def reconnected() -> None:
            calls.append("reconnected")

        with_types = make_redis_layer(
            own_redis_server, on_disconnect="redis.disconnect", on_reconnect="redis.reconnect"
        )
        with_functions = make_redis_layer(
            own_redis_server, on_disconnect=lambda: calls.append("disconnected"), on_reconnect=reconnected
        )
        member, silent = await Receiver(with_types).join("group"), await Receiver(with_functions).join("group")

        own_redis_server.stop()
        await until(lambda: bool(calls) and bool(member.messages))
        own_redis_server.start()
        await until(lambda: len(calls) == 2 and len(member.messages) == 2)

        assert member.events() == ["redis.disconnect", "redis.reconnect"]
        assert calls == ["disconnected", "reconnected"]
        assert silent.messages == []


async def send_until_it_works(layer: Layer, group: str, message: dict[str, Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await layer.group_send(group, message)
            except LayerUnavailableError:
                await asyncio.sleep(0.02)
            else:
                return


async def send_all_the_time(layer: Layer, group: str) -> None:
    while True:
        with contextlib.suppress(LayerUnavailableError):
            await layer.group_send(group, {"type": "load"})
        await asyncio.sleep(0.01)


class TestUnderLoad:
    async def test_a_restart_is_survived_and_told_once(
        self, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_redis_layer(own_redis_server), make_redis_layer(own_redis_server)
        members = [await Receiver(here).join("group") for _ in range(100)]
        load = asyncio.create_task(send_all_the_time(elsewhere, "group"))
        await until(lambda: {"type": "load"} in members[-1].messages)

        own_redis_server.stop()
        await until(lambda: not here.connected)
        own_redis_server.start()
        await until(lambda: members[-1].events() == ["layer.disconnected", "layer.reconnected"])
        came_back_at = len(members[-1].messages)
        await until(lambda: len(members[-1].messages) > came_back_at + 20)
        load.cancel()

        assert [member.events() for member in members] == [["layer.disconnected", "layer.reconnected"]] * 100

    async def test_a_failover_by_sentinel_is_survived_and_told_once(
        self, sentinel_setup: SentinelSetup, make_redis_layer: MakeLayer
    ) -> None:
        host = {"sentinels": sentinel_setup.addresses, "master_name": sentinel_setup.master_name}
        here, elsewhere = make_redis_layer(None, hosts=[host]), make_redis_layer(None, hosts=[host])
        members = [await Receiver(here).join("group") for _ in range(3)]

        load = asyncio.create_task(send_all_the_time(elsewhere, "group"))
        await until(lambda: {"type": "load"} in members[0].messages)
        sentinel_setup.master.stop()
        await until(lambda: members[0].events() == ["layer.disconnected", "layer.reconnected"])
        came_back_at = len(members[0].messages)
        await until(lambda: len(members[0].messages) > came_back_at + 5)
        load.cancel()

        assert [member.events() for member in members] == [["layer.disconnected", "layer.reconnected"]] * 3


class TestWhatRedisCarries:
    async def test_one_publish_whatever_the_number_of_members(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        here, elsewhere = make_redis_layer(redis_server), make_redis_layer(redis_server)
        members = [await Receiver(here).join("group") for _ in range(200)]
        await elsewhere.check()
        with redis_server.client() as client:
            before = client.info("stats")["total_net_output_bytes"]

            await elsewhere.group_send("group", {"type": "m", "text": "x" * 1000})
            await until(lambda: all(member.messages for member in members))

            assert client.info("stats")["total_net_output_bytes"] - before < 8000 + 1200

    @pytest.mark.parametrize("redis_layer_class", [RedisPubSubChannelLayer])
    async def test_a_group_is_subscribed_to_while_it_has_members(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(redis_server)
        one, two = await Receiver(layer).join("group"), await Receiver(layer).join("group")
        with redis_server.client() as client:

            def subscribers() -> int:
                return int(client.pubsub_numsub(layer.group_key("group"))[0][1])

            assert subscribers() == 1
            await layer.group_discard("group", one.channel)
            assert subscribers() == 1
            layer.detach(two.channel)
            await until(lambda: subscribers() == 0)

    async def test_joining_a_group_ends_also_when_the_member_leaves_meanwhile(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(redis_server)
        member = await Receiver(layer).join()

        async with asyncio.timeout(60):
            await asyncio.gather(layer.group_add("group", member.channel), layer.group_discard("group", member.channel))

        await make_redis_layer(redis_server).group_send("group", {"type": "m", "group": "group"})
        await layer.group_send("group", {"type": "m", "group": "group"})
        await layer.send(member.channel, {"type": "last"})
        await until(lambda: bool(member.messages))
        assert member.messages == [{"type": "last"}]

    @pytest.mark.parametrize("redis_layer_class", [RedisPubSubChannelLayer])
    async def test_bytes_that_are_no_message_are_counted_and_skipped(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(redis_server)
        member = await Receiver(layer).join("group")
        before = dropped("undecodable")
        with redis_server.client() as client:
            for payload in (b"", b"short", b"x" * 100, b"\0" * 8 + b"\x93\1\2\3", b"\0" * 8 + b'{"type"'):
                client.publish(layer.group_key("group"), payload)
                client.publish(layer.channel_key(member.channel), payload)

        await make_redis_layer(redis_server).group_send("group", {"type": "good"})

        await until(lambda: member.messages == [{"type": "good"}])
        assert dropped("undecodable") - before == 10


class TestLateReaders:
    async def test_a_member_that_read_too_late_once_stays_in_its_group(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer, other = (make_redis_layer(redis_server, expiry=0.05) for _ in range(2))
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "too.late"})
        await asyncio.sleep(0.1)
        await layer.group_send("group", {"type": "m"})

        async with asyncio.timeout(60):
            for _ in range(5):
                reader = asyncio.create_task(layer.receive(channel))
                while not reader.done():
                    await other.group_send("group", {"type": "m"})
                    await asyncio.sleep(0.01)
                assert await reader == {"type": "m"}


class TestThreadsAndLoops:
    async def test_the_sync_api_sends_from_any_thread(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(redis_server)
        member = await Receiver(layer).join("group")

        def send() -> None:
            layer.sync.group_send("group", {"type": "m"})
            layer.sync.send(member.channel, {"type": "direct"})

        await asyncio.gather(*(asyncio.to_thread(send) for _ in range(4)))

        await until(lambda: len(member.messages) == 8)
        assert layer.sync is layer.sync
        layer.sync.close()

    def test_short_lived_loops_leave_no_connection_and_no_complaint(
        self, redis_server: RedisServer, redis_layer_class: type[Layer], caplog: pytest.LogCaptureFixture
    ) -> None:
        layer = redis_layer_class(hosts=[redis_server.url], prefix=f"test-{uuid.uuid4().hex}")
        with redis_server.client() as client, warnings.catch_warnings():
            warnings.simplefilter("error")
            wait_until_alone(client)

            def script() -> None:
                async_to_sync(layer.group_send)("group", {"type": "m"})
                async_to_sync(layer.new_channel)()

            for _ in range(5):
                script()
                thread = threading.Thread(target=script)
                thread.start()
                thread.join()
            gc.collect()

            wait_until_alone(client)
            assert len(layer._loops) <= 1
        assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []

    def test_sync_sending_without_redis_is_a_clear_error(self, redis_layer_class: type[Layer]) -> None:
        layer = redis_layer_class(hosts=[("127.0.0.1", free_port())])

        with pytest.raises(LayerUnavailableError, match=r"Redis at 127\.0\.0\.1"):
            layer.sync.group_send("group", {"type": "m"})
