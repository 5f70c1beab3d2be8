"""Layers, logs of groups and presence from synchronous code: threads, scripts, tasks of a worker that forks."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from gateway import mqtt
from gateway.generic.presence import Presence
from gateway.layers import BaseChannelLayer, channel_layers
from gateway.layers.group_log import START, GroupLog
from gateway.layers.manager import make_group_log, make_presence
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.mqtt.relay import relayed_to_broker
from tests.support.layers import MakeLayer
from tests.support.redis import RedisServer

TIMEOUT_S = 60


async def receive(layer: BaseChannelLayer, channel: str) -> dict[str, Any]:
    return await asyncio.wait_for(layer.receive(channel), TIMEOUT_S)


class TestTheLogOfAGroup:
    async def test_the_log_of_a_group_is_sent_to_and_read_from_threads(self, make_layer: MakeLayer) -> None:
        layer = make_layer()
        log = make_group_log(layer)
        channel = await layer.new_channel()
        await layer.group_add("g", channel)

        sent = [await asyncio.to_thread(log.sync.send, "g", {"type": "m", "n": n}) for n in range(3)]
        last = await log.send("g", {"type": "m", "n": 3})

        assert [position.number for position, *_ in [*sent, last]] == [1, 2, 3, 4]
        assert [(await receive(layer, channel))["n"] for _ in range(4)] == [0, 1, 2, 3]
        replay = await asyncio.to_thread(log.sync.read, "g", sent[1].position)
        assert replay == await log.read("g", sent[1].position)
        assert [message["n"] for message in replay.messages] == [2, 3]
        assert await asyncio.to_thread(log.sync.end, "g") == last.position
        log.sync.close()
        await log.close()

    async def test_the_log_of_a_group_says_what_a_thread_has_missed(self, make_layer: MakeLayer) -> None:
        log = make_group_log(make_layer(), length=2)
        first = log.sync.send("g", {"type": "m"})
        for _ in range(3):
            log.sync.send("g", {"type": "m"})

        assert log.sync.read("g", first.position).gap
        log.sync.close()


class TestPublishing:
    async def test_a_message_published_in_a_thread_reaches_every_broker_on_the_layer(
        self, make_layer: MakeLayer
    ) -> None:
        layer, published = make_layer(), asyncio.Queue[tuple[str, bytes, int, bool]]()

        class Broker:
            def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
                published.put_nowait((topic, payload, qos, retain))

        before = channel_layers.set("default", layer)
        try:
            async with relayed_to_broker(make_layer(), Broker()), relayed_to_broker(make_layer(), Broker()):
                await asyncio.to_thread(mqtt.publish_sync, "home/lamp", "on", qos=1, retain=True)
                async with asyncio.timeout(TIMEOUT_S):
                    received = [await published.get() for _ in range(2)]
        finally:
            channel_layers.set("default", before)  # type: ignore[arg-type]

        assert received == [("home/lamp", b"on", 1, True)] * 2


class TestPresence:
    async def test_members_are_told_to_threads(self, make_layer: MakeLayer) -> None:
        presence = make_presence(make_layer())
        entry = await presence.enter("g", {"user": "ann"})
        await presence.enter("g", {"user": "bob"})

        members = await asyncio.to_thread(presence.sync.members, "g")

        assert members == await presence.members("g")
        assert sorted(member.data["user"] for member in members) == ["ann", "bob"]
        await presence.leave(entry)
        assert [member.data["user"] for member in presence.sync.members("g")] == ["bob"]
        presence.sync.close()
        await presence.close()


def wait_until_alone(client: "redis.Redis") -> None:
    """Returns when the server has noticed that all other connections are closed."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(client.client_list()) > 1:
        assert time.monotonic() < deadline, client.client_list()
        time.sleep(0.01)


@pytest.fixture(params=[RedisPubSubChannelLayer, RedisChannelLayer])
def layer(request: pytest.FixtureRequest, own_redis_server: RedisServer) -> BaseChannelLayer:
    """One on a server that nobody else uses; also with an option that makes plain clients return text."""
    made: BaseChannelLayer = request.param(hosts=[{"address": own_redis_server.url, "decode_responses": True}])
    return made


@pytest.fixture
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


@pytest.mark.usefixtures("strict")
class TestShortLivedLoops:
    def test_leave_no_connection_and_no_complaint(
        self, layer: BaseChannelLayer, own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        log: GroupLog = make_group_log(layer)
        presence: Presence = make_presence(layer, lease_s=600)

        def script() -> None:
            async_to_sync(log.send)("g", {"type": "m"})
            assert async_to_sync(log.read)("g", START).messages
            async_to_sync(presence.enter)("g", {"user": "ann"})
            assert async_to_sync(presence.members)("g")

        for _ in range(3):
            script()
            thread = threading.Thread(target=script)
            thread.start()
            thread.join()

        assert log.sync.end("g").number == 6
        assert len(presence.sync.members("g")) == 6  # each loop was a process, whose lease is not over
        log.sync.close()
        presence.sync.close()
        gc.collect()
        with own_redis_server.client() as client:
            wait_until_alone(client)
        assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


FORKING = """
import multiprocessing, sys
import django
from django.conf import settings
settings.configure(CHANNEL_LAYERS={"default": {
    "BACKEND": sys.argv[1], "CONFIG": {"hosts": [sys.argv[2]], "prefix": sys.argv[3]}
}})
django.setup()
from asgiref.sync import async_to_sync
from gateway.layers import get_channel_layer
from gateway.layers.manager import group_log

def task(name):
    layer = get_channel_layer()
    for n in range(5):
        layer.sync.group_send("g", {"type": "m", "from": name})
        async_to_sync(layer.group_send)("g", {"type": "m", "from": name})
        group_log().sync.send("g", {"type": "m", "from": name})

task("parent")
context = multiprocessing.get_context("fork")
children = [context.Process(target=task, args=(f"child {n}",)) for n in range(2)]
for child in children:
    child.start()
for child in children:
    child.join()
task("parent")
sys.exit(any(child.exitcode for child in children))
"""


@pytest.mark.parametrize("layer_class", [RedisPubSubChannelLayer, RedisChannelLayer])
async def test_a_process_that_has_used_a_layer_may_fork(redis_server: RedisServer, layer_class: Any) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    layer = layer_class(hosts=[redis_server.url], prefix=prefix)
    channel = await layer.new_channel()
    got: list[dict[str, Any]] = []
    layer.attach(channel, got.append)
    await layer.group_add("g", channel)
    path = f"{layer_class.__module__}.{layer_class.__qualname__}"

    script = [sys.executable, "-W", "error", "-c", FORKING, path, redis_server.url, prefix]
    done = await asyncio.to_thread(subprocess.run, script, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    async with asyncio.timeout(TIMEOUT_S):
        while len(got) < 60:
            await asyncio.sleep(0.01)
    senders = [message["from"] for message in got]
    assert {name: senders.count(name) for name in set(senders)} == {"parent": 30, "child 0": 15, "child 1": 15}
    await layer.close()
