"""What comes over Redis and is no message: counted, logged once, skipped; whoever waits gets the next good one."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest
from prometheus_client import REGISTRY

from gateway.exceptions import MessageTooLarge
from gateway.layers.dropped import DropLog
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.layers.redis.group_log import RedisGroupLog
from tests.support.redis import RedisServer
from tests.support.waiting import until

Layer = RedisPubSubChannelLayer | RedisChannelLayer

NOT_MESSAGES = [
    b"",
    b"short",
    b"x" * 100,
    b"\x93\1\2\3",
    b'{"type"',
    msgpack.packb(["no", "dict"]),
    msgpack.packb({"type": "m", "__asgi_channel__": 7}),
    msgpack.packb({"type": "m", "__asgi_channel__": ["one", "two"]}),  # as channels_redis writes
    msgpack.packb({"type": "m", "__asgi_group__": ["one"]}),
    b"\x91" * 2000,
    json.dumps({"type": "m"}).encode(),
    msgpack.packb({"type": "m", "text": "x" * 2000}),  # too large
]
LIMIT = 1000


@pytest.fixture(params=["pubsub", "redis"])
async def make_layer(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[Callable[..., Layer]]:
    prefix = f"test-{uuid.uuid4().hex}"
    made: list[Layer] = []
    layer_class = RedisPubSubChannelLayer if request.param == "pubsub" else RedisChannelLayer

    def make(**options: Any) -> Layer:
        made.append(layer_class(hosts=[redis_server.url], prefix=prefix, **options))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


def write(server: RedisServer, layer: Layer, channel: str, payload: bytes) -> None:
    """Puts `payload` where the messages of `channel` come from."""
    with server.client() as client:
        if isinstance(layer, RedisPubSubChannelLayer):
            client.publish(layer.channel_key(channel), bytes(8) + payload)
        else:
            deadline = f"{int((time.time() + 60) * 1000):013d}".encode()
            client.rpush(layer.queue_key(channel), deadline + payload)


def dropped(*reasons: str) -> float:
    return sum(REGISTRY.get_sample_value("gateway_layer_dropped_total", {"reason": r}) or 0 for r in reasons)


async def receive(layer: Layer, channel: str) -> dict[str, Any]:
    return await asyncio.wait_for(layer.receive(channel), 60)


class TestWhatIsNoMessage:
    @pytest.mark.parametrize("named", [True, False], ids=["a name", "a channel of the process"])
    async def test_what_is_no_message_is_counted_and_skipped(
        self, make_layer: Callable[..., Layer], redis_server: RedisServer, named: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader = make_layer(max_message_bytes=LIMIT)
        reader.drops = DropLog(interval_s=3600)
        channel = "jobs" if named else await reader.new_channel()
        got: list[dict[str, Any]] = []
        reader.attach(channel, got.append)
        await reader.check()
        before = dropped("undecodable"), dropped("too_large")
        if named:  # attaching does not wait for the subscription
            async with asyncio.timeout(60):
                while not got:
                    await make_layer().send(channel, {"type": "hello"})
                    await asyncio.sleep(0.05)
        count = len(got)

        with caplog.at_level(logging.INFO, "gateway.layer"):
            for payload in NOT_MESSAGES:
                write(redis_server, reader, channel, payload)
            await make_layer().send(channel, {"type": "good"})

            await until(lambda: got[count:] != [] and got[-1] == {"type": "good"})
        assert all(message["type"] == "hello" for message in got[:-1])
        assert dropped("too_large") - before[1] == 2
        assert dropped("undecodable") - before[0] == len(NOT_MESSAGES) - 2
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 1
        assert lines[0].startswith("messages dropped: 1 undecodable; the last for ")

    async def test_encrypted_with_another_key_or_not_at_all(self, make_layer: Callable[..., Layer]) -> None:
        reader = make_layer(symmetric_encryption_keys=["new", "old"])
        channel = await reader.new_channel()
        before = dropped("undecodable")

        await make_layer(symmetric_encryption_keys=["stranger's"]).send(channel, {"type": "bad"})
        await make_layer().send(channel, {"type": "bad"})
        await make_layer(symmetric_encryption_keys=["old"]).send(channel, {"type": "good"})

        assert await receive(reader, channel) == {"type": "good"}
        # The three come over connections of their own, in any order.
        await until(lambda: dropped("undecodable") - before == 2)


class TestTheSizeLimit:
    async def test_a_message_over_it_is_the_senders_error(self, make_layer: Callable[..., Layer]) -> None:
        layer = make_layer(max_message_bytes=LIMIT)
        channel = await layer.new_channel()
        big = {"type": "big.one", "text": "x" * LIMIT}
        error = r"a message of type 'big\.one' has 1,\d+ bytes, and the option max_message_bytes is 1,000"
        await layer.group_add("group", channel)

        for send in (layer.send(channel, big), layer.send("name", big), layer.group_send("group", big)):
            with pytest.raises(MessageTooLarge, match=error):
                await send
        with pytest.raises(MessageTooLarge, match=error):
            await asyncio.to_thread(layer.sync.send, channel, big)

        await layer.group_send("group", {"type": "small"})
        assert await receive(layer, channel) == {"type": "small"}

    async def test_a_log_takes_no_message_that_its_members_could_not_get(
        self, make_layer: Callable[..., Layer]
    ) -> None:
        layer = make_layer(max_message_bytes=LIMIT)
        log = RedisGroupLog(layer)

        with pytest.raises(MessageTooLarge):
            await log.send("group", {"type": "m", "text": "x" * (LIMIT - 50)})

        assert (await log.read("group", await log.end("group"))).messages == []
        await log.close()


@pytest.mark.parametrize("make_layer", ["redis"], indirect=True)
class TestAQueue:
    async def test_whose_key_is_no_queue_is_tried_again_and_again_but_logged_twice_at_most(
        self,
        make_layer: Callable[..., RedisChannelLayer],
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        layer = make_layer()
        with redis_server.client() as client:
            client.set(layer.queue_key("jobs"), b"a string")
            reader = asyncio.create_task(receive(layer, "jobs"))
            await asyncio.sleep(1.5)
            client.delete(layer.queue_key("jobs"))

        await layer.send("jobs", {"type": "good"})

        assert await reader == {"type": "good"}
        assert 1 <= caplog.text.count("WRONGTYPE") <= 2

    async def test_a_queue_with_elements_that_have_no_deadline_is_read_on_and_sent_to(
        self, make_layer: Callable[..., RedisChannelLayer], redis_server: RedisServer
    ) -> None:
        layer = make_layer()
        before = dropped("undecodable")
        with redis_server.client() as client:
            client.rpush(layer.queue_key("jobs"), b"", b"no deadline", b"x" * 100)

        await layer.send("jobs", {"type": "good"})

        assert await receive(layer, "jobs") == {"type": "good"}
        assert dropped("undecodable") - before == 3
